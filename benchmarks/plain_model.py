"""Residual networks as anybody would write them in PyTorch, to compare widestep's with. He et al., arXiv 1512.03385."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_IMAGENET = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class _Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1; added to the input, which is projected where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool, projects: bool) -> None:
        super().__init__()
        outputs = width * (4 if bottleneck else 1)
        sizes = ((inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1))
        layers = sizes if bottleneck else ((inputs, width, 3, stride), (width, outputs, 3, 1))
        parts: list[nn.Module] = []
        for layer in layers:
            parts += [_convolution(*layer), nn.BatchNorm2d(layer[1]), nn.ReLU(inplace=True)]
        self.residual = nn.Sequential(*parts[:-1])
        self.stride, self.grown = stride, outputs - inputs
        self.shortcut: nn.Module | None = None
        if projects and (stride > 1 or self.grown):
            self.shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return an image of `outputs` channels, smaller by the stride."""
        residual: Tensor = self.residual(x)
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.grown:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.grown))
        return F.relu(residual + x, inplace=True)


class PlainResNet(nn.Module):
    """`resnet18`, `resnet50`, `cifar-resnet20` (and 32, 44, 56) or `digits-resnet` for images of some channels."""

    def __init__(self, name: str, num_classes: int, channels: int) -> None:
        super().__init__()
        photographs = name in _IMAGENET
        bottleneck = photographs and _IMAGENET[name][1]
        width = 64 if photographs else 8 if name == "digits-resnet" else 16
        blocks: tuple[int, ...]
        if photographs:
            blocks = _IMAGENET[name][0]
        elif name == "digits-resnet":
            blocks = (1, 1)
        else:
            blocks = ((int(name.removeprefix("cifar-resnet")) - 2) // 6,) * 3
        stem: list[nn.Module] = [_convolution(channels, width, 7, 2) if photographs else _convolution(channels, width, 3)]
        stem += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers = [*stem, nn.MaxPool2d(3, 2, 1)] if photographs else stem
        held = width
        for stage, count in enumerate(blocks):
            for index in range(count):
                stride = 2 if stage and not index else 1
                layers.append(_Block(held, width << stage, stride, bottleneck, not name.startswith("cifar")))
                held = (width << stage) * (4 if bottleneck else 1)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(held, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes)."""
        logits: Tensor = self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(images), 1), 1))
        return logits
