"""Scaling rules: the peak learning rate from a base rate, the batch it was tuned for, and the grid.

Every rule names its reference and is the identity there (statement L2). Sources: linear, Goyal et al. 2017
(arXiv 1706.02677) and Krizhevsky 2014 (arXiv 1404.5997, which also gives sqrt); per-worker, the public Horovod examples,
whose reference is one worker however many images it takes.
"""

import math
from dataclasses import dataclass
from typing import Literal

from widestep.errors import UsageError
from widestep.plan.grid import WorkerGrid

RuleName = Literal["none", "linear", "sqrt", "per-worker"]


@dataclass(frozen=True)
class ScalingRule:
    """How the peak rate follows from the base rate.

    Parameters
    ----------
    name
        `none`: peak = base. `linear`: base * B / B_ref. `sqrt`: base * sqrt(B / B_ref). `per-worker`: base * W.
    reference_batch
        B_ref in images: the global batch that the base rate was tuned for; needed by `linear` and `sqrt`.

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
        if self.name in ("linear", "sqrt") and self.reference_batch is None:
            raise UsageError(
                f"The scaling rule '{self.name}' needs the global batch that base_lr was tuned for. "
                "None was given; set reference_batch, for example 256."
            )
        if self.name == "per-worker" and self.reference_batch is not None:
            raise UsageError(
                "The scaling rule 'per-worker' has one worker as its reference, so reference_batch must be left out. "
                f"Got {self.reference_batch}; use 'linear' to scale by images."
            )

    def factor(self, grid: WorkerGrid) -> float:
        """Return peak rate / base rate for a grid."""
        if self.name == "per-worker":
            return float(grid.num_workers)
        if self.name == "none":
            return 1.0
        assert self.reference_batch is not None
        ratio = grid.global_batch / self.reference_batch
        return math.sqrt(ratio) if self.name == "sqrt" else ratio

    def peak(self, base_lr: float, grid: WorkerGrid) -> float:
        """Return the peak rate."""
        return base_lr * self.factor(grid)

    def derivation(self, base_lr: float, grid: WorkerGrid) -> str:
        """Say in one line how the peak rate came about, for example `0.1 @ 256 images x 30,720/256 -> 12`."""
        peak = f"{self.peak(base_lr, grid):.6g}"
        if self.name == "none":
            return f"{base_lr:g} unscaled -> {peak}"
        if self.name == "per-worker":
            return f"{base_lr:g} @ 1 worker x {grid.num_workers} workers -> {peak}"
        ratio = f"{grid.global_batch:,}/{self.reference_batch:,}"
        ratio = f"sqrt({ratio})" if self.name == "sqrt" else ratio
        return f"{base_lr:g} @ {self.reference_batch:,} images x {ratio} -> {peak}"
