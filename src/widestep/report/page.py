"""One self-contained page: every name escaped, nothing loaded from anywhere, complete without scripts, light or dark."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

import widestep
from widestep.report.claims import Finding
from widestep.report.drawing import Drawing
from widestep.report.embedded import ArmCurves, scripts
from widestep.report.panels import FAINT, INK, PAPER, RULE
from widestep.report.plotted import FigureData, Series

_MARKS = {"supported": "✓", "contradicted": "✕", "undecided": "?"}
_FOREST_WIDTH, _FOREST_MIDDLE = 190.0, 13.0


@dataclass(frozen=True)
class Table:
    """A table with a heading; `words` say how to read it. Columns from `first_number` on hold numbers."""

    title: str
    headers: list[str]
    rows: list[list[str]]
    words: str = ""
    first_number: int = 1


@dataclass(frozen=True)
class FigureBlock:
    """A drawn figure with its numbers as a table."""

    data: FigureData
    drawing: Drawing

    @property
    def svg(self) -> Markup:
        """The figure for use inside the page."""
        return inline(self.drawing.svg, self.data.alternative)

    @property
    def table(self) -> Table:
        """The figure's numbers."""
        return figure_table(self.data)


@dataclass(frozen=True)
class AuditSection:
    """What an audit of the runs came to: in general, what it found, what else it saw, and a digest of every setting."""

    lead: str
    found: list[str]
    notes: list[str]
    table: Table


@dataclass(frozen=True)
class Page:
    """Everything that the page shows, in its order; empty parts are left out."""

    eyebrow: str
    title: str
    counts: list[tuple[str, str]]
    notices: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    findings_words: str = ""
    figures: list[FigureBlock] = field(default_factory=list)
    arms: list[ArmCurves] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    audit: AuditSection | None = None
    method: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    glossary: list[tuple[str, str]] = field(default_factory=list)

    @property
    def of_claims(self) -> list[FigureBlock]:
        """The figures that show a claim seed by seed; they stand before the others."""
        return [block for block in self.figures if block.data.kind == "differences"]

    @property
    def others(self) -> list[FigureBlock]:
        """The figures that the study file asks for."""
        return [block for block in self.figures if block.data.kind != "differences"]


def render(page: Page) -> str:
    """Return the page as HTML text; the same page gives the same bytes."""
    template, style = template_and_style("page.html")
    live = scripts([block.data for block in page.figures], page.arms) if page.figures else None
    shown = {block.data.claim: block.data.file_name for block in page.of_claims}
    values = {"page": page, "style": style, "live": live, "marks": _MARKS, "shown": shown, "forest": forest}
    return template.render(**values, version=widestep.__version__)


def template_and_style(name: str) -> tuple[Template, Markup]:
    """Return one of our templates, in which everything that comes from users is escaped, and the style of all pages."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(points=signed, p=p_text, code=coded, interval=interval_text)
    folder = resources.files("widestep.report")
    template = environment.from_string(folder.joinpath(name).read_text(encoding="utf-8"))
    return template, Markup(folder.joinpath("page.css").read_text(encoding="utf-8"))  # ours, not data


def along(width: float, reach: float, value: float) -> str:
    """Return the place of a value on an axis from -reach to reach that is drawn `width` pixels wide."""
    return f"{width * (0.5 + 0.5 * value / reach):.1f}"


def signed(value: float | None, decimals: int = 2) -> str:
    """Return a number with its sign, for example `+1.32` or `−0.56`; nothing is `–`.

    Examples
    --------
    >>> signed(-0.561), signed(0.0), signed(None)
    ('−0.56', '0.00', '–')
    """
    if value is None:
        return "–"
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def interval_text(ends: Sequence[float | None] | None) -> str:
    """Return an interval in brackets, or nothing."""
    return "" if ends is None or None in ends else f"[{signed(ends[0])}, {signed(ends[1])}]"


def p_text(p: float | None) -> str:
    """Return a p value as tables show it.

    Examples
    --------
    >>> p_text(0.0004), p_text(0.03125), p_text(None)
    ('< 0.001', '0.031', '–')
    """
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def coded(text: str) -> Markup:
    """Escape a text and set what stands between backticks as code."""
    parts = str(escape(text)).split("`")
    if len(parts) % 2 == 0:
        return Markup(escape(text))
    return Markup("".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts)))


def forest(finding: Finding) -> dict[str, Any] | None:
    """Return the places of a finding's small drawing: zero line, margin, interval and effect; None without an interval."""
    if finding.effect is None or finding.interval is None:
        return None
    margin = finding.margin if finding.unit == "points" else 0.0
    low, high = finding.interval
    reach = 1.12 * max(abs(low), abs(high), margin, 1e-9)

    place = partial(along, _FOREST_WIDTH, reach)

    return {
        "width": f"{_FOREST_WIDTH:g}",
        "height": f"{2 * _FOREST_MIDDLE:g}",
        "middle": f"{_FOREST_MIDDLE:g}",
        "zero": place(0),
        "margin_left": place(-margin),
        "margin_width": f"{_FOREST_WIDTH * margin / reach:.1f}",
        "low": place(low),
        "high": place(high),
        "effect": place(finding.effect),
    }


