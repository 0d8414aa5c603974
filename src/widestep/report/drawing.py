"""Drawing: figure data to SVG and PNG, the same bytes for the same data. The only module that imports the plotting library.

Colours are those of Okabe and Ito (told apart with every common colour blindness), and every series also has its own line
style and marker. Text stays text in the SVG, in whatever sans-serif font the reader's machine has.
"""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator

from widestep.plan.grid import WorkerGrid
from widestep.report.figures import FigureData, Series

INK = "#1b1f24"
"""Text and axes; the page replaces it by its own colour, which is light on a dark screen."""
FAINT = "#6a737d"
"""Secondary text."""
RULE = "#dde1e6"
"""Grid lines."""
PAPER = "#fffffe"
"""Background of an inset."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5699a", "#e69f00", "#56b4e9", "#8c6d4f")
_LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (3, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1.2, 1.4)), (0, (8, 2, 1, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_WIDTH, _HEIGHT = 8.4, 4.5
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.9,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Drawing:
    """A drawn figure."""

    svg: str
    png: bytes


def draw(data: FigureData) -> Drawing:
    """Draw a figure."""
    style: list[Any] = ["default", {**_STYLE, "svg.hashsalt": f"widestep-{data.number}"}]  # whatever the user's own style
    with mpl.style.context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+", category=UserWarning)  # names in any script are allowed
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
        _DRAWERS[data.kind](figure, data)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata=_NO_METADATA)
        figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return Drawing(svg.getvalue().decode(), png.getvalue())


def _prepared(figure: Figure, data: FigureData) -> Axes:
    axes = figure.add_subplot()
    figure.suptitle(data.title, x=0.012, ha="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(data.x_label)
    axes.set_ylabel(data.y_label)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    if not any(one.x for one in data.series):
        axes.text(0.5, 0.5, "no complete run yet", transform=axes.transAxes, ha="center", color=FAINT)
        axes.set_yticks([])
    return axes


def _curves(figure: Figure, data: FigureData) -> None:
    axes = _prepared(figure, data)
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
        inset.tick_params(labelsize=8, length=2)
        inset.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        inset.yaxis.set_major_locator(MaxNLocator(nbins=5))
        inset.grid(axis="y")
        inset.set_title("the last third, enlarged", loc="left", fontsize=8.5, color=FAINT, pad=4)
    _legend(axes, handles, data.series)


def _plot_curves(axes: Axes, series: list[Series]) -> list[Line2D]:
    """Draw means and bands; return one legend entry a series."""
    handles = []
    for index, one in enumerate(series):
        style: dict[str, Any] = {"color": _COLOURS[index % len(_COLOURS)], "linestyle": _LINES[index % len(_LINES)]}
        marked: dict[str, Any] = {"marker": _MARKERS[index % len(_MARKERS)], "markersize": 4.5}
        handles.append(Line2D([], [], **style, **marked))
        axes.fill_between(one.x, one.low, one.high, color=style["color"], alpha=0.14, linewidth=0)
        # One marker about every tenth of the curve, staggered so that markers of equal curves do not hide one another.
        spacing = max(1, len(one.x) // 9)
        axes.plot(one.x, one.mean, **style, **marked, markevery=(index * spacing // 5 % spacing, spacing))
    return handles


def _legend(axes: Axes, handles: list[Line2D], series: list[Series]) -> None:
    words = [one.legend.lstrip("_") for one in series]
    num_columns = max(1, min(3, len(words), 96 // (8 + max((len(text) for text in words), default=1))))
    axes.legend(
        handles,
        words,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=num_columns,
        frameon=False,
        fontsize=9,
        handlelength=3.2,
        columnspacing=1.6,
        borderaxespad=0.3,
    )


def _final(figure: Figure, data: FigureData) -> None:
    axes = _prepared(figure, data)
    low, high = data.y_range or (0.0, 1.0)
    axes.set_ylim(low, high)
    positions = [position for position, _ in data.x_ticks]
    span = (max(positions) - min(positions)) or 1.0
    nearest = min((b - a for a, b in zip(sorted(positions), sorted(positions)[1:])), default=span)
    axes.set_xlim(min(positions) - 0.08 * span - 0.001, max(positions) + 0.08 * span + 0.001)
    axes.set_xticks(positions, [text for _, text in data.x_ticks], fontsize=9)
    axes.tick_params(axis="x", length=0, pad=6)
    known = [one for one in data.series if one.x and one.mean[0] >= low]
    if data.joined:
        axes.plot(
            [one.x[0] for one in known], [one.mean[0] for one in known], color=FAINT, linewidth=1, linestyle=(0, (2, 2))
        )
    for one, position in zip(data.series, positions, strict=True):
        colour = _COLOURS[data.series.index(one) % len(_COLOURS)]
        for index, (_, value) in enumerate(one.seeds):
            shift = (index - (len(one.seeds) - 1) / 2) / max(len(one.seeds), 8) * 0.22 * min(nearest, 0.5 * span)
            marker, alpha = ("o", 0.38) if value >= low else ("v", 0.8)
            height = max(value, low + 0.02 * (high - low))
            axes.plot(position + shift, height, marker, color=colour, alpha=alpha, markersize=4.5, mew=0)
        if one.x and one.mean[0] >= low:
            _point(axes, one, colour)
        _tell_hidden(axes, one, position, low)


def _tell_hidden(axes: Axes, one: Series, position: float, low: float) -> None:
    """Write the values below the axis over their triangles."""
    hidden = sorted(value for _, value in one.seeds if value < low)
    if not hidden:
        return
    words = " ".join(f"{value:.1f}" for value in hidden) if len(hidden) < 3 else f"{hidden[0]:.1f} to {hidden[-1]:.1f}"
    if one.mean[0] < low:
        words = f"mean {one.mean[0]:.1f}" + (f"\n({words})" if len(hidden) > 1 else "")
    place: dict[str, Any] = {"xytext": (0, 14), "textcoords": "offset points", "ha": "center", "va": "bottom"}
    axes.annotate(words, (position, low), fontsize=8, **place)


def _point(axes: Axes, one: Series, colour: str) -> None:
    x, mean, low, high = one.points()[0]
    single = math.isnan(low)
    if not single:
        axes.errorbar([x], [mean], [[mean - low], [high - mean]], color=colour, capsize=5, linewidth=2, capthick=2)
    axes.plot([x], [mean], "o", color=colour, markersize=9, markerfacecolor="none" if single else colour, mew=2)


_MOST_NODES, _MOST_WORKERS = 48, 12
_CELL, _GAP, _BETWEEN, _LEFT = 0.15, 0.035, 0.06, 2.45


def _layout(figure: Figure, data: FigureData) -> None:
    figure.suptitle(data.title, x=0.012, ha="left", fontsize=12, fontweight="bold")
    axes = figure.add_subplot()
    axes.set_axis_off()
    depth = 0.0
    for index, grid in enumerate(data.grids):
        depth = _draw_grid(axes, grid, depth, _COLOURS[index % len(_COLOURS)])
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(depth, -0.05)
    figure.set_size_inches(_WIDTH, depth + 0.55)


def _draw_grid(axes: Axes, grid: WorkerGrid, top: float, colour: str) -> float:
    """Draw one grid from `top` downwards (in inches) and return where it ends."""
    num_shown = min(grid.workers_per_node, _MOST_WORKERS)
    num_columns = min(num_shown, 3 if grid.num_nodes > 4 else 6)
    width, height = num_columns * _CELL, math.ceil(num_shown / num_columns) * _CELL
    box, pitch = width + 2 * _GAP, width + 2 * _GAP + _BETWEEN
    nodes_a_row = max(1, int((_WIDTH - _LEFT - 0.1) / pitch))
    nodes_a_row -= nodes_a_row % 10 if nodes_a_row > 10 else 0  # rows of tens are counted at a glance
    nodes = grid.num_nodes if grid.num_nodes <= _MOST_NODES else _MOST_NODES - 1
    for node in range(nodes):
        x = _LEFT + (node % nodes_a_row) * pitch
        y = top + (node // nodes_a_row) * (height + 2 * _GAP + _BETWEEN)
        frame = FancyBboxPatch((x, y), box, height + 2 * _GAP, boxstyle="round,pad=0,rounding_size=0.04", fill=False)
        frame.set(edgecolor=FAINT, linewidth=0.7)
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
        axes.text(_LEFT, top + used + 0.1, f"… and {' and '.join(hidden)}", va="center", fontsize=8.5, color=FAINT)
        used += 0.25
    axes.text(0.02, top + 0.1, f"{grid.global_batch:,} images a step", va="center", fontweight="bold", fontsize=10.5)
    nodes_word = "node" if grid.num_nodes == 1 else "nodes"
    workers_word = "worker" if grid.workers_per_node == 1 else "workers"
    words = f"{grid.num_nodes:,} {nodes_word} × {grid.workers_per_node:,} {workers_word} × {grid.images_per_worker:,} images"
    axes.text(0.02, top + 0.3, words, va="center", fontsize=8.5, color=FAINT)
    return top + max(used, 0.42) + 0.16


_DRAWERS: dict[str, Callable[[Figure, FigureData], None]] = {
    "curves": _curves,
    "zoomed": _curves,
    "final": _final,
    "layout": _layout,
}
