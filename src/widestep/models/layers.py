"""Layers that hold T trials side by side as channel groups.

Slot t of a tensor whose first (parameters) or second (activations) dimension is T*C is its t-th piece of length C. No
number of one slot ever meets a number of another, so trials that share a model do not influence one another. Where the
workers' own gradients are wanted, the context hands out a copy of the weights for every worker, and the k workers of a
block become groups of channels in the same way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from widestep.models.block import BlockContext


def slot_view(tensor: Tensor, slot: int, num_slots: int) -> Tensor:
    """Return the piece of a parameter or buffer (T*C, ...) that belongs to one slot: (C, ...), detached, same memory."""
    assert 0 <= slot < num_slots
    if num_slots == 1:
        return tensor.detach()
    size = tensor.shape[0] // num_slots
    return tensor.detach().narrow(0, slot * size, size)


class StackedConv2d(nn.Module):
    """T convolutions side by side: (N, T*in, H, W) -> (N, T*out, H', W') as one convolution of T groups.

    Parameters
    ----------
    in_channels, out_channels
        Channels of one slot. The weight has shape (T*out, in, kernel_size, kernel_size); it is zero until initialised.
    kernel_size, stride, padding
        In pixels, the same for both axes.
    num_slots
        T.
    context
        Says whether every worker has its own copy of the weight: then there are k*T groups.
    bias
        Whether to add a bias of shape (T*out,); not needed before a batch normalisation.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
        *,
        num_slots: int,
        context: BlockContext,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.num_slots, self.context = stride, padding, num_slots, context
        self.weight = nn.Parameter(torch.zeros(num_slots * out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(num_slots * out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve every slot with its own weight, or every slot of every worker with the worker's copy."""
        copies = self.context.num_copies if self.training else 1
        if copies == 1:
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.num_slots)
        weight = self.context.weight(self.weight)
        bias = None if self.bias is None else self.context.weight(self.bias)
        num_images, num_channels, height, width = x.shape
        x = x.reshape(num_images // copies, copies * num_channels, height, width)
        y = F.conv2d(x, weight, bias, self.stride, self.padding, groups=copies * self.num_slots)
        return y.reshape(num_images, -1, *y.shape[2:])


class StackedLinear(nn.Module):
    """T linear maps side by side: (N, T*in) -> (N, T, out).

    The weight has shape (T*out, in), the bias (T*out,); both are zero until initialised.
    """

    def __init__(self, in_features: int, out_features: int, num_slots: int, context: BlockContext) -> None:
        super().__init__()
        self.num_slots, self.context = num_slots, context
        self.weight = nn.Parameter(torch.zeros(num_slots * out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(num_slots * out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map the features of every slot by its own weight: one batched matrix product over slots (and workers' copies)."""
        copies = self.context.num_copies if self.training else 1
        if copies == 1:
            return self._mapped(x, self.weight, self.bias, self.num_slots)
        weight, bias = self.context.weight(self.weight), self.context.weight(self.bias)
        y = self._mapped(x.reshape(x.shape[0] // copies, -1), weight, bias, copies * self.num_slots)
        return y.reshape(x.shape[0], self.num_slots, -1)

    @staticmethod
    def _mapped(x: Tensor, weight: Tensor, bias: Tensor, num_maps: int) -> Tensor:
        features = x.unflatten(1, (num_maps, -1)).transpose(0, 1)
        weight = weight.unflatten(0, (num_maps, -1)).transpose(1, 2)
        return torch.baddbmm(bias.unflatten(0, (num_maps, 1, -1)), features, weight).transpose(0, 1)
