"""The figures of a study and of single runs: what is plotted, with which n, in which range, before anything is drawn."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from widestep.plan.plain import plain
from widestep.report.plotted import ACCURACY, FigureData, Inset, Series
from widestep.report.results import CellResults, Curves, StudyResults, setting_number, setting_unit
from widestep.report.statistics import mean_interval
from widestep.study.study import FigureSpec

_SMALLEST_SPAN = 0.5
_CROWDED = 0.15


def figure_data(results: StudyResults, spec: FigureSpec) -> FigureData:
    """Return one figure of a study."""
    cells, level = results.arms[spec.arm], results.study.level
    title, percent = plain(spec.title), f"{100 * level:g} %"
    if spec.kind == "layout":
        grids = list(dict.fromkeys(cell.cell.recipe.grid for cell in cells))
        caption = "Each square is one worker, each frame one node. All images of all workers make one optimizer step."
        return FigureData(spec.number, "layout", title, caption, grids=grids)
    if spec.kind == "final":
        return _final(results, spec, cells)
    series = [curve(cell, level) for cell in cells]
    caption = f"Mean over seeds after each epoch; bands are {percent} t-intervals over seeds, n is in the legend."
    if spec.kind == "zoomed":
        y_range, inset = late_range(series, 1 / 2, results.study.collapse_below), None
        caption += _below(series, y_range)
    else:
        y_range, inset = curves_range(series), crowded_end(series)
    caption += _counted(results, series)
    return FigureData(spec.number, spec.kind, title, caption, "epoch", ACCURACY, series, y_range, inset)


def curve(cell: CellResults, level: float) -> Series:
    """Return a cell's mean validation accuracy by epoch over its complete runs."""
    found: dict[float, list[float]] = {}
    for run in cell.complete.values():
        for epoch, accuracy in zip(run.curves.epochs.tolist(), run.curves.accuracy.tolist(), strict=True):
            found.setdefault(epoch, []).append(accuracy)
    epochs = sorted(found)
    series = _series(cell, epochs, [found[epoch] for epoch in epochs], level)
    for seed, run in cell.complete.items():
        of_run = dict(zip(run.curves.epochs.tolist(), run.curves.accuracy.tolist(), strict=True))
        series.runs[seed] = [of_run.get(epoch, math.nan) for epoch in epochs]
    return series


def _series(cell: CellResults, x: list[float], values: Sequence[Sequence[float]], level: float) -> Series:
    estimates = [mean_interval(group, level) for group in values]
    return Series(
        label=cell.label,
        x=x,
        mean=[estimate.mean for estimate in estimates],
        low=[math.nan if estimate.low is None else estimate.low for estimate in estimates],
        high=[math.nan if estimate.high is None else estimate.high for estimate in estimates],
        n=[estimate.n for estimate in estimates],
        num_seeds=len(cell.complete),
        num_collapsed=len(cell.collapsed),
        num_diverged=len(cell.diverged),
        num_missing=len(cell.missing),
    )


def _final(results: StudyResults, spec: FigureSpec, cells: list[CellResults]) -> FigureData:
    axes, level = results.study.axes(spec.arm), results.study.level
    numbers = [setting_number(cell, next(iter(axes))) if len(axes) == 1 else None for cell in cells]
    numeric = None not in numbers and len(set(numbers)) == len(cells) > 1
    positions = [float(number or 0) for number in numbers] if numeric else [float(index) for index in range(len(cells))]
    counts = {len(cell.complete) for cell in cells}
    once = len(cells) > 1 and len(counts) == 1 and 0 not in counts  # ticks may lie close together
    series, ticks = [], []
    for cell, x in zip(cells, positions, strict=True):
        accuracies = cell.accuracies.tolist()
        point = _series(cell, [x] if accuracies else [], [accuracies] if accuracies else [], level)
        point.seeds.extend(zip(cell.complete, accuracies, strict=True))
        series.append(point)
        name = f"{x:,g}" if numeric else cell.label
        number = [] if once else [f"n = {point.num_seeds}"]
        ticks.append((x, "\n".join([name, *number, *point.remarks])))
    y_range = final_range(series, results.study.collapse_below)
    hidden = y_range is not None and any(value < y_range[0] for one in series for _, value in one.seeds)
    axis = next(iter(axes), "")
    unit = setting_unit(cells[0].cell.recipe, axis) if axis else ""
    each = [f"n = {min(counts)} each"] if once else []
    words = {"epochs": f"{axis.replace('_', ' ')} (epochs)", "images": "global batch (images a step)"}
    return FigureData(
        number=spec.number,
        kind="final",
        title=plain(spec.title),
        caption=f"Final validation accuracy: mean with {100 * level:g} % t-interval over seeds, single seeds as faint dots."
        + (" Triangles at the lower edge stand for values below the axis." if hidden else "")
        + _counted(results, series),
        x_label=", ".join([words.get(unit, axis.replace("_", " "))] * numeric + each),
        series=series,
        y_range=y_range,
        x_ticks=ticks,
        joined=numeric,
    )


