"""Two cells compared seed by seed: the numbers that every verdict and every line of the comparisons table rest on."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from widestep.report import statistics
from widestep.report.results import CellResults

FEWEST_FOR_RANKS = 6
"""Pairs from which on Wilcoxon's test can reach the 5 % level (2 / 2**6 = 0.031); below, the paired t-test decides."""
RANKS = "Wilcoxon signed-rank (exact)"
T = "paired t"
_LAST = ", diverged runs ranked last"


@dataclass(frozen=True)
class Paired:
    """Statistics of n paired differences.

    A pair of which one run diverged has no difference. It takes part in the test, ranked beyond every other [Lachin 1999],
    and in nothing else, so that settings that fail are not flattered; two cells of which runs diverged on one side only are
    never equivalent. A pair of two diverged runs says nothing and is left out. Everything but `effect` needs n >= 2, the
    test two pairs of either sort.

    Parameters
    ----------
    effect, low, high, sd
        Mean difference, its t-interval at the study's level, and the standard deviation of the differences.
    bootstrap_low, bootstrap_high
        Bootstrap interval of the mean, from n = `FEWEST_FOR_BOOTSTRAP` on: it shows whether a few runs bend the mean.
    p, test
        Two-sided p of "no difference" and the test that gave it.
    direction
        The side that the test speaks for: 1 when the first is higher, -1 when the second is.
    equivalence_p, equivalence_low, equivalence_high
        Two one-sided tests against the margin, and the interval of level 1 - 2 * (1 - level) that matches them.
    beyond_p
        Two-sided p of "the difference is at most the margin in size".
    detectable
        Difference that a paired t-test finds with 80 % power, given n and sd.
    num_higher
        Pairs in which the first is higher.
    num_first_diverged, num_second_diverged
        Pairs of which only the first, or only the second, diverged.
    """

    n: int
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None
    p: float | None = None
    test: str = ""
    direction: int = 0
    equivalence_p: float | None = None
    equivalence_low: float | None = None
    equivalence_high: float | None = None
    beyond_p: float | None = None
    detectable: float | None = None
    num_higher: int = 0
    num_first_diverged: int = 0
    num_second_diverged: int = 0

    @property
    def num_diverged(self) -> int:
        """Pairs of which one side diverged."""
        return self.num_first_diverged + self.num_second_diverged


def paired(differences: ArrayLike, *, level: float, margin: float) -> Paired:
    """Return the statistics of paired differences, shape (num_pairs,); -inf where only the first diverged, inf the second.

    Examples
    --------
    >>> result = paired([1.0, 2.0, 3.0], level=0.95, margin=0.5)
    >>> result.effect, result.test, round(result.p, 4)
    (2.0, 'paired t', 0.0742)
    """
    data = np.asarray(differences, dtype=np.float64)
    known = data[np.isfinite(data)]
    found = _of_the_complete(known, level, margin)
    if len(data) < 2:
        return replace(found, num_first_diverged=_count(data, -np.inf), num_second_diverged=_count(data, np.inf))
    if len(known) == len(data) < FEWEST_FOR_RANKS:
        return replace(found, p=statistics.t_test(data), test=T, direction=int(np.sign(np.round(data.mean(), 9))))
    tested = replace(found, p=statistics.wilcoxon(data), test=RANKS, direction=statistics.rank_direction(data))
    if len(known) == len(data):
        return tested
    return replace(
        tested,
        test=RANKS + _LAST,
        equivalence_p=1.0,
        beyond_p=statistics.wilcoxon(data - tested.direction * margin),
        num_first_diverged=_count(data, -np.inf),
        num_second_diverged=_count(data, np.inf),
    )


def _count(data: NDArray[np.float64], value: float) -> int:
    return int((data == value).sum())


def _of_the_complete(data: NDArray[np.float64], level: float, margin: float) -> Paired:
    """Return what follows from the pairs that are complete on both sides."""
    n = len(data)
    if n == 0:
        return Paired(0)
    estimate = statistics.mean_interval(data, level)
    if estimate.sd is None:
        return Paired(1, estimate.mean, num_higher=int(estimate.mean > 0))
    same = statistics.equivalence(data, margin, level)
    enough = n >= statistics.FEWEST_FOR_BOOTSTRAP
    bootstrap = statistics.bootstrap_interval(data, level) if enough else (None, None)
    return Paired(
        n=n,
        effect=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        sd=estimate.sd,
        bootstrap_low=bootstrap[0],
        bootstrap_high=bootstrap[1],
        equivalence_p=same.p,
        equivalence_low=same.low,
        equivalence_high=same.high,
        beyond_p=same.beyond_p,
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

    `differences` holds that of every seed, `resolution` the smallest step between two values of a side; `diverged` has
    -inf for seeds with which only the first diverged, inf where only the second did.
    """

    first: Side
    second: Side
    unit: str
    paired: Paired
    differences: dict[int, float] = field(default_factory=dict)
    resolution: float = 0.0
    diverged: dict[int, float] = field(default_factory=dict)

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
            "bootstrap_interval": None if result.bootstrap_low is None else [result.bootstrap_low, result.bootstrap_high],
            "sd": result.sd,
            "test": result.test,
            "p": result.p,
            "equivalence_p": result.equivalence_p,
            "equivalence_interval": None if result.n < 2 else [result.equivalence_low, result.equivalence_high],
            "beyond_p": result.beyond_p,
            "minimum_detectable_difference": result.detectable,
            "num_higher": result.num_higher,
            "num_only_first_diverged": result.num_first_diverged,
            "num_only_second_diverged": result.num_second_diverged,
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
    """Compare the final accuracies of two cells over the seeds whose runs have ended in both."""
    a, b = first.complete, second.complete
    seeds = [seed for seed in a if seed in b]
    left, right = (np.array([runs[seed].accuracy for seed in seeds]) for runs in (a, b))
    by_seed = dict(zip(seeds, (left - right).tolist(), strict=True))
    diverged = dict.fromkeys((seed for seed in first.diverged if seed in b), -math.inf)
    diverged |= dict.fromkeys((seed for seed in second.diverged if seed in a), math.inf)
    result = paired([*by_seed.values(), *diverged.values()], level=level, margin=margin)
    resolution = max((run.resolution for runs in (a, b) for run in runs.values()), default=0.0)
    return Comparison(side(first, left), side(second, right), "points", result, by_seed, resolution, diverged)


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
