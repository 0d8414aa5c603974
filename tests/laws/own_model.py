"""A network as a user might write it: grouped convolution, batch normalisation, dropout as layers and as functions."""

import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """8x8 grey images to logits."""

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(image_shape[0], 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, 24, 3, stride=2, padding=1, groups=3, bias=False),
            nn.BatchNorm2d(24, affine=False),
            nn.SiLU(),
            nn.Dropout2d(0.1),
        )
        self.norm = nn.GroupNorm(4, 24)
        self.hidden = nn.Linear(24, 20)
        self.squash = nn.BatchNorm1d(20)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(20, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.features(images)).mean((2, 3))
        x = F.dropout(F.gelu(self.squash(self.hidden(x))), 0.1, self.training)
        logits: Tensor = self.head(self.drop(x))
        return logits


class Doubles(Net):
    """The same, with logits in double precision."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images).double()
        return logits
