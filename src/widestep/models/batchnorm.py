"""Batch normalisation that keeps the statistics of workers, or of groups of workers, apart."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from widestep.errors import UsageError
from widestep.models.block import BatchStatistics, BlockContext


class WorkerBatchNorm(nn.Module):
    """Batch normalisation over the images of one group of workers at a time (statement B1): a worker, mostly.

    In training mode the activations (N, T*C, ...) of k groups, group-fastest, are seen as (N/k, k*T*C, ...): without a
    copy, every group has its own channels, and one ordinary batch normalisation serves all groups and slots. What it
    measured is recorded in the context. The running statistics are used in evaluation mode only and are *not* updated
    here: one update a step, whatever the number of forward passes, is the trainer's affair (statement B2).

    Parameters
    ----------
    num_channels
        T*C. Scale `weight`, shift `bias`, `running_mean` and `running_var` have shape (T*C,).
    context
        Says how many groups are in the block and receives their statistics.
    eps
        Added to the variance under the root.

    Raises
    ------
    UsageError
        When there is a single value a channel to take statistics from: its variance says nothing.

    Notes
    -----
    y = weight * (x - mean) / sqrt(variance + eps) + bias with the biased variance, as in Ioffe and Szegedy, "Batch
    normalization", 2015, algorithm 1; the recorded variance is the unbiased one (statement B4). Unlike
    `torch.nn.BatchNorm2d` there is no `num_batches_tracked`: that counter serves cumulative averages only, and a run
    knows its steps. With T = k = 1 the arithmetic is that of `torch.nn.BatchNorm2d`.

    Layers that were torch's own (see `adopt`) may lack scale, shift or running statistics. Without running statistics a
    layer records nothing and normalises with the statistics of the images at hand in evaluation, too, all of them together.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    layer_number: int | None
    """Place among the layers that record; None without running statistics."""

    def __init__(self, num_channels: int, context: BlockContext, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_channels, self.context, self.eps = num_channels, context, eps
        self.layer_number = context.register_batch_norm()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    @classmethod
    def adopt(cls, norm: _BatchNorm, context: BlockContext) -> None:
        """Turn one of torch's layers into this one where it is: all who refer to it keep it, with its parameters and eps.

        The layer's own momentum counts no more: the recipe's `batchnorm_momentum` does.
        """
        norm._buffers.pop("num_batches_tracked", None)
        norm.__class__ = cls  # type: ignore[assignment]
        adopted = cast(WorkerBatchNorm, norm)
        adopted.num_channels, adopted.context = norm.num_features, context
        adopted.layer_number = None if adopted.running_mean is None else context.register_batch_norm()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with each group's own statistics (training) or with the running ones (evaluation)."""
        if not self.training:
            if self.running_mean is None:
                self._check_values(x, 1)
                return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        num_groups = self.context.num_groups
        self.context.check_images_first(x)
        self._check_values(x, num_groups)
        mean, variance = None, None
        if self.running_mean is not None:
            # With momentum 1 the "running" statistics come out as exactly those of this block, variance unbiased.
            mean, variance = self.running_mean.new_zeros(2, num_groups * self.num_channels)
        y = F.batch_norm(
            x.reshape(x.shape[0] // num_groups, num_groups * x.shape[1], *x.shape[2:]),
            mean,
            variance,
            self._for_groups(self.weight, num_groups),
            self._for_groups(self.bias, num_groups),
            training=True,
            momentum=1.0,
            eps=self.eps,
        )
        if self.layer_number is not None and mean is not None and variance is not None:
            shape = (num_groups, self.num_channels)
            num_values = x.numel() // mean.numel()
            self.context.record(self.layer_number, BatchStatistics(mean.view(shape), variance.view(shape), num_values))
        return y.reshape(x.shape)

    def _for_groups(self, parameter: Tensor | None, num_groups: int) -> Tensor | None:
        """Repeat (C,) for every group, (k*C,), unless the workers have their copies; for k = 1 nothing is copied."""
        if parameter is None:
            return None
        weight = self.context.weight(parameter)
        if weight.shape[0] == num_groups * self.num_channels:
            return weight
        return weight.expand(num_groups, -1).reshape(-1)

    @staticmethod
    def _check_values(x: Tensor, num_groups: int) -> None:
        if x.numel() <= num_groups * x.shape[1]:
            raise UsageError(
                "Batch normalisation needs at least two values a channel for every worker; got one image of 1x1 pixels at "
                "one of its layers. Give every worker at least two images, or use larger images."
            )
