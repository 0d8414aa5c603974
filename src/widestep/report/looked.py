"""Paired comparisons of a study that looks at its claims several times: p values and intervals that hold at every look."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from widestep.report.boundaries import nominal_level, sequential_p
from widestep.report.comparisons import Comparison, Paired
from widestep.report.statistics import minimum_detectable_difference

_SMALLEST_LEVEL = 1e-12
"""A look with less than this to spend has no interval."""
_FULL = 100.0
"""Points by which a run that diverged counts as below one that ended: as if it had come to 0 % and the other to 100 %."""
_AS_NONE = ", diverged runs 100 points below others"


@dataclass(frozen=True)
class Looked:
    """The looks that were taken at a claim so far.

    Parameters
    ----------
    seeds
        All seeds of the study in order: what it may use at most.
    counts
        How many of them each look had, rising.
    spending
        Name of the function that shares the error rate among the looks.
    """

    seeds: Sequence[int]
    counts: Sequence[int]
    spending: str


def at_looks(one: Comparison, looked: Looked, *, level: float, margin: float) -> Comparison:
    """Return a comparison with the p values and intervals of a group-sequential t-test in place of those of a single test.

    Notes
    -----
    p and those of equivalence are sequential p values: smallest over the looks so far, and valid at all of them. The
    intervals are repeated confidence intervals: at all looks together they hold the true difference with probability
    `level` [Jennison and Turnbull 1989]. A look without new pairs is none. Accuracies are shares of the validation images,
    so a few differences may be equal by chance, with a spread of 0; therefore the variance is taken to be that of the
    rounding, resolution^2 / 6, at least. A run that
    diverged while the other of its pair ended is tested as 100 points below it; it is in no interval.
    """
    worst = {seed: math.copysign(_FULL, value) for seed, value in one.diverged.items()}
    tested = _path({**one.differences, **worst}, one.resolution, looked)
    if tested is None:
        return one
    return replace(one, paired=_paired(one.paired, tested, _path(one.differences, one.resolution, looked), level, margin))


def _path(differences: Mapping[int, float], resolution: float, looked: Looked) -> "_Path | None":
    """Return the differences with the looks that had new ones; None before two of them."""
    place = {seed: index for index, seed in enumerate(looked.seeds)}
    seen = sorted(differences, key=place.__getitem__)
    times: list[float] = []
    counts: list[int] = []
    for look in looked.counts:
        count = sum(place[seed] < look for seed in seen)
        if count >= 2 and (not counts or count > counts[-1]):
            times.append(look / len(looked.seeds))
            counts.append(count)
    data = np.array([differences[seed] for seed in seen])
    return _Path(data, resolution, times, counts, looked.spending) if counts else None


@dataclass(frozen=True)
class _Path:
    """Differences in the order of seeds, shape (n,), and the looks at them."""

    data: NDArray[np.float64]
    resolution: float
    times: list[float]
    counts: list[int]
    spending: str

    @cached_property
    def seen(self) -> list[tuple[float, float]]:
        """Mean and standard error of the differences at each look."""
        found = []
        for count in self.counts:
            data = self.data[:count]
            variance = max(float(data.var(ddof=1)), self.resolution**2 / 6, 1e-18)
            found.append((float(data.mean()), math.sqrt(variance / count)))
        return found

    def p_above(self, value: float, sign: int = 1) -> float:
        """Return the sequential p of "the mean, times `sign`, is at most `value`"."""
        scores = [(value - sign * mean) / error for mean, error in self.seen]
        found = [float(special.stdtr(count - 1, score)) for count, score in zip(self.counts, scores, strict=True)]
        return sequential_p(found, self.times, self.counts, self.spending)

    def half(self, share: float) -> float | None:
        """Return the half width of the interval that leaves out `share` on each side, over all looks; None without one."""
        nominal = nominal_level(share, self.times, self.counts, self.spending)
        if nominal < _SMALLEST_LEVEL:
            return None
        return float(-special.stdtrit(self.counts[-1] - 1, nominal)) * self.seen[-1][1]


def _paired(before: Paired, tested: _Path, complete: _Path | None, level: float, margin: float) -> Paired:
    higher, lower = tested.p_above(0.0), tested.p_above(0.0, -1)
    found = replace(
        before,
        low=None,
        high=None,
        p=min(1.0, 2 * min(higher, lower)),
        test="group-sequential paired t" + (_AS_NONE if before.num_diverged else ""),
        direction=(higher < lower) - (lower < higher),
        equivalence_p=1.0 if before.num_diverged else max(tested.p_above(-margin), tested.p_above(-margin, -1)),
        equivalence_low=None,
        equivalence_high=None,
        beyond_p=min(1.0, 2 * min(tested.p_above(margin), tested.p_above(margin, -1))),
        detectable=None,
    )
    return found if complete is None else _with_intervals(found, complete, level)


def _with_intervals(found: Paired, path: _Path, level: float) -> Paired:
    mean, half, half_equal = path.seen[-1][0], path.half((1 - level) / 2), path.half(1 - level)
    if half is None or half_equal is None:
        return found
    nominal = 2 * nominal_level((1 - level) / 2, path.times, path.counts, path.spending)
    return replace(
        found,
        low=mean - half,
        high=mean + half,
        equivalence_low=mean - half_equal,
        equivalence_high=mean + half_equal,
        detectable=minimum_detectable_difference(found.sd, path.counts[-1], 1 - nominal) if found.sd else None,
    )
