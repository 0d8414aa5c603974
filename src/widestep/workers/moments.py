"""What the batch normalisations of a global batch measured, as sums that travel with the gradient.

Every group of workers that is normalised together (one worker each, unless the recipe says otherwise) measures a mean and a
variance per channel. Policies of running statistics (statement B3) want different things of them, and all of it can be had
from sums over the groups: so sums are what processes exchange.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from widestep.models.block import BatchStatistics
from widestep.models.stacked import StackedModel


@dataclass(frozen=True)
class StepMoments:
    """Means and unbiased variances of one global batch, each of shape (T, M): M channels of all batch normalisations.

    Parameters
    ----------
    mean, variance
        Averaged over the groups that had images.
    pooled_mean, pooled_variance
        Of all groups' values together: the variance of the groups' means is added to the mean of their variances.
    first_mean, first_variance
        Of the group that worker 0 belongs to.
    """

    mean: Tensor
    variance: Tensor
    pooled_mean: Tensor
    pooled_variance: Tensor
    first_mean: Tensor
    first_variance: Tensor

    def finite(self) -> Tensor:
        """Say of every slot whether all its moments are finite: shape (T,), left on the device.

        Zero times a finite number is 0, times any other NaN, and so is the sum.
        """
        return torch.cat((self.mean, self.variance, self.pooled_variance), dim=1).mul_(0.0).sum(1) == 0


class MomentSums:
    """Packs what one block measured into a row of sums a slot, and unpacks the total over all blocks.

    Notes
    -----
    With c images of h values a channel in a group, mu and v its mean and unbiased variance, and a centre s near the means,
    the row holds the sums over groups of mu, of v, A of c (mu - s), B of c (v (ch - 1)/(ch) + (mu - s)^2), then mu and v of
    the first group, then c h for each layer. With n images in all, the pooled mean is s + A/n and the pooled variance
    (B/n - (A/n)^2) N/(N - 1), N = n h. Without a centre B/n - (A/n)^2 would cancel where a mean is far from 0.
    """

    def __init__(self, model: StackedModel) -> None:
        self._num_slots = model.num_slots
        self._channels = [norm.num_channels // model.num_slots for norm in model.batch_norms()]
        self.num_channels = sum(self._channels)
        self.width = 6 * self.num_channels + len(self._channels)
        self._held: dict[tuple[object, ...], Tensor] = {}

    def pack(
        self, measured: list[BatchStatistics], groups: range, images_per_group: int, centre: Tensor, share: float = 1.0
    ) -> Iterator[Tensor]:
        """Yield pieces of shape (T, ...), `width` columns together.

        Parameters
        ----------
        measured
            One a layer; moments of shape (k, T*C), a row a group.
        groups
            The k groups.
        images_per_group
            c, in this pass.
        centre
            Shape (T, M), the same on every process.
        share
            Part of a group's images that is in this pass. A group cut into passes has one mean and variance all the same:
            those of its passes, weighted by their images (statement B2).
        """
        if not measured:
            return
        mean = torch.cat([self._by_slot(found.mean) for found in measured], dim=2).detach()
        variance = torch.cat([self._by_slot(found.variance) for found in measured], dim=2).detach()
        values = self._of_channels(tuple(float(found.num_values) for found in measured), mean)
        away = mean - centre
        centred = away.sum(0) * images_per_group
        squares = (variance * ((values - 1) / values) + away * away).sum(0) * images_per_group
        if share != 1:
            mean, variance = mean * share, variance * share
        yield mean.sum(0)
        yield variance.sum(0)
        yield centred
        yield squares
        if groups.start == 0:
            yield mean[0]
            yield variance[0]
        else:
            yield mean.new_zeros(self._num_slots, 2 * self.num_channels)
        yield self._of_layers(tuple(float(found.num_values * len(groups)) for found in measured), mean)

    def unpack(self, sums: Tensor, centre: Tensor, num_images: int, num_groups: int) -> StepMoments:
        """Return the moments of the global batch from the total, shape (T, width), over `num_groups` groups with images."""
        pieces = sums.split([self.num_channels] * 6 + [len(self._channels)], dim=1)
        layers = self._of_channels(tuple(range(len(self._channels))), sums.new_empty(0, dtype=torch.int64))
        counts = pieces[6].index_select(1, layers)
        shift = pieces[2] / num_images
        biased = (pieces[3] / num_images - shift * shift).clamp_(min=0)
        return StepMoments(
            mean=pieces[0] / num_groups,
            variance=pieces[1] / num_groups,
            pooled_mean=centre + shift,
            pooled_variance=biased * (counts / (counts - 1)),
            first_mean=pieces[4].clone(),
            first_variance=pieces[5].clone(),
        )

    def _by_slot(self, moments: Tensor) -> Tensor:
        """See (k, T*C) as (k, T, C), in float32 or wider."""
        return moments.view(len(moments), self._num_slots, -1)

    def _of_layers(self, numbers: tuple[float, ...], like: Tensor) -> Tensor:
        """Return a number a layer for every slot, shape (T, layers), of the type and on the device of `like`.

        It is kept: numbers of images hardly change, and to hand them to a device means to wait for it.
        """
        key = (numbers, like.dtype, like.device)
        if key not in self._held:
            self._held[key] = like.new_tensor(numbers).expand(self._num_slots, -1)
        return self._held[key]

    def _of_channels(self, numbers: tuple[float, ...], like: Tensor) -> Tensor:
        """Return the number of each channel's layer, shape (M,), of the type and on the device of `like`; it is kept."""
        key = ("channels", numbers, like.dtype, like.device)
        if key not in self._held:
            self._held[key] = like.new_tensor(
                [n for n, width in zip(numbers, self._channels, strict=True) for _ in range(width)]
            )
        return self._held[key]
