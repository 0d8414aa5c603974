"""What the page's script works with: the curves and tables of all figures, as data inside the page, within a budget."""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from markupsafe import Markup

from widestep.plan.plain import csv_text
from widestep.report.panels import COLOURS, LINES, MARKERS
from widestep.report.plotted import FigureData, Series

MOST_SINGLE_VALUES = 150_000
"""Values of single seeds that a page takes, about a megabyte; above it holds means and intervals alone."""


@dataclass(frozen=True)
class ArmCurves:
    """The curves of one arm, for the figure in which a reader chooses among all arms."""

    title: str
    series: list[Series]


@dataclass(frozen=True)
class Scripts:
    """The page's scripts and data, fit for script elements, and the policy that allows these scripts and nothing else."""

    plotting: Markup
    ours: Markup
    data: Markup
    style: Markup
    policy: str


def scripts(figures: Sequence[FigureData], arms: Sequence[ArmCurves]) -> Scripts:
    """Return what a page needs to make its curves answer to the reader."""
    folder = resources.files("widestep.report")
    library, licence, style, chart, page = (
        folder.joinpath(name).read_text(encoding="utf-8")
        for name in ("vendored/uPlot.iife.min.js", "vendored/uPlot.LICENSE", "vendored/uPlot.min.css", "chart.js", "page.js")
    )
    ours = f"\n{chart}{page}"
    code = library.partition("*/")[2].strip()  # its first comment is an address, which the licence stands for
    plotting = f"\n/* uPlot 1.6.32\n{licence.strip()}\n*/\n{code}\n"
    sources = " ".join(f"'sha256-{_digest(text)}'" for text in (plotting, ours))
    return Scripts(
        Markup(plotting), Markup(ours), as_script(embedded(figures, arms)), Markup(style), f"script-src {sources}; "
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def as_script(value: Any) -> Markup:
    """Return JSON that is text for HTML whatever strings it holds: no markup, no line separators, ASCII alone.

    Examples
    --------
    >>> str(as_script({"name": "</script>\\u2028&"}))
    '{"name":"\\\\u003c/script\\\\u003e\\\\u2028\\\\u0026"}'
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def embedded(figures: Sequence[FigureData], arms: Sequence[ArmCurves]) -> dict[str, Any]:
    """Return the page's data: styles, every curve once, which curves each figure and arm shows, and all tables as CSV."""
    plotted = [figure for figure in figures if figure.by_epoch]
    shown = [one for figure in plotted for one in figure.series] + [one for arm in arms for one in arm.series]
    curves: list[Series] = []
    for one in shown:
        if one not in curves:
            curves.append(one)
    fits = sum(len(values) for one in curves for values in one.runs.values()) <= MOST_SINGLE_VALUES
    return {
        "styles": _styles(),
        "curves": [_curve(one, with_runs=fits) for one in curves],
        "figures": {
            figure.file_name: {
                "x": figure.x_label,
                "y": figure.y_label,
                "range": figure.y_range,
                "curves": [curves.index(one) for one in figure.series],
            }
            for figure in plotted
        },
        "arms": [{"title": arm.title, "curves": [curves.index(one) for one in arm.series]} for arm in arms],
        "csv": {figure.file_name: csv_text(figure.columns(), figure.rows()) for figure in figures},
    }


def _styles() -> dict[str, Any]:
    """Return colours, dashes in widths of the line, and markers, as the drawn figures have them."""
    return {
        "colours": list(COLOURS),
        "dashes": [[] if line == "-" else list(line[1]) for line in LINES],
        "markers": list(MARKERS),
    }


def _curve(one: Series, *, with_runs: bool) -> dict[str, Any]:
    runs = {str(seed): _rounded(values) for seed, values in one.runs.items()} if with_runs else {}
    return {
        "label": one.label,
        "legend": one.legend,
        "x": _rounded(one.x),
        "mean": _rounded(one.mean),
        "low": _rounded(one.low),
        "high": _rounded(one.high),
        "n": one.n,
        "runs": runs,
    }


def _rounded(values: Sequence[float]) -> list[float | None]:
    """Return values to five digits, which is beyond what a screen shows; what is no number is nothing."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