def _counted(results: StudyResults, series: list[Series]) -> str:
    """Say what n hides: collapsed runs are in the means, diverged and missing ones are not."""
    words = ""
    if any(one.num_collapsed for one in series):
        words += f" Collapsed runs (below {100 * results.study.collapse_below:g} %) are in the means."
    if any(one.num_diverged or one.num_missing for one in series):
        words += " Diverged and missing runs are counted and not in the means."
    if any(one.num_seeds == 1 for one in series):
        words += " A setting with one seed has no interval."
    return words


def _below(series: list[Series], y_range: tuple[float, float] | None) -> str:
    """Say where the vertical axis is cut, and which curves end below it."""
    words = " The vertical axis is cut to where the curves lie after the first half of the training."
    hidden = [f"{one.label} ({one.mean[-1]:.1f} %)" for one in series if one.mean and y_range and one.mean[-1] < y_range[0]]
    return words + (f" Collapsed below the axis: {', '.join(hidden)}." if hidden else "")


def curves_range(series: list[Series]) -> tuple[float, float] | None:
    """Return the vertical range that holds every mean, with room; never above 100 % by more than a hair."""
    return _padded([value for one in series for value in one.mean])


def late_range(series: list[Series], share: float, collapse_below: float = 0.0) -> tuple[float, float] | None:
    """Return the vertical range of all means after this share of the training, and of intervals of like size.

    Curves that end below the threshold of collapse would squeeze all others and are left out, unless all do.
    """
    start = share * max((one.x[-1] for one in series if one.x), default=0.0)
    kept = [one for one in series if one.mean and one.mean[-1] >= 100 * collapse_below] or series
    late = [(mean, low, high) for one in kept for x, mean, low, high in one.points() if x > start]
    return _range_with_intervals([mean for mean, _, _ in late], [low for _, low, _ in late], [high for _, _, high in late])


def crowded_end(series: list[Series]) -> Inset | None:
    """Return the last third as an inset when its curves, at full scale, would lie on one another in the upper half."""
    full, late = curves_range(series), late_range(series, 2 / 3)
    if full is None or late is None or len(series) < 2:
        return None
    height = full[1] - full[0]
    if late[1] - late[0] > _CROWDED * height or late[0] < full[0] + 0.75 * height:
        return None
    return Inset(2 / 3 * max(one.x[-1] for one in series if one.x), *late)


def final_range(series: list[Series], collapse_below: float) -> tuple[float, float] | None:
    """Return the vertical range of all means and runs that did not collapse, and of intervals of like size."""
    everything = [value for one in series for value in [*one.mean, *(value for _, value in one.seeds)]]
    values = [value for value in everything if value >= 100 * collapse_below] or everything
    lows, highs = [low for one in series for low in one.low], [high for one in series for high in one.high]
    return _range_with_intervals(values, lows, highs)


def _range_with_intervals(values: list[float], lows: list[float], highs: list[float]) -> tuple[float, float] | None:
    """Return the range of the values, widened by the interval ends that would not squeeze it; NaN ends are left out."""
    if not values:
        return None
    room = 0.5 * max(max(values) - min(values), _SMALLEST_SPAN)
    near = [end for end in [*lows, *highs] if min(values) - room <= end <= max(values) + room]
    return _padded([*values, *near])


def _padded(values: list[float]) -> tuple[float, float] | None:
    if not values:
        return None
    low, high = min(values), max(values)
    room = 0.06 * max(high - low, _SMALLEST_SPAN)
    middle, half = (low + high) / 2, max((high - low) / 2, _SMALLEST_SPAN / 2)
    top = middle + half + room
    return max(middle - half - room, -room), min(top, 100 + room / 2) if high <= 100 else top


def run_curves(number: int, title: str, runs: dict[str, Curves], name: Literal["accuracy", "lr"]) -> FigureData:
    """Return single runs' validation accuracy or learning rate by epoch."""
    series = []
    for label, run in runs.items():
        values = run.accuracy if name == "accuracy" else run.lr
        kept = np.isfinite(values)
        x, mean, nothing = run.epochs[kept].tolist(), values[kept].tolist(), [math.nan] * int(kept.sum())
        series.append(Series(label, x, mean, nothing, nothing, [1] * len(x), 1))
    y_label = ACCURACY if name == "accuracy" else "learning rate"
    y_range = curves_range(series) if name == "accuracy" else None
    return FigureData(number, "curves", title, "One run a curve: no interval.", "epoch", y_label, series, y_range)
