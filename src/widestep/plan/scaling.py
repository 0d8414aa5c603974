"""Scaling rules: the peak learning rate from a base rate, the batch it was tuned for, and the grid.

Every rule names its reference and is the identity there (statement L2). Sources: linear, Goyal et al. 2017
(arXiv 1706.02677) and Krizhevsky 2014 (arXiv 1404.5997, which also gives sqrt); per-worker, the public Horovod examples,
whose reference is one worker however many images it takes; legw, You et al. 2019 (arXiv 1901.08256); adascale, Johnson et
al. 2020 (arXiv 2007.05105).
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from widestep.errors import UsageError
from widestep.plan.duration import Duration
from widestep.plan.grid import WorkerGrid

RuleName = Literal["none", "linear", "sqrt", "per-worker", "legw", "adascale", "none-as-run"]

_BY_IMAGES = ("linear", "sqrt", "legw")
_BY_WORKERS = ("per-worker", "none-as-run")


@dataclass(frozen=True)
class ScalingRule:
    """How the peak rate follows from the base rate.

    Parameters
    ----------
    name
        `none`: peak = base. `linear`: base * B / B_ref. `sqrt`: base * sqrt(B / B_ref). `per-worker`: base * W.
        `legw`: base * sqrt(B / B_ref), and a warmup in epochs or images is B / B_ref times as long.
        `adascale`: base, which the trainer multiplies by the gain of each step, between 1 and W.
        `none-as-run`: base * W. A program that writes base * W * ... into the optimizer before every step (the public
        Horovod example does) does so whether or not the rate given to the optimizer's constructor was scaled: leaving
        the scaling out there changes nothing.
    reference_batch
        B_ref in images: the global batch that the base rate was tuned for; needed by `linear`, `sqrt` and `legw`.

    Examples
    --------
    >>> ScalingRule("per-worker").peak(0.0125, WorkerGrid.parse("40x6x128"))
    3.0
    >>> ScalingRule("linear", 256).peak(0.1, WorkerGrid.parse("40x6x128"))
    12.0
    """

    name: RuleName
    reference_batch: int | None = None

    def __post_init__(self) -> None:
        if self.name in _BY_IMAGES and self.reference_batch is None:
            raise UsageError(
                f"The scaling rule '{self.name}' needs the global batch that base_lr was tuned for. "
                "None was given; set reference_batch, for example 256."
            )
        if self.name in _BY_WORKERS and self.reference_batch is not None:
            raise UsageError(
                f"The scaling rule '{self.name}' has one worker as its reference, so reference_batch must be left out. "
                f"Got {self.reference_batch}; use 'linear' to scale by images."
            )

    def factor(self, grid: WorkerGrid) -> float:
        """Return peak rate / base rate for a grid."""
        if self.name in _BY_WORKERS:
            return float(grid.num_workers)
        if self.name not in _BY_IMAGES:
            return 1.0
        assert self.reference_batch is not None
        ratio = grid.global_batch / self.reference_batch
        return ratio if self.name == "linear" else math.sqrt(ratio)

    def peak(self, base_lr: float, grid: WorkerGrid) -> float:
        """Return the peak rate; for `adascale` that of a step whose gain is 1."""
        return base_lr * self.factor(grid)

    def warmup(self, length: Duration, grid: WorkerGrid) -> Duration:
        """Return the length of the warmup on a grid, given its length at the reference.

        `legw` multiplies a length in epochs or images by B / B_ref, so that its number of steps stays the same (You et al.
        2019); a length in steps, and every length under another rule, stays as it is.

        Examples
        --------
        >>> str(ScalingRule("legw", 512).warmup(Duration.parse("0.15625ep"), WorkerGrid.parse("8x8x128")))
        '2.5ep'
        """
        if self.name != "legw" or length.unit == "st":
            return length
        assert self.reference_batch is not None
        return Duration(length.amount * Fraction(grid.global_batch, self.reference_batch), length.unit)

    def derivation(self, base_lr: float, grid: WorkerGrid) -> str:
        """Say in one line how the peak rate came about, for example `0.1 @ 256 images x 30,720/256 -> 12`."""
        peak = f"{self.peak(base_lr, grid):.6g}"
        match self.name:
            case "none":
                return f"{base_lr:g} unscaled -> {peak}"
            case "per-worker":
                return f"{base_lr:g} @ 1 worker x {grid.num_workers} workers -> {peak}"
            case "none-as-run":
                return (
                    f"{base_lr:g} unscaled, overwritten before every step by {base_lr:g} x {grid.num_workers} workers"
                    f" -> {peak}"
                )
            case "adascale":
                return f"{base_lr:g} @ 1 worker, x the gain of each step (1 to {grid.num_workers}); at gain 1 -> {peak}"
        ratio = f"{grid.global_batch:,}/{self.reference_batch:,}"
        if self.name != "linear":
            ratio = f"sqrt({ratio})"
        return f"{base_lr:g} @ {self.reference_batch:,} images x {ratio} -> {peak}"
