"""Residual networks from a table: stem, stages of residual blocks, global mean, dropout, linear classifier."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from widestep.models.batchnorm import WorkerBatchNorm
from widestep.models.block import BlockContext
from widestep.models.dropout import KeyedDropout
from widestep.models.initialise import initialise
from widestep.models.layers import StackedConv2d, StackedLinear, slot_view
from widestep.models.stacked import StackedModel


@dataclass(frozen=True)
class LayerMaker:
    """Makes the layers of one model, which share the number of slots and the block context."""

    num_slots: int
    context: BlockContext

    def convolution(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> StackedConv2d:
        """Make a convolution without bias that keeps the image size apart from its stride."""
        return StackedConv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, num_slots=self.num_slots, context=self.context
        )

    def norm(self, num_features: int) -> WorkerBatchNorm:
        """Make a batch normalisation."""
        return WorkerBatchNorm(self.num_slots * num_features, self.context)


class SubsampleShortcut(nn.Module):
    """Shortcut without parameters: every `stride`-th pixel, and channels of zeros appended to every slot.

    Option A of He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016, section 3.3.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, num_slots: int) -> None:
        super().__init__()
        self.num_new_channels, self.stride, self.num_slots = out_channels - in_channels, stride, num_slots

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and widen: (N, T*in, H, W) -> (N, T*out, ceil(H/stride), ceil(W/stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        if self.num_slots == 1:  # in four dimensions padding leaves channels last where they are
            return F.pad(x, (0, 0, 0, 0, 0, self.num_new_channels))
        slots = x.unflatten(1, (self.num_slots, -1))
        return F.pad(slots, (0, 0, 0, 0, 0, self.num_new_channels)).flatten(1, 2)


class ResidualBlock(nn.Module, ABC):
    """relu(residual(x) + shortcut(x)); a subclass defines the residual.

    Parameters
    ----------
    in_channels
        Channels of x in one slot.
    width
        Channels of the 3x3 convolutions in one slot; the block returns `width * expansion` channels.
    stride
        1, or 2 to halve the image.
    projects
        Whether a shortcut that must change shape is a 1x1 convolution with batch normalisation (option B of He et al.)
        or has no parameters (option A). Where the shape stays, the shortcut is the identity.
    make
        Makes the layers.
    """

    expansion: int

    def __init__(self, in_channels: int, width: int, stride: int, projects: bool, make: LayerMaker) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self._make_residual(in_channels, width, stride, make)
        self.downsample: nn.Module
        if stride == 1 and in_channels == out_channels:
            self.downsample = nn.Identity()
        elif projects:
            self.downsample = nn.Sequential(make.convolution(in_channels, out_channels, 1, stride), make.norm(out_channels))
        else:
            self.downsample = SubsampleShortcut(in_channels, out_channels, stride, make.num_slots)

    @property
    @abstractmethod
    def last_norm(self) -> WorkerBatchNorm:
        """The batch normalisation whose scale zero-gamma sets to 0, which makes the residual 0 (statement B6)."""

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual to the shortcut."""
        shortcut: Tensor = self.downsample(x)
        return F.relu(self._residual(x) + shortcut)

    @abstractmethod
    def _make_residual(self, in_channels: int, width: int, stride: int, make: LayerMaker) -> None:
        """Make the layers of the residual."""

    @abstractmethod
    def _residual(self, x: Tensor) -> Tensor:
        """Compute the residual, before the addition."""


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; the first has the stride."""

    expansion = 1

    def _make_residual(self, in_channels: int, width: int, stride: int, make: LayerMaker) -> None:
        self.conv1 = make.convolution(in_channels, width, 3, stride)
        self.bn1 = make.norm(width)
        self.conv2 = make.convolution(width, width, 3)
        self.bn2 = make.norm(width)

    @property
    def last_norm(self) -> WorkerBatchNorm:
        """The second batch normalisation."""
        return self.bn2

    def _residual(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        residual: Tensor = self.bn2(self.conv2(x))
        return residual


class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1 convolutions; the 3x3 has the stride ("v1.5", as in Goyal et al. 2017), the last widens fourfold."""

    expansion = 4

    def _make_residual(self, in_channels: int, width: int, stride: int, make: LayerMaker) -> None:
        self.conv1 = make.convolution(in_channels, width, 1)
        self.bn1 = make.norm(width)
        self.conv2 = make.convolution(width, width, 3, stride)
        self.bn2 = make.norm(width)
        self.conv3 = make.convolution(width, width * self.expansion, 1)
        self.bn3 = make.norm(width * self.expansion)

    @property
    def last_norm(self) -> WorkerBatchNorm:
        """The third batch normalisation."""
        return self.bn3

    def _residual(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        residual: Tensor = self.bn3(self.conv3(x))
        return residual


@dataclass(frozen=True)
class Stage:
    """Residual blocks of equal width; the first has the stride."""

    num_blocks: int
    width: int
    stride: int


@dataclass(frozen=True)
class Architecture:
    """The table entry of a residual network; channels are those of one slot."""

    block: type[ResidualBlock]
    stages: tuple[Stage, ...]
    stem_channels: int
    smallest_side: int
    """Fewest pixels a side of its images: fewer than the product of all strides would leave no pixel of its own to a
    position of the last feature map."""
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pools: bool = False
    """Whether a 3x3 max-pooling of stride 2 follows the first convolution."""
    projects: bool = True
    """Whether shortcuts that change shape have parameters (see `ResidualBlock`)."""


class ResidualNetwork(StackedModel):
    """The network of a table entry, with T slots.

    Modules are called conv1, bn1, layer1.0.conv1, ..., layer1.0.downsample.0, ..., fc: the public naming scheme of
    ResNets in PyTorch, so that weights can be exchanged. Weights are zero until `initialise` was called for each slot.

    Parameters
    ----------
    architecture
        The table entry.
    num_classes
        Logits a slot.
    num_channels
        Image channels a slot.
    num_slots
        T.
    dropout
        Rate of dropout before the classifier, in [0, 1).
    """

    def __init__(
        self, architecture: Architecture, num_classes: int, num_channels: int, num_slots: int, dropout: float
    ) -> None:
        super().__init__(BlockContext(), num_slots)
        make = LayerMaker(num_slots, self.context)
        channels = architecture.stem_channels
        self.conv1 = make.convolution(num_channels, channels, architecture.stem_kernel, architecture.stem_stride)
        self.bn1 = make.norm(channels)
        self.stem_pools = architecture.stem_pools
        self.num_stages = len(architecture.stages)
        for number, stage in enumerate(architecture.stages, start=1):
            blocks = []
            for index in range(stage.num_blocks):
                stride = stage.stride if index == 0 else 1
                blocks.append(architecture.block(channels, stage.width, stride, architecture.projects, make))
                channels = stage.width * architecture.block.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.dropout = KeyedDropout(dropout, self.context, num_slots)
        self.fc = StackedLinear(channels, num_classes, num_slots, self.context)

    def initialise(self, slot: int, key: int, zero_gamma: bool = False, classifier_std: float | None = None) -> None:
        """Give one slot its initial weights and statistics (see `initialise` for the distributions)."""
        initialise(self, slot, torch.Generator().manual_seed(key), classifier_std)
        for module in self.modules():
            if zero_gamma and isinstance(module, ResidualBlock):
                assert module.last_norm.weight is not None
                slot_view(module.last_norm.weight, slot, self.num_slots).zero_()

    def compute(self, images: Tensor) -> Tensor:
        """Compute logits (N, T, num_classes)."""
        assert not self.training or images.shape[0] % self.context.num_groups == 0
        x = F.relu(self.bn1(self.conv1(images)))
        if self.stem_pools:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for number in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        logits: Tensor = self.fc(self.dropout(x.mean((2, 3))))
        return logits


def _imagenet(block: type[ResidualBlock], *blocks_of_stages: int) -> Architecture:
    stages = tuple(
        Stage(num_blocks, 64 * 2**index, stride=1 if index == 0 else 2) for index, num_blocks in enumerate(blocks_of_stages)
    )
    return Architecture(block, stages, stem_channels=64, smallest_side=32, stem_kernel=7, stem_stride=2, stem_pools=True)


IMAGENET_RESNETS = {
    "resnet18": _imagenet(BasicBlock, 2, 2, 2, 2),
    "resnet34": _imagenet(BasicBlock, 3, 4, 6, 3),
    "resnet50": _imagenet(Bottleneck, 3, 4, 6, 3),
    "resnet101": _imagenet(Bottleneck, 3, 4, 23, 3),
    "resnet152": _imagenet(Bottleneck, 3, 8, 36, 3),
}
"""He et al. 2016, table 1, with the stride of a bottleneck in its 3x3 convolution."""
