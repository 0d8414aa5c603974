"""Drawings: the same bytes every time, valid SVG with text, styles that differ by more than colour, hostile names."""

import itertools
import warnings
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from widestep.plan.grid import WorkerGrid
from widestep.report import drawing
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


def drawn(data, monkeypatch):
    """Draw, and return the figure itself with its axes as they were laid out for the PNG."""
    made = []

    class Kept(Figure):
        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

        def savefig(self, *_, **__):
            self.set_dpi(160)
            self.draw_without_rendering()

    with warnings.catch_warnings(), monkeypatch.context() as patch:
        warnings.simplefilter("error")
        patch.setattr(drawing, "Figure", Kept)
        draw(data)
    return made[0], made[0].axes[0]


def touching(texts):
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    return [one for one in itertools.combinations(boxes, 2) if one[0].overlaps(one[1])]


NAMES = ["{}", "80 images a step (10x1x8), warmup {} epochs, base lr 0.045", "{} " + "m" * 300]
KINDS = ["short", "long", "endless"]


@pytest.mark.parametrize("number", [2, 8, 20, 40, 200])
@pytest.mark.parametrize("name", NAMES, ids=KINDS)
def test_a_legend_leaves_room_for_the_curves(number, name, monkeypatch):
    labels = [name.format(index) for index in range(number)]
    figure, axes = drawn(curves(labels=labels), monkeypatch)
    page, box = figure.bbox, axes.get_legend().get_window_extent()
    assert axes.get_window_extent().height > 0.35 * page.height
    assert box.height <= 0.42 * page.height
    assert box.x1 <= page.x1
    assert not box.overlaps(figure._suptitle.get_window_extent())
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    if len(said) < number:
        assert said[-1] == f"and {number - len(said) + 1} more"
        said = said[:-1]
    assert all(text.endswith(", n = 3") for text in said)
    assert number > 8 or len(said) == number or "m" * 20 in name


def settings(labels, positions=None, remark="n = 4"):
    places = positions or [float(index) for index in range(len(labels))]
    series = [Series(label, [x], [95.0], [94.0], [96.0], [4], 4) for label, x in zip(labels, places, strict=True)]
    ticks = [(x, f"{label}\n{remark}") for label, x in zip(labels, places, strict=True)]
    return FigureData(1, "final", "Final", "", series=series, y_range=(90, 100), x_ticks=ticks, joined=positions is not None)


@pytest.mark.parametrize("remark", ["n = 4", "n = 4\n2 collapsed\n1 missing"], ids=["n", "remarks"])
@pytest.mark.parametrize("name", NAMES, ids=KINDS)
@pytest.mark.parametrize("number", [1, 2, 6, 8, 20, 40, 80])
def test_labels_of_settings_do_not_touch(number, name, remark, monkeypatch):
    labels = [name.format(index) for index in range(number)]
    figure, axes = drawn(settings(labels, remark=remark), monkeypatch)
    texts = axes.get_xticklabels()
    assert not touching(texts)
    assert axes.get_window_extent().height > 0.35 * figure.bbox.height
    assert sum(bool(text.get_text()) for text in texts) == number or number > 40
    assert all(text.get_window_extent().y0 >= 0 for text in texts if text.get_text())


@pytest.mark.parametrize("places", [[0, 0.1, 0.2, 0.3, 0.4, 8], [8, 0, 0.01], [32, 48, 64, 80, 160, 320]])
def test_close_numbers_are_thinned_where_they_would_touch(places, monkeypatch):
    data = settings([f"{place:g}" for place in places], [float(place) for place in places])
    _, axes = drawn(data, monkeypatch)
    assert not touching(axes.get_xticklabels())
    said = [text.get_text() for text in axes.get_xticklabels()]
    assert any(text.startswith(f"{max(places)}") for text in said)
    assert all(text == "" or "n = 4" in text for text in said)


def test_a_few_short_labels_stand_as_they_are(monkeypatch):
    _, axes = drawn(settings(["linear", "sqrt", "none"]), monkeypatch)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["linear\nn = 4", "sqrt\nn = 4", "none\nn = 4"]
    assert {text.get_rotation() for text in axes.get_xticklabels()} == {0}


def test_the_value_of_a_hidden_run_stands_beside_a_mean_that_is_near(monkeypatch):
    one = Series("a", [0.0], [86.0], [70.0], [99.0], [2], 2, seeds=[(0, 98.0), (1, 12.0)])
    far = Series("b", [1.0], [95.0], [94.0], [96.0], [2], 2, seeds=[(0, 95.0), (1, 12.0)])
    ticks = [(0.0, "a"), (1.0, "b")]
    _, axes = drawn(FigureData(1, "final", "F", "", series=[one, far], y_range=(85, 100), x_ticks=ticks), monkeypatch)
    near, away = (text.get_window_extent() for text in axes.texts)
    assert near.x0 > axes.transData.transform((0.0, 86.0))[0]
    assert away.x0 < axes.transData.transform((1.0, 86.0))[0] < away.x1
