"""How the best warmup goes with the batch: the slope of its logarithm against that of the images a step, with an interval.

A slope of 0 in epochs says that the same epochs are best at every batch; of 1, that epochs are proportional to the batch.
Where an epoch has fewer steps at larger batches, the slope in steps is smaller by one: 0 there says that the same steps are.

No warmup has no logarithm. That it was best says that the optimum lies between none and the shortest that was tried, and it
counts as half of that [Hornung and Reed 1990, on values below the limit of detection]. The longest that was tried is a limit
likewise: both are flagged.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widestep.report.optimum import accuracy_table, finished_seeds, warmup_groups, warmup_lengths
from widestep.report.results import CellResults, StudyResults
from widestep.report.statistics import FEWEST_FOR_BOOTSTRAP, draws

_FAMILY = ("model", "data", "train_images", "image_size", "epochs", "optimizer")
"""Fields that arms share when their best warmups belong on one line."""


@dataclass(frozen=True)
class WarmupSlope:
    """Slopes over the batches of arms that share network, data, epochs and optimizer.

    Parameters
    ----------
    arms
        The arms, from the smallest batch to the largest; `batches`, `epochs` and `steps` are equally long.
    epochs, steps
        The best warmup at each batch, by mean accuracy over the seeds that have ended at all batches.
    n
        Number of these seeds.
    epochs_slope, steps_slope
        d log(best warmup) / d log(images a step), by least squares.
    epochs_interval, steps_interval
        Percentile intervals, seeds drawn with replacement, the same for all batches; None below two seeds.
    num_none, num_longest
        Batches at which no warmup, or the longest tried, is best.
    """

    arms: list[str]
    batches: list[int]
    epochs: list[float]
    steps: list[float]
    n: int
    level: float
    epochs_slope: float
    steps_slope: float
    epochs_interval: tuple[float, float] | None
    steps_interval: tuple[float, float] | None
    num_none: int
    num_longest: int

    @property
    def is_rough(self) -> bool:
        """Whether the intervals rest on few seeds."""
        return self.n < FEWEST_FOR_BOOTSTRAP

    @property
    def remarks(self) -> str:
        """At how many batches the best warmup is a bound, in words; empty when at none."""
        said = [f"none best at {self.num_none}"] if self.num_none else []
        said += [f"longest best at {self.num_longest}"] if self.num_longest else []
        return "; ".join(said)

    def record(self) -> dict[str, Any]:
        """Return the slope as an entry of findings.json, under the keys that the findings on claims have."""
        return {
            "claim": "warmup-slope",
            "text": "How the best warmup goes with the batch: log-log slope in epochs; under slope also in steps",
            "verdict": "estimate",
            "effect": self.epochs_slope,
            "unit": "d log(epochs) / d log(images a step)",
            "interval": None if self.epochs_interval is None else list(self.epochs_interval),
            "level": self.level,
            "n": self.n,
            "test": "bootstrap over seeds, percentile interval",
            "p": None,
            "p_adjusted": None,
            "minimum_detectable_difference": None,
            "kind": "slope",
            "slope": asdict(self),
        }


def warmup_slopes(results: StudyResults) -> list[WarmupSlope]:
    """Return the slope of every family of arms that has warmups at two batches or more."""
    families: dict[tuple[object, ...], list[tuple[str, list[CellResults]]]] = {}
    for arm, _, cells in warmup_groups(results):
        recipe = cells[0].cell.recipe
        families.setdefault(tuple(getattr(recipe, name) for name in _FAMILY), []).append((arm, cells))
    found = [_slope(groups, results.study.level) for groups in families.values()]
    return [one for one in found if one is not None]


def _slope(groups: Sequence[tuple[str, list[CellResults]]], level: float) -> WarmupSlope | None:
    groups = sorted(groups, key=lambda group: group[1][0].cell.recipe.grid.global_batch)
    batches = [cells[0].cell.recipe.grid.global_batch for _, cells in groups]
    seeds = [seed for seed in finished_seeds(groups[0][1]) if all(seed in finished_seeds(cells) for _, cells in groups)]
    lengths = [warmup_lengths(cells) for _, cells in groups]
    known = [one for one in lengths if one is not None]
    if len(set(batches)) < 2 or not seeds or len(known) < len(groups) or not all(steps.any() for _, steps in known):
        return None
    tables = [accuracy_table(cells, seeds) for _, cells in groups]
    best = [int(table.mean(axis=0).argmax()) for table in tables]
    epochs, steps = (_Line(np.log(batches), [one[unit] for one in known]) for unit in (0, 1))
    intervals: list[tuple[float, float] | None] = [None, None]
    if len(seeds) > 1:
        drawn = np.array([table[draws(len(seeds))].mean(axis=1).argmax(axis=1) for table in tables])
        intervals = [_percentiles(line.slope(drawn), level) for line in (epochs, steps)]
    return WarmupSlope(
        arms=[arm for arm, _ in groups],
        batches=batches,
        epochs=[float(one[0][index]) for one, index in zip(known, best, strict=True)],
        steps=[float(one[1][index]) for one, index in zip(known, best, strict=True)],
        n=len(seeds),
        level=level,
        epochs_slope=float(epochs.slope(np.array(best)[:, None])[0]),
        steps_slope=float(steps.slope(np.array(best)[:, None])[0]),
        epochs_interval=intervals[0],
        steps_interval=intervals[1],
        num_none=sum(int(one[1][index] == 0) for one, index in zip(known, best, strict=True)),
        num_longest=sum(int(one[1][index] == one[1].max()) for one, index in zip(known, best, strict=True)),
    )


class _Line:
    """Least squares through the logarithms of the warmups that are best at each batch.

    Parameters
    ----------
    x
        Logarithms of the images a step, shape (num_batches,).
    lengths
        The warmups tried at each batch.
    """

    def __init__(self, x: NDArray[np.float64], lengths: Sequence[NDArray[np.float64]]) -> None:
        self._weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        self._logarithms = [np.log(np.where(tried > 0, tried, tried[tried > 0].min() / 2)) for tried in lengths]

    def slope(self, best: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the slopes for indices of the best warmup, shape (num_batches, num_draws)."""
        y = np.array([logarithms[index] for logarithms, index in zip(self._logarithms, best, strict=True)])
        return np.asarray(self._weights @ y)


def _percentiles(slopes: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(slopes, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)
