"""Layers that hold T trials side by side as channel groups and keep the batch statistics of k workers apart.

Slot t of a tensor whose first (parameters) or second (activations) dimension is T*C is its t-th piece of length C. No
number of one slot ever meets a number of another, so trials that share a model do not influence one another.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from widestep.errors import UsageError
from widestep.models.block import BatchStatistics, BlockContext


def slot_view(tensor: Tensor, slot: int, num_slots: int) -> Tensor:
    """Return the piece of a parameter or buffer (T*C, ...) that belongs to one slot: (C, ...), detached, same memory."""
    assert 0 <= slot < num_slots
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
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.num_slots = stride, padding, num_slots
        self.weight = nn.Parameter(torch.zeros(num_slots * out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(num_slots * out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve every slot with its own weight."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.num_slots)


class StackedLinear(nn.Module):
    """T linear maps side by side: (N, T*in) -> (N, T, out).

    The weight has shape (T*out, in), the bias (T*out,); both are zero until initialised.
    """

    def __init__(self, in_features: int, out_features: int, num_slots: int) -> None:
        super().__init__()
        self.num_slots = num_slots
        self.weight = nn.Parameter(torch.zeros(num_slots * out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(num_slots * out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map the features of every slot by its own weight: one batched matrix product over the slots."""
        features = x.unflatten(1, (self.num_slots, -1)).transpose(0, 1)
        weight = self.weight.unflatten(0, (self.num_slots, -1)).transpose(1, 2)
        bias = self.bias.unflatten(0, (self.num_slots, 1, -1))
        return torch.baddbmm(bias, features, weight).transpose(0, 1)


class WorkerBatchNorm2d(nn.Module):
    """Batch normalisation over the images of one worker at a time (statement B1, `local`).

    In training mode the activations (N, T*C, H, W) of k workers, worker-fastest, are seen as (N/k, k*T*C, H, W): without
    a copy, every worker has its own channels, and one ordinary batch normalisation serves all workers and slots. What
    it measured is recorded in the context. The running statistics are used in evaluation mode only and are *not*
    updated here: one update a step, whatever the number of forward passes, is the trainer's affair (statement B2).

    Parameters
    ----------
    num_features
        C: channels of one slot. Scale `weight`, shift `bias`, `running_mean` and `running_var` have shape (T*C,).
    num_slots
        T.
    context
        Says how many workers are in the batch and receives their statistics.
    eps
        Added to the variance under the root.

    Raises
    ------
    UsageError
        In training mode, when a worker has a single value a channel: its variance says nothing.

    Notes
    -----
    y = weight * (x - mean) / sqrt(variance + eps) + bias with the biased variance, as in Ioffe and Szegedy, "Batch
    normalization", 2015, algorithm 1; the recorded variance is the unbiased one (statement B4). Unlike
    `torch.nn.BatchNorm2d` there is no `num_batches_tracked`: that counter serves cumulative averages only, and a run
    knows its steps. With T = k = 1 the arithmetic is that of `torch.nn.BatchNorm2d`.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, num_slots: int, context: BlockContext, eps: float = 1e-5) -> None:
        super().__init__()
        self.context, self.eps = context, eps
        self.layer_number = context.register_batch_norm()
        num_channels = num_slots * num_features
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with each worker's own statistics (training) or with the running ones (evaluation)."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        num_workers = self.context.num_workers
        num_images, num_channels, height, width = x.shape
        if num_images * height * width == num_workers:
            raise UsageError(
                "In training, batch normalisation needs at least two values a channel for every worker; got one image of "
                "1x1 pixels at one of its layers. Give every worker at least two images, or use larger images."
            )
        shape = (num_images // num_workers, num_workers * num_channels, height, width)
        # With momentum 1 the "running" statistics come out as exactly those of this batch, variance unbiased.
        mean, variance = self.running_mean.new_zeros(2, shape[1])
        y = F.batch_norm(
            x.reshape(shape),
            mean,
            variance,
            self._for_all_workers(self.weight, num_workers),
            self._for_all_workers(self.bias, num_workers),
            training=True,
            momentum=1.0,
            eps=self.eps,
        )
        by_worker = (num_workers, num_channels)
        self.context.record(self.layer_number, BatchStatistics(mean.view(by_worker), variance.view(by_worker)))
        return y.view(x.shape)

    @staticmethod
    def _for_all_workers(parameter: Tensor, num_workers: int) -> Tensor:
        """Repeat (T*C,) for every worker: (k*T*C,); for k = 1 no copy is made."""
        return parameter.expand(num_workers, -1).reshape(-1)


class KeyedDropout(nn.Module):
    """Dropout on features (N, T*C) whose random numbers are handed in, so that no generator has a state (statement D4).

    In training mode a feature is kept where its uniform is at least `rate`, and divided by 1 - rate; otherwise it
    becomes 0. With rate 0 no numbers are asked for. In evaluation mode nothing happens.

    Parameters
    ----------
    rate
        Probability of dropping a feature, in [0, 1).
    context
        Provides the uniforms of this forward pass.
    layer_number
        Tells the dropout layers of one model apart.
    num_slots
        T.
    """

    def __init__(self, rate: float, context: BlockContext, layer_number: int, num_slots: int) -> None:
        super().__init__()
        assert 0 <= rate < 1
        self.rate, self.context, self.layer_number, self.num_slots = rate, context, layer_number, num_slots

    def forward(self, x: Tensor) -> Tensor:
        """Drop features in training mode."""
        if not self.training or self.rate == 0:
            return x
        assert self.context.dropout_uniforms is not None, "dropout needs uniforms in training: see BlockContext.begin"
        width = x.shape[1] // self.num_slots
        uniforms = self.context.dropout_uniforms(self.layer_number, width)
        assert uniforms.shape == (x.shape[0], self.num_slots, width)
        return torch.where(uniforms.flatten(1) >= self.rate, x / (1 - self.rate), 0.0)
