"""The panels of figures: figure data into axes, at any size.

Colours are those of Okabe and Ito (told apart with every common colour blindness), and every series also has its own line
style and marker. All lengths are for a font of 10 points and grow with the style's font size.
"""

import itertools
import math
import textwrap
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator

from widestep.plan.grid import WorkerGrid
from widestep.report.plotted import FigureData, Series
from widestep.report.poster_text import shortened, text_width, without_common_start, wrapped

INK = "#1b1f24"
"""Text and axes; the page replaces it by its own colour, which is light on a dark screen."""
FAINT = "#6a737d"
"""Secondary text."""
RULE = "#dde1e6"
"""Grid lines."""
PAPER = "#fffffe"
"""Background of an inset."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5699a", "#e69f00", "#56b4e9", "#8c6d4f")
LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (3, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1.2, 1.4)), (0, (8, 2, 1, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 8.4
"""Width of a figure in inches at the size that all lengths here are given in."""
_HEIGHT = 4.05
_MOST_OF_HEIGHT = 0.4
"""Share of a figure's height that a legend, or labels that stand upright, may take."""
_BESIDE_AXES = 0.9
"""Inches beside the axes: the vertical axis with its label, and margins."""


def panel(axes: Axes, data: FigureData, width: float = WIDTH, height: float = _HEIGHT) -> None:
    """Draw a figure, without its title, into axes that take with their labels about these inches at 10 points."""
    _PANELS[data.kind](axes, data, width, height)


def panel_height(data: FigureData, width: float = WIDTH) -> float:
    """Return the height in inches, at 10 points, that suits a figure of this width."""
    if data.kind == "layout":
        return sum(_grid_size(grid, width)[1] for grid in data.grids) + 0.1
    if data.kind == "differences":
        return 1.0 + 0.72 * max(1, len(data.series))
    return _HEIGHT


def _of(length: float) -> float:
    """Return a length in points at the size of the style's font."""
    return length * float(mpl.rcParams["font.size"]) / 10


def _prepare(axes: Axes, data: FigureData) -> None:
    axes.set_xlabel(data.x_label)
    axes.set_ylabel(data.y_label)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(length=_of(3))
    if not any(one.x for one in data.series):
        axes.text(0.5, 0.5, "no complete run yet", transform=axes.transAxes, ha="center", color=FAINT)
        axes.set_yticks([])