def inline(svg: str, alternative: str) -> Markup:
    """Return a drawn SVG fit for the page: its colours follow the page's, unneeded names and addresses are gone."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', body)
    assert view is not None
    attributes = f'{view[0]} role="img" aria-label="{escape(alternative)}" focusable="false"'
    body = re.sub(r"<svg[^>]*>", lambda _: f"<svg {attributes}>", body, count=1)
    used = set(re.findall(r"#([A-Za-z_][\w-]*)", body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    body = body.replace("xlink:href", "href")
    for colour, name in ((INK, "ink"), (FAINT, "faint"), (RULE, "rule"), (PAPER, "paper")):
        body = body.replace(colour, f"var(--{name})")
    return Markup(body)


def figure_table(data: FigureData) -> Table:
    """Return a figure's numbers as a table: curves side by side by epoch, otherwise one row a setting."""
    if data.kind == "layout":
        return Table("", [name.replace("_", " ") for name in data.columns()], [_words(row) for row in data.rows()])
    if data.kind == "differences":
        return Table(
            "", ["comparison", "n", "mean", "interval", "single seeds"], [_difference_row(one) for one in data.series]
        )
    if data.kind == "final":
        headers = ["setting", "n", "mean", "interval", "collapsed", "diverged", "missing", "single runs"]
        return Table("", headers, [_final_row(one) for one in data.series])
    epochs = sorted({x for one in data.series for x in one.x})
    columns = [{x: (mean, low, high) for x, mean, low, high in one.points()} for one in data.series]
    rows = [[f"{epoch:g}", *(_curve_value(column.get(epoch)) for column in columns)] for epoch in epochs]
    return Table("", ["epoch", *(one.legend for one in data.series)], rows)


def _words(row: Sequence[Any]) -> list[str]:
    return [f"{value:,}" if isinstance(value, int) else str(value) for value in row]


def _final_row(one: Series) -> list[str]:
    counts = [str(one.num_collapsed), str(one.num_diverged), str(one.num_missing)]
    if not one.x:
        return [one.label, "0", "–", "", *counts, ""]
    ends = "" if math.isnan(one.low[0]) else f"[{one.low[0]:.2f}, {one.high[0]:.2f}]"
    return [
        one.label,
        str(one.n[0]),
        f"{one.mean[0]:.2f}",
        ends,
        *counts,
        " ".join(f"{value:.2f}" for _, value in one.seeds),
    ]


def _difference_row(one: Series) -> list[str]:
    if not one.x:
        return [one.label, "0", "–", "", ""]
    ends = None if math.isnan(one.low[0]) else [one.low[0], one.high[0]]
    seeds = " ".join(signed(value) for _, value in one.seeds)
    return [one.label, str(one.n[0]), signed(one.mean[0]), interval_text(ends), seeds]


def _curve_value(value: tuple[float, float, float] | None) -> str:
    if value is None:
        return "–"
    mean, low, high = value
    return f"{mean:.4g}" if math.isnan(low) else f"{mean:.2f} [{low:.2f}, {high:.2f}]"
