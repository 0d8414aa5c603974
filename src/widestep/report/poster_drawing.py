"""A study's poster drawn: A0, landscape, as PDF and SVG; what does not fit is made smaller, then left out by name."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle

from widestep.report.drawing import NO_METADATA, styled
from widestep.report.panels import FAINT, INK, RULE, panel, panel_height
from widestep.report.panels import WIDTH as PANEL_WIDTH
from widestep.report.plotted import FigureData
from widestep.report.poster import Block, Poster, Said, Shown
from widestep.report.poster_text import Bar, Line, Pen, fitting_size, line_height, text_width

WIDTH, HEIGHT = 1189 / 25.4, 841 / 25.4
"""A0, landscape, in inches."""
_MARGIN, _GUTTER, _SIDE = 1.0, 0.8, (9.6, 10.5)
_HEADER, _BODY, _STRONG, _SMALL, _TITLE = "#12344d", 25.0, 25.0, 19.0, 36.0
_SIZES = [1.3 - 0.05 * step for step in range(16)]
_PANEL_SCALE = 1.75
_MARKS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}
_COLOURS = {"supported": "#0b7a4b", "contradicted": "#b3400a", "undecided": "#59636e"}


@dataclass(frozen=True)
class DrawnPoster:
    """A drawn poster, and what is on it: items that found no room are left out and named."""

    pdf: bytes
    svg: str
    shown: Poster
    lines: list[Line]


def draw_poster(poster: Poster) -> DrawnPoster:
    """Draw a poster; equal posters give equal bytes."""
    with styled("widestep-poster", _PANEL_SCALE):
        head, foot = _header(poster), _footer(poster.footer)
        top, bottom = head.y + 0.7, HEIGHT - foot.y - 0.35
        left, poster_left, out_left = _column(poster.left, _MARGIN, top, _SIDE[0], bottom)
        right, poster_right, out_right = _column(poster.right, WIDTH - _MARGIN - _SIDE[1], top, _SIDE[1], bottom)
        shown = replace(poster, left=poster_left, right=poster_right, left_out=[*poster.left_out, *out_left, *out_right])
        for one in foot.lines:
            head.lines.append(replace(one, y=one.y + HEIGHT - foot.y))
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=72, facecolor="white")
        pens = [head, left, right]
        captions = _figures(figure, poster.figures, top, bottom)
        _paint(figure, [*pens, captions])
        pdf, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(pdf, format="pdf", metadata=dict.fromkeys(("CreationDate", "Creator", "Producer")))
        figure.savefig(svg, format="svg", metadata=NO_METADATA)
    return DrawnPoster(
        pdf.getvalue(), svg.getvalue().decode(), shown, [one for pen in (*pens, captions) for one in pen.lines]
    )


def _header(poster: Poster) -> Pen:
    pen = Pen(_MARGIN, 0.75, WIDTH - 2 * _MARGIN)
    size = fitting_size(poster.title.text, [84, 76, 68, 60, 54, 48, 42, 36, 30, 24, 20], pen.width, 2, bold=True)
    pen.write(poster.title.text, size, "#ffffff", bold=True)
    pen.skip(10)
    size = fitting_size(poster.subtitle.text, [34, 30, 26, 22, 18], pen.width, 1)
    pen.write(poster.subtitle.text, size, "#d6e4ee")
    pen.y += 0.45
    pen.bars.append(Bar(0, 0, WIDTH, pen.y, _HEADER))
    return pen


def _footer(said: Sequence[Said]) -> Pen:
    pen = Pen(_MARGIN, 0.0, WIDTH - 2 * _MARGIN)
    for one in said:
        size = fitting_size(one.text, [18, 16, 14, 12], pen.width, 1)
        pen.write(one.text, size, FAINT)
    pen.y += 0.5
    return pen


def _column(
    blocks: Sequence[Block], x: float, top: float, width: float, bottom: float
) -> tuple[Pen, list[Block], list[str]]:
    """Write blocks at the largest size that fits; at the smallest, leave out the last items of the longest block."""
    kept = [replace(block, items=list(block.items)) for block in blocks]
    left_out: list[str] = []
    for scale in _SIZES:
        pen = _written(kept, Pen(x, top, width), scale, {})
        if pen.y <= bottom:
            return pen, kept, []
    dropped: dict[str, int] = {}
    while True:
        longest = max(kept, key=lambda block: len(block.items))
        if len(longest.items) <= 1:
            return pen, kept, left_out
        item = longest.items.pop()
        left_out.append((item.claim if isinstance(item, Shown) else item).text)
        dropped[longest.title] = dropped.get(longest.title, 0) + 1
        pen = _written(kept, Pen(x, top, width), _SIZES[-1], dropped)
        if pen.y <= bottom:
            return pen, kept, left_out


def _written(blocks: Sequence[Block], pen: Pen, scale: float, dropped: dict[str, int]) -> Pen:
    for block in blocks:
        pen.write(block.title, _TITLE * scale, _HEADER, bold=True)
        pen.fill(0.05, _HEADER)
        pen.skip(12 * scale)
        for item in block.items:
            if isinstance(item, Shown):
                _write_finding(item, pen, scale)
            else:
                bold, size = item.style == "strong", _SMALL if item.style == "small" else _BODY
                pen.write(item.text, size * scale, INK, bold=bold, bullet="•" if item.style == "bullet" else "")
                pen.skip(8 * scale)
        if block.title in dropped:
            pen.write(f"… and {dropped[block.title]} more in the report", _SMALL * scale, FAINT)
        pen.skip(26 * scale)
    pen.y -= 26 * scale / 72
    return pen


def _write_finding(one: Shown, pen: Pen, scale: float) -> None:
    pen.write(one.claim.text, _STRONG * scale, INK, bold=True)
    pen.skip(5 * scale)
    size, colour = _SMALL * 1.1 * scale, _COLOURS[one.verdict]
    words = f"{_MARKS[one.verdict]} {one.verdict}"
    width, height = text_width(words, size, bold=True) + 0.5 * scale, line_height(size) + 0.1 * scale
    fill = "#ffffff" if one.verdict == "undecided" else colour
    pen.bars.append(Bar(pen.x, pen.y, width, height, fill, height / 2, colour))
    ink = colour if one.verdict == "undecided" else "#ffffff"
    pen.lines.append(Line(pen.x + 0.25 * scale, pen.y + 0.05 * scale, words, size, True, ink))
    room = pen.width - width - 0.25 * scale
    effect = fitting_size(one.effect.text, [_BODY * scale * share for share in (1.0, 0.92, 0.84)], room, 1)
    if text_width(one.effect.text, effect) <= room:
        down = (height - line_height(effect)) / 2
        pen.lines.append(Line(pen.x + width + 0.25 * scale, pen.y + down, one.effect.text, effect, False, INK))
        pen.y += height
    else:
        pen.y += height
        pen.write(one.effect.text, effect, INK)
    pen.skip(6 * scale)
    _forest(one, pen, scale)
    pen.write(one.test.text, _SMALL * scale, FAINT)
    pen.skip(18 * scale)


def _forest(one: Shown, pen: Pen, scale: float) -> None:
    """Draw the effect with its interval over the margin and zero, to scale within the claim."""
    found = one.finding
    if found.effect is None or found.interval is None:
        return
    margin = found.margin if found.unit == "points" else 0.0
    low, high = min(found.interval[0], -1.3 * margin, 0.0), max(found.interval[1], 1.3 * margin, 0.0)
    room = 0.04 * (high - low or 1.0)
    start, span = low - room, high - low + 2 * room or 1.0
    height, thick = 0.42 * scale, 0.06 * scale

    def place(value: float) -> float:
        return pen.x + pen.width * (value - start) / span

    (_left, _right), _effect = found.interval, found.effect
    middle, colour = pen.y + height / 2, _COLOURS[one.verdict]
    pen.bars += [
        Bar(pen.x, middle - 0.01, pen.width, 0.02, RULE),
        Bar(place(-margin), pen.y, place(margin) - place(-margin), height, RULE),
        Bar(place(0) - 0.015, pen.y, 0.03, height, FAINT),
        Bar(
            place(found.interval[0]), middle - thick / 2, place(found.interval[1]) - place(found.interval[0]), thick, colour
        ),
        Bar(place(found.effect) - 0.11 * scale, middle - 0.11 * scale, 0.22 * scale, 0.22 * scale, colour, 0.11 * scale),
    ]
    pen.y += height + 0.08 * scale


def _figures(figure: Figure, chosen: Sequence[tuple[FigureData, Said]], top: float, bottom: float) -> Pen:
    """Draw the figures in two columns in the middle; returns their captions."""
    left, right = _MARGIN + _SIDE[0] + _GUTTER, WIDTH - _MARGIN - _SIDE[1] - _GUTTER
    num_columns = 2 if len(chosen) > 1 else 1
    rows = -(-len(chosen) // num_columns)
    width = (right - left - _GUTTER * (num_columns - 1)) / num_columns
    height = min((bottom - top + 0.5) / max(rows, 1), 12.0)
    captions, renderer = Pen(left, top, width), FigureCanvasAgg(figure).get_renderer()
    for index, (data, caption) in enumerate(chosen):
        x, y = left + index % num_columns * (width + _GUTTER), top + index // num_columns * height
        pen = Pen(x, y, width)
        pen.write(caption.text, fitting_size(caption.text, [25, 22, 19, 16, 13, 10], width, 2, bold=True), INK, bold=True)
        pen.write(f"numbers: figures/{data.file_name}.csv", 13, FAINT)
        _fit(figure, renderer, data, (x, pen.y + 0.1, width, y + height - 0.5 - pen.y - 0.1))
        captions.lines += pen.lines
    return captions


def _fit(figure: Figure, renderer: RendererAgg, data: FigureData, box: tuple[float, float, float, float]) -> None:
    """Draw a figure such that everything that belongs to its axes lies within a box."""
    x, y, width, height = box
    if data.kind == "layout":  # its lengths are inches, so all of it grows or shrinks
        scale = min(width / PANEL_WIDTH, height / panel_height(data))
        width, height, low = PANEL_WIDTH * scale, panel_height(data) * scale, HEIGHT - y - panel_height(data) * scale
        with styled("widestep-poster", scale):
            axes = figure.add_axes((x / WIDTH, low / HEIGHT, width / WIDTH, height / HEIGHT))
            panel(axes, data)
        return
    axes = figure.add_axes((x / WIDTH, 1 - (y + height) / HEIGHT, width / WIDTH, height / HEIGHT))
    panel(axes, data, width / _PANEL_SCALE, height / _PANEL_SCALE)
    wanted = (x * 72, (HEIGHT - y - height) * 72, (x + width) * 72, (HEIGHT - y) * 72)
    edges = list(wanted)
    for _ in range(3):
        found = axes.get_tightbbox(renderer)
        assert found is not None
        edges = [edge + want - is_now for edge, want, is_now in zip(edges, wanted, found.extents, strict=True)]
        left, low, right, high = edges
        axes.set_position((left / 72 / WIDTH, low / 72 / HEIGHT, (right - left) / 72 / WIDTH, (high - low) / 72 / HEIGHT))


def _paint(figure: Figure, pens: Sequence[Pen]) -> None:
    inches = figure.dpi_scale_trans
    for bar in (bar for pen in pens for bar in pen.bars):
        corner = (bar.x, HEIGHT - bar.y - bar.height)
        if bar.radius:
            style = f"round,pad=0,rounding_size={bar.radius:.4f}"
            shape: Patch = FancyBboxPatch(corner, bar.width, bar.height, boxstyle=style, transform=inches)
        else:
            shape = Rectangle(corner, bar.width, bar.height, transform=inches)
        shape.set(facecolor=bar.colour, edgecolor=bar.edge or "none", linewidth=2 if bar.edge else 0)
        figure.add_artist(shape)
    for line in (line for pen in pens for line in pen.lines):
        weight = "bold" if line.bold else "normal"
        y = HEIGHT - line.y - 0.5 * line_height(line.size)
        text = figure.text(line.x, y, line.text, size=line.size, weight=weight, color=line.colour, va="center_baseline")
        text.set_transform(inches)