def _curves(axes: Axes, data: FigureData, width: float, height: float) -> None:
    _prepare(axes, data)
    last = max((one.x[-1] for one in data.series if one.x), default=1.0)
    first = min((one.x[0] for one in data.series if one.x), default=0.0)
    room = 0.015 * (last - first or 1)
    handles = _plot_curves(axes, data.series)
    axes.set_xlim(first - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    if data.y_range is not None:
        axes.set_ylim(*data.y_range)
    if data.inset is not None:
        inset = axes.inset_axes((0.47, 0.1, 0.51, 0.56), facecolor=PAPER)
        _plot_curves(inset, data.series)
        inset.set_xlim(data.inset.start, last + room)
        inset.set_ylim(data.inset.low, data.inset.high)
        inset.tick_params(labelsize=_of(8), length=_of(2))
        inset.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        inset.yaxis.set_major_locator(MaxNLocator(nbins=5))
        inset.grid(axis="y")
        inset.set_title("the last third, enlarged", loc="left", fontsize=_of(8.5), color=FAINT, pad=_of(4))
    _legend(axes, handles, data.series, width, height)


def _plot_curves(axes: Axes, series: list[Series]) -> list[Line2D]:
    """Draw means and bands; return one legend entry a series."""
    handles = []
    for index, one in enumerate(series):
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}
        marked: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "markersize": _of(4.5)}
        handles.append(Line2D([], [], **style, **marked))
        axes.fill_between(one.x, one.low, one.high, color=style["color"], alpha=0.14, linewidth=0)
        # One marker about every tenth of the curve, staggered so that markers of equal curves do not hide one another.
        spacing = max(1, len(one.x) // 9)
        axes.plot(one.x, one.mean, **style, **marked, markevery=(index * spacing // 5 % spacing, spacing))
    return handles


_LEGEND_SIZE, _LEGEND_ROW, _LEGEND_HANDLE = 9.0, 0.19, 0.7


def _legend(axes: Axes, handles: list[Line2D], series: list[Series], width: float, height: float) -> None:
    """Write the legend above the axes: in more columns where it is long, and then only its first entries."""
    room, most_rows = width - _BESIDE_AXES, max(1, int(_MOST_OF_HEIGHT * height / _LEGEND_ROW))
    words = []
    for one in series:
        counts = one.legend.removeprefix(one.label)
        words += shortened(one.label.lstrip("_"), _LEGEND_SIZE, room - _LEGEND_HANDLE, after=counts)
    num_columns = max(1, min(3, len(words), int(11.5 * width) // (8 + max((len(text) for text in words), default=1))))
    if len(words) > num_columns * most_rows:
        widest = max(text_width(text, _LEGEND_SIZE) for text in words)
        num_columns = max(num_columns, int(room / (widest + _LEGEND_HANDLE)))
    most = num_columns * most_rows
    if len(words) > most:
        words[most - 1 :] = [f"and {len(words) - most + 1} more"]
        handles[most - 1 :] = [Line2D([], [], linestyle="none")]
    axes.legend(
        handles,
        words,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=num_columns,
        frameon=False,
        fontsize=_of(_LEGEND_SIZE),
        handlelength=3.2,
        columnspacing=1.6,
        borderaxespad=0.3,
    )


_TICK_SIZE, _TICK_ROW, _TICK_GAP, _WRAPPED_GAP, _EDGE = 9.0, 0.16, 0.03, 0.08, 0.08


def _tick_labels(data: FigureData, width: float, height: float) -> tuple[list[str], bool]:
    """Return the labels of settings such that none touches another, and whether they stand upright.

    Labels that would touch are wrapped, else upright; of those that still would touch, some stay empty.
    """
    texts, positions = [text for _, text in data.x_ticks], [position for position, _ in data.x_ticks]
    inch = (width - _BESIDE_AXES) / (1 + 2 * _EDGE) / ((max(positions) - min(positions)) or 1.0)
    places = [position * inch for position in positions]
    pairs = list(itertools.combinations(range(len(texts)), 2))
    wide = [[text_width(line, _TICK_SIZE) for line in text.split("\n")] for text in texts]
    beside = all(
        (one + other) / 2 + _TICK_GAP <= abs(places[a] - places[b])
        for a, b in pairs
        for one, other in zip(wide[a], wide[b], strict=False)
    )
    if beside and max(map(max, wide)) < width / 3:
        return texts, False
    pitch = min((abs(places[a] - places[b]) for a, b in pairs), default=width)
    room = min(pitch - _WRAPPED_GAP, width / 4)
    if not data.joined and all(text_width(word, _TICK_SIZE) <= room for text in texts for word in text.split()):
        rows = [[part for line in text.split("\n") for part in wrapped(line, _TICK_SIZE, room)] for text in texts]
        if max(map(len, rows)) <= 5:
            return ["\n".join(lines) for lines in rows], False
    room, most_rows, shown = _MOST_OF_HEIGHT * height, max(1, int(pitch / _TICK_ROW)), list[int]()
    names = [text.split("\n")[0] for text in texts]
    if any(len(wrapped(name, _TICK_SIZE, room)) > most_rows for name in names):
        names = without_common_start(names)
    for index in sorted(range(len(texts)), key=lambda index: not data.series[index].remarks):
        if all(abs(places[index] - places[other]) >= _TICK_ROW for other in shown):
            name, counts = names[index], texts[index].split("\n")[1:]
            lines = shortened(name, _TICK_SIZE, room, most_rows, "".join(f", {count}" for count in counts))
            if counts and len(lines) > 1:
                lines = [*shortened(name, _TICK_SIZE, room, most_rows - 1), *shortened(", ".join(counts), _TICK_SIZE, room)]
            shown.append(index)
            texts[index] = "\n".join(lines)
    return [text if index in shown else "" for index, text in enumerate(texts)], True


def _final(axes: Axes, data: FigureData, width: float, height: float) -> None:
    _prepare(axes, data)
    low, high = data.y_range or (0.0, 1.0)
    axes.set_ylim(low, high)
    positions = [position for position, _ in data.x_ticks]
    span = (max(positions) - min(positions)) or 1.0
    nearest = min((b - a for a, b in zip(sorted(positions), sorted(positions)[1:])), default=span)
    axes.set_xlim(min(positions) - _EDGE * span - 0.001, max(positions) + _EDGE * span + 0.001)
    labels, upright = _tick_labels(data, width, height)
    axes.set_xticks(positions, labels, fontsize=_of(_TICK_SIZE), rotation=90 if upright else 0)
    axes.tick_params(axis="x", length=0, pad=_of(6))
    known = [one for one in data.series if one.x and one.mean[0] >= low]
    if data.joined:
        axes.plot(
            [one.x[0] for one in known], [one.mean[0] for one in known], color=FAINT, linewidth=_of(1), linestyle=(0, (2, 2))
        )
    for one, position in zip(data.series, positions, strict=True):
        colour = COLOURS[data.series.index(one) % len(COLOURS)]
        for index, (_, value) in enumerate(one.seeds):
            shift = (index - (len(one.seeds) - 1) / 2) / max(len(one.seeds), 8) * 0.22 * min(nearest, 0.5 * span)
            marker, alpha = ("o", 0.38) if value >= low else ("v", 0.8)
            shown = max(value, low + 0.02 * (high - low))
            axes.plot(position + shift, shown, marker, color=colour, alpha=alpha, markersize=_of(4.5), mew=0)
        if one.x and one.mean[0] >= low:
            _point(axes, one, colour)
        _tell_hidden(axes, one, position, upright=upright)


def _tell_hidden(axes: Axes, one: Series, position: float, *, upright: bool) -> None:
    """Write the values below the axis over their triangles, or beside them where the mean or its interval is."""
    low, high = axes.get_ylim()
    hidden = sorted(value for _, value in one.seeds if value < low)
    if not hidden:
        return
    words = " ".join(f"{value:.1f}" for value in hidden) if len(hidden) < 3 else f"{hidden[0]:.1f} to {hidden[-1]:.1f}"
    if one.mean[0] < low:
        words = f"mean {one.mean[0]:.1f}" + (f"\n({words})" if len(hidden) > 1 else "")
    drawn = [end for end in (one.mean[0], one.low[0]) if one.mean[0] >= low and not math.isnan(end)]
    beside = any(end < low + 0.15 * (high - low) for end in drawn)
    place: dict[str, Any] = {"xytext": (_of(8) if beside else 0, _of(14)), "textcoords": "offset points", "va": "bottom"}
    place |= {"ha": "left" if beside else "center", "rotation": 90 if upright else 0}
    axes.annotate(words, (position, low), fontsize=_of(8), **place)


def _point(axes: Axes, one: Series, colour: str) -> None:
    x, mean, low, high = one.points()[0]
    single = math.isnan(low)
    if not single:
        axes.errorbar([x], [mean], [[mean - low], [high - mean]], color=colour, **_whiskers())
    axes.plot([x], [mean], "o", color=colour, markersize=_of(9), markerfacecolor="none" if single else colour, mew=_of(2))


def _whiskers() -> dict[str, Any]:
    return {"capsize": _of(5), "linewidth": _of(2), "capthick": _of(2)}


_MOST_NODES, _MOST_WORKERS = 48, 12
_CELL, _GAP, _BETWEEN, _LEFT = 0.15, 0.035, 0.06, 2.45


def _layout(axes: Axes, data: FigureData, width: float, height: float) -> None:
    axes.set_axis_off()
    depth = 0.0
    for index, grid in enumerate(data.grids):
        _draw_grid(axes, grid, depth, COLOURS[index % len(COLOURS)], width)
        depth += _grid_size(grid, width)[1]
    axes.set_xlim(0, width)
    axes.set_ylim(depth, -0.05)


def _grid_size(grid: WorkerGrid, width: float) -> tuple[int, float]:
    """Return how many nodes stand in a row, and the height of a grid in inches."""
    num_shown = min(grid.workers_per_node, _MOST_WORKERS)
    num_columns = _columns_of(grid)
    nodes_a_row = max(1, int((width - _LEFT - 0.1) / (num_columns * _CELL + 2 * _GAP + _BETWEEN)))
    nodes_a_row -= nodes_a_row % 10 if nodes_a_row > 10 else 0  # rows of tens are counted at a glance
    nodes = grid.num_nodes if grid.num_nodes <= _MOST_NODES else _MOST_NODES - 1
    rows = math.ceil(nodes / nodes_a_row) * (math.ceil(num_shown / num_columns) * _CELL + 2 * _GAP + _BETWEEN)
    hidden = nodes < grid.num_nodes or num_shown < grid.workers_per_node
    return nodes_a_row, max(rows + (0.25 if hidden else 0.0), 0.42) + 0.16


def _columns_of(grid: WorkerGrid) -> int:
    return min(grid.workers_per_node, _MOST_WORKERS, 3 if grid.num_nodes > 4 else 6)


def _draw_grid(axes: Axes, grid: WorkerGrid, top: float, colour: str, width: float) -> None:
    """Draw one grid from `top` downwards (in inches)."""
    num_shown = min(grid.workers_per_node, _MOST_WORKERS)
    num_columns, (nodes_a_row, _) = _columns_of(grid), _grid_size(grid, width)
    box, height = num_columns * _CELL + 2 * _GAP, math.ceil(num_shown / num_columns) * _CELL
    pitch = box + _BETWEEN
    nodes = grid.num_nodes if grid.num_nodes <= _MOST_NODES else _MOST_NODES - 1
    for node in range(nodes):
        x = _LEFT + (node % nodes_a_row) * pitch
        y = top + (node // nodes_a_row) * (height + 2 * _GAP + _BETWEEN)
        frame = FancyBboxPatch((x, y), box, height + 2 * _GAP, boxstyle="round,pad=0,rounding_size=0.04", fill=False)
        frame.set(edgecolor=FAINT, linewidth=_of(0.7))
        axes.add_patch(frame)
        for worker in range(num_shown):
            corner = (x + _GAP + worker % num_columns * _CELL + 0.015, y + _GAP + worker // num_columns * _CELL + 0.015)
            axes.add_patch(Rectangle(corner, _CELL - 0.03, _CELL - 0.03, facecolor=colour, alpha=0.8, linewidth=0))
    num_rows = math.ceil(nodes / nodes_a_row)
    used = num_rows * (height + 2 * _GAP + _BETWEEN)
    hidden = []
    if nodes < grid.num_nodes:
        hidden.append(f"{grid.num_nodes - nodes:,} more nodes")
    if num_shown < grid.workers_per_node:
        hidden.append(f"{grid.workers_per_node - num_shown:,} more workers in each node")
    if hidden:
        axes.text(_LEFT, top + used + 0.1, f"… and {' and '.join(hidden)}", va="center", fontsize=_of(8.5), color=FAINT)
    axes.text(0.02, top + 0.1, f"{grid.global_batch:,} images a step", va="center", fontweight="bold", fontsize=_of(10.5))
    nodes_word = "node" if grid.num_nodes == 1 else "nodes"
    workers_word = "worker" if grid.workers_per_node == 1 else "workers"
    words = f"{grid.num_nodes:,} {nodes_word} × {grid.workers_per_node:,} {workers_word} × {grid.images_per_worker:,} images"
    axes.text(0.02, top + 0.3, words, va="center", fontsize=_of(8.5), color=FAINT)


_VERDICT_MARKS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}
_LINE_WIDTH = 34


def _differences(axes: Axes, data: FigureData, width: float, height: float) -> None:
    """Draw one row a comparison: single seeds as dots, the mean with its interval, the margin as a band around zero."""
    _prepare(axes, data)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    rows = len(data.series)
    values = [value for one in data.series for _, value in one.seeds]
    ends = [end for one in data.series for end in (*one.low, *one.high) if not math.isnan(end)]
    margin = data.margin or 0.0
    low, high = min([*values, *ends, -1.4 * margin]), max([*values, *ends, 1.4 * margin])
    room = 0.05 * (high - low or 1.0)
    axes.axvspan(-margin, margin, color=RULE, alpha=0.75, linewidth=0)
    axes.axvline(0, color=FAINT, linewidth=_of(1))
    for row, one in enumerate(data.series):
        colour = COLOURS[row % len(COLOURS)]
        for index, (_, value) in enumerate(one.seeds):
            shift = 0.12 + 0.2 * (index % 4) / 3
            axes.plot(value, row + shift, "o", color=colour, alpha=0.45, markersize=_of(4.5), mew=0)
        if one.x:
            x, left, right = one.mean[0], one.low[0], one.high[0]
            if not math.isnan(left):
                axes.errorbar([x], [row - 0.12], xerr=[[x - left], [right - x]], color=colour, **_whiskers())
            face = "none" if math.isnan(left) else colour
            axes.plot([x], [row - 0.12], MARKERS[row % len(MARKERS)], color=colour, markersize=_of(8), mfc=face, mew=_of(2))
    labels = [f"{_wrapped(one.label)}\nn = {one.num_seeds}" for one in data.series]
    axes.set_yticks(range(rows), labels, fontsize=_of(9))
    axes.tick_params(axis="y", length=0, pad=_of(8))
    axes.set_ylim(max(rows, 1) - 0.42, -0.5)
    axes.set_xlim(min(low, 0.0) - room, max(high, 0.0) + room)
    words = f"{_VERDICT_MARKS[data.verdict]} {data.verdict}" + (f", margin ±{margin:g}" if margin else "")
    axes.set_title(words, loc="left", fontsize=_of(10), fontweight="bold")


def _wrapped(label: str) -> str:
    first, _, second = label.partition(" minus ")
    parts = [first, f"minus {second}"] if second else [first]
    return "\n".join(textwrap.shorten(part, _LINE_WIDTH, placeholder="…") or part[:_LINE_WIDTH] for part in parts)


_PANELS: dict[str, Callable[[Axes, FigureData, float, float], None]] = {
    "curves": _curves,
    "zoomed": _curves,
    "final": _final,
    "layout": _layout,
    "differences": _differences,
}
