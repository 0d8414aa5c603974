"""What a figure shows, as plain data: series with n and intervals, ranges, words; drawn, embedded and tabled from here."""

import math
from dataclasses import dataclass, field
from typing import Literal

from widestep.plan.grid import WorkerGrid

Cellvalue = str | int | float | None
ACCURACY = "validation accuracy (%)"
"""Label of the axis of accuracies."""


@dataclass(frozen=True)
class Series:
    """A curve over epochs, or one point of a figure of final accuracies.

    Parameters
    ----------
    label
        The setting in words.
    x, mean, low, high, n
        Equally long; low and high are NaN where n is 1, because one value has no interval.
    num_seeds
        Complete runs of the cell; `num_collapsed` of these ended below the study's threshold.
    seeds
        Single runs as (seed, value), for figures that show them.
    runs
        Single runs as curves by seed: values at `x`, NaN where a run has none.
    """

    label: str
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    n: list[int]
    num_seeds: int
    num_collapsed: int = 0
    num_diverged: int = 0
    num_missing: int = 0
    seeds: list[tuple[int, float]] = field(default_factory=list)
    runs: dict[int, list[float]] = field(default_factory=dict)

    def points(self) -> list[tuple[float, float, float, float]]:
        """Return (x, mean, low, high) of every point."""
        return list(zip(self.x, self.mean, self.low, self.high, strict=True))

    @property
    def remarks(self) -> list[str]:
        """What a reader must know beside n."""
        counts = {"collapsed": self.num_collapsed, "diverged": self.num_diverged, "missing": self.num_missing}
        return [f"{count} {word}" for word, count in counts.items() if count]

    @property
    def legend(self) -> str:
        """The label with n and the remarks."""
        return ", ".join([f"{self.label}, n = {self.num_seeds}", *self.remarks])


@dataclass(frozen=True)
class Inset:
    """The part of a figure that is drawn once more, enlarged: from x = start to the end, from low to high."""

    start: float
    low: float
    high: float


@dataclass(frozen=True)
class FigureData:
    """One figure: everything that is needed to draw it, to print it as a table and to write it as CSV.

    Parameters
    ----------
    x_ticks
        Text at positions, for axes of settings.
    joined
        Whether the points of a figure of final accuracies lie on a numeric axis and are joined.
    grids
        The worker grids of a layout.
    margin, verdict, claim
        Of a figure of differences: the margin where it applies to the unit, the verdict in words, the claim's name.
    """

    number: int
    kind: Literal["layout", "curves", "zoomed", "final", "differences"]
    title: str
    caption: str
    x_label: str = ""
    y_label: str = ACCURACY
    series: list[Series] = field(default_factory=list)
    y_range: tuple[float, float] | None = None
    inset: Inset | None = None
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    joined: bool = False
    grids: list[WorkerGrid] = field(default_factory=list)
    margin: float | None = None
    verdict: str = ""
    claim: str = ""

    @property
    def file_name(self) -> str:
        """Name of the figure's files without ending; claims are counted, because their names may be any text."""
        return f"claim-{self.number}" if self.kind == "differences" else f"figure-{self.number}"

    @property
    def heading(self) -> str:
        """What the figure is called in the text."""
        return f"Claim {self.claim}" if self.kind == "differences" else f"Figure {self.number}"

    @property
    def by_epoch(self) -> bool:
        """Whether the figure shows curves over epochs."""
        return self.kind in ("curves", "zoomed")

    @property
    def alternative(self) -> str:
        """What a reader who does not see the figure is told."""
        if self.kind == "layout":
            said = [f"{grid.num_workers} workers of {grid.images_per_worker} images" for grid in self.grids]
        else:
            where = "on average" if self.kind == "differences" else "at the end"
            said = [f"{one.legend}: {one.mean[-1]:.4g} {where}" if one.mean else one.legend for one in self.series]
        return f"{self.heading}. {self.title.rstrip('.')}. {'; '.join(said)}."

    def columns(self) -> list[str]:
        """Return the header of the figure's table."""
        if self.kind == "layout":
            return ["grid", "num_nodes", "workers_per_node", "images_per_worker", "num_workers", "global_batch"]
        if self.kind == "differences":
            return ["comparison", "seed", "difference", "low", "high", "n"]
        value = "lr" if self.y_label != ACCURACY else "accuracy_percent"
        counts = ["n", "num_collapsed", "num_diverged", "num_missing"]
        where = ["seed"] if self.kind == "final" else ["epoch"]
        return ["setting", *where, value, "low", "high", *counts]

    def rows(self) -> list[list[Cellvalue]]:
        """Return the figure's numbers, one list a row of its table."""
        if self.kind == "layout":
            return [
                [
                    str(grid),
                    grid.num_nodes,
                    grid.workers_per_node,
                    grid.images_per_worker,
                    grid.num_workers,
                    grid.global_batch,
                ]
                for grid in self.grids
            ]
        if self.kind == "differences":
            return [row for one in self.series for row in _difference_rows(one)]
        rows: list[list[Cellvalue]] = []
        for one in self.series:
            counts: list[Cellvalue] = [one.num_collapsed, one.num_diverged, one.num_missing]
            for x, mean, low, high, n in zip(one.x, one.mean, one.low, one.high, one.n, strict=True):
                where: Cellvalue = "all" if self.kind == "final" else x
                rows.append([one.label, where, mean, _known(low), _known(high), n, *counts])
            if not one.x:
                rows.append([one.label, None, None, None, None, 0, *counts])
            rows += [[one.label, seed, value, None, None, 1, None, None, None] for seed, value in one.seeds]
        return rows


def _difference_rows(one: Series) -> list[list[Cellvalue]]:
    rows: list[list[Cellvalue]] = [
        [one.label, "all", mean, _known(low), _known(high), n]
        for (_, mean, low, high), n in zip(one.points(), one.n, strict=True)
    ]
    return [*rows, *([one.label, seed, value, None, None, 1] for seed, value in one.seeds)]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
