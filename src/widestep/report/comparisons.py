"""Two cells compared seed by seed: the numbers that every verdict and every line of the comparisons table rest on."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from widestep.report import statistics
from widestep.report.results import CellResults

FEWEST_FOR_RANKS = 6
"""Pairs from which on Wilcoxon's test can reach the 5 % level (2 / 2**6 = 0.031); below, the paired t-test decides."""
_RANKS = "Wilcoxon signed-rank (exact)"
_T = "paired t"


@dataclass(frozen=True)
class Paired:
    """Statistics of n paired differences; everything but `effect` needs n >= 2.

    Parameters
    ----------
    effect, low, high, sd
        Mean difference, its t-interval at the study's level, and the standard deviation of the differences.
    p, test
        Two-sided p of "no difference" and the test that gave it.
    equivalence_p, equivalence_low, equivalence_high
        Two one-sided tests against the margin, and the interval of level 1 - 2 * (1 - level) that matches them.
    detectable
        Difference that a paired t-test finds with 80 % power, given n and sd.
    num_higher
        Pairs in which the first is higher.
    """

    n: int
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    p: float | None = None
    test: str = ""
    equivalence_p: float | None = None
    equivalence_low: float | None = None
    equivalence_high: float | None = None
    detectable: float | None = None
    num_higher: int = 0


def paired(differences: ArrayLike, *, level: float, margin: float) -> Paired:
    """Return the statistics of paired differences, shape (n,); n may be 0 or 1.

    Examples
    --------
    >>> result = paired([1.0, 2.0, 3.0], level=0.95, margin=0.5)
    >>> result.effect, result.test, round(result.p, 4)
    (2.0, 'paired t', 0.0742)
    """
    data = np.asarray(differences, dtype=np.float64)
    n = len(data)
    if n == 0:
        return Paired(0)
    estimate = statistics.mean_interval(data, level)
    if estimate.sd is None:
        return Paired(1, estimate.mean, num_higher=int(estimate.mean > 0))
    ranks = n >= FEWEST_FOR_RANKS
    same = statistics.equivalence(data, margin, level)
    return Paired(
        n=n,
        effect=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        sd=estimate.sd,
        p=statistics.wilcoxon(data) if ranks else statistics.t_test(data),
        test=_RANKS if ranks else _T,
        equivalence_p=same.p,
        equivalence_low=same.low,
        equivalence_high=same.high,
        detectable=statistics.minimum_detectable_difference(estimate.sd, n, level),
        num_higher=int((np.round(data, 9) > 0).sum()),
    )


@dataclass(frozen=True)
class Side:
    """One side of a comparison in words and counts.

    `median` is over the compared seeds; `num_failed` runs of `num_finished` collapsed or diverged.
    """

    label: str
    median: float | None
    num_collapsed: int
    num_diverged: int
    num_finished: int

    @property
    def num_failed(self) -> int:
        """Runs that collapsed or diverged."""
        return self.num_collapsed + self.num_diverged


@dataclass(frozen=True)
class Comparison:
    """The first side minus the second, paired by seed, in `unit` ("points" of accuracy, or that of an axis).

    `differences` holds that of every seed.
    """

    first: Side
    second: Side
    unit: str
    paired: Paired
    differences: dict[int, float] = field(default_factory=dict)

    @property
    def failure_p(self) -> float | None:
        """Two-sided p of Fisher's exact test that both sides collapse or diverge equally often."""
        if min(self.first.num_finished, self.second.num_finished) == 0:
            return None
        return statistics.fisher_exact(
            self.first.num_failed, self.first.num_finished, self.second.num_failed, self.second.num_finished
        )

    def record(self) -> dict[str, Any]:
        """Return the comparison as plain values for findings.json."""
        result = self.paired
        return {
            "first": self.first.label,
            "second": self.second.label,
            "unit": self.unit,
            "n": result.n,
            "effect": result.effect,
            "interval": interval(result),
            "sd": result.sd,
            "test": result.test,
            "p": result.p,
            "equivalence_p": result.equivalence_p,
            "equivalence_interval": None if result.n < 2 else [result.equivalence_low, result.equivalence_high],
            "minimum_detectable_difference": result.detectable,
            "num_higher": result.num_higher,
            "median_first": self.first.median,
            "median_second": self.second.median,
            **{f"{name}_first": value for name, value in asdict(self.first).items() if name.startswith("num_")},
            **{f"{name}_second": value for name, value in asdict(self.second).items() if name.startswith("num_")},
            "failure_p": self.failure_p,
            "differences": [[seed, value] for seed, value in self.differences.items()],
        }


def interval(result: Paired) -> list[float] | None:
    """Return the interval as a list, or None when there is none."""
    return None if result.low is None or result.high is None else [result.low, result.high]


def compare(first: CellResults, second: CellResults, *, level: float, margin: float) -> Comparison:
    """Compare the final accuracies of two cells over the seeds that are complete in both."""
    a, b = first.complete, second.complete
    seeds = [seed for seed in a if seed in b]
    left, right = (np.array([runs[seed].accuracy for seed in seeds]) for runs in (a, b))
    result = paired(left - right, level=level, margin=margin)
    by_seed = dict(zip(seeds, (left - right).tolist(), strict=True))
    return Comparison(side(first, left), side(second, right), "points", result, by_seed)


def side(cell: CellResults, values: ArrayLike) -> Side:
    """Describe one side: its median over the compared seeds, and how all its finished runs fared."""
    data = np.asarray(values, dtype=np.float64)
    return Side(
        label=cell.label,
        median=float(np.median(data)) if len(data) else None,
        num_collapsed=len(cell.collapsed),
        num_diverged=len(cell.diverged),
        num_finished=len(cell.complete) + len(cell.diverged),
    )
