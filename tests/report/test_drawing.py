"""Drawings: the same bytes every time, valid SVG with text, styles that differ by more than colour, hostile names."""

import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import pytest

from widestep.plan.grid import WorkerGrid
from widestep.report.drawing import draw
from widestep.report.plotted import FigureData, Inset, Series

NAN = float("nan")
SPACE = "{http://www.w3.org/2000/svg}"


def curves(labels=("a", "b"), kind="curves", **extra):
    series = [
        Series(label, [1.0, 2.0, 3.0], [10.0 + k, 50.0, 90.0], [9.0, 49.0, NAN], [11.0, 51.0, NAN], [3, 3, 1], 3)
        for k, label in enumerate(labels)
    ]
    return FigureData(1, kind, "A title", "A caption.", "epoch", series=series, y_range=(0, 100), **extra)


def final(labels=("a", "b")):
    series = [
        Series(labels[0], [0.0], [95.0], [94.0], [96.0], [3], 3, seeds=[(0, 94.5), (1, 95.5), (2, 10.0)]),
        Series(labels[1], [5.0], [90.0], [NAN], [NAN], [1], 1, num_diverged=2, seeds=[(0, 90.0)]),
        Series("none", [], [], [], [], [], 0, num_missing=3),
    ]
    ticks = [(0.0, "0\nn = 3"), (5.0, "5\nn = 1"), (10.0, "10\nn = 0")]
    return FigureData(
        4, "final", "Final", "A caption.", "warmup", series=series, y_range=(85, 97), x_ticks=ticks, joined=True
    )


def layout(*grids):
    return FigureData(1, "layout", "Workers", "A caption.", grids=[WorkerGrid.parse(text) for text in grids])


ALL = [curves(), curves(kind="zoomed"), curves(inset=Inset(2.0, 80.0, 95.0)), final(), layout("4x1x8", "40x6x128")]


@pytest.mark.parametrize("data", ALL, ids=["curves", "zoomed", "inset", "final", "layout"])
def test_equal_data_give_equal_bytes_whatever_the_user_style(data):
    first = draw(data)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.hashsalt": "other", "axes.grid": True}):
        second = draw(data)
    assert first == second
    assert first.png.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"matplotlib" not in first.png.lower()
    assert "<metadata" not in first.svg


def texts(svg):
    return ["".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter(f"{SPACE}text")]


def test_text_is_text():
    said = texts(draw(curves()).svg)
    assert {"A title", "a, n = 3", "b, n = 3", "epoch", "validation accuracy (%)"} <= set(said)


def test_values_below_the_axis_are_written_out():
    said = texts(draw(final()).svg)
    assert "10.0" in said
    assert "n = 0" in said


def test_series_differ_in_colour_line_and_marker():
    svg = draw(curves(labels=tuple("abcde"))).svg
    lines = {element.get("style") for element in ElementTree.fromstring(svg).iter(f"{SPACE}path") if element.get("style")}
    dashes = {part for style in lines for part in style.split(";") if "dasharray" in part}
    strokes = {part for style in lines for part in style.split(";") if part.strip().startswith("stroke: #")}
    assert len(dashes) >= 4  # and one solid line
    assert len(strokes) >= 5


def test_large_grids_are_abbreviated():
    said = texts(draw(layout("300x16x32")).svg)
    assert "… and 253 more nodes and 4 more workers in each node" in said
    assert "153,600 images a step" in said
    assert not any(text.startswith("…") for text in texts(draw(layout("40x6x128")).svg))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "--> ]]> &amp;", "$\\frac{1}{$", "_hidden", "数 ☃", ""])
def test_hostile_names_are_text(name):
    for data in (curves(labels=(name, "b")), final(labels=(name, "b"))):
        svg = draw(data).svg
        root = ElementTree.fromstring(svg)
        assert not list(root.iter(f"{SPACE}script"))
    assert any(name.lstrip("_") in text for text in texts(draw(curves(labels=(name, "b"))).svg))


def test_no_data_at_all():
    empty = FigureData(2, "curves", "Nothing", "", series=[Series("a", [], [], [], [], [], 0)])
    assert "no complete run yet" in texts(draw(empty).svg)
