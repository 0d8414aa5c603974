"""The page: self-contained, escaped, accessible, the same bytes every time, every undecided line with what it could see."""

import base64
import hashlib
import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import widestep
from widestep.report.claims import Finding
from widestep.report.drawing import Drawing, draw
from widestep.report.page import AuditSection, FigureBlock, Page, Table, coded, figure_table, forest, inline, render
from widestep.report.plotted import FigureData, Series

NAN = float("nan")
FINDING = Finding(
    claim="a",
    text="Accuracy falls.",
    verdict="undecided",
    effect=0.4,
    unit="points",
    interval=[-0.2, 1.0],
    level=0.95,
    n=12,
    test="Wilcoxon",
    p=0.2,
    p_adjusted=0.6,
    minimum_detectable_difference=0.83,
    margin=0.5,
    detail="A detail.",
    why="open",
    p_shown=None,
    kind="falls",
    arms=["x"],
    axis="grid",
)
CURVES = FigureData(
    number=2,
    kind="curves",
    title="Curves",
    caption="A caption.",
    x_label="epoch",
    series=[Series(name, [1.0, 2.0], [50.0, 90.0], [49.0, NAN], [51.0, NAN], [3, 1], 3) for name in ("a", "b")],
    y_range=(0, 100),
)


class Outline(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def values(self, name):
        return [value for _, key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def block():
    return FigureBlock(CURVES, draw(CURVES))


def page(block, **changes):
    full = Page(
        eyebrow="Study s",
        title="Title",
        counts=[("complete", "3 of 3")],
        notices=["Partial."],
        findings=[FINDING],
        findings_words="One undecided.",
        figures=[block, replace(block, data=replace(CURVES, number=3), drawing=draw(replace(CURVES, number=3)))],
        tables=[Table("Results", ["run", "n"], [["r", "1"]])],
        audit=AuditSection("3 of 3 audited.", ["x did nothing."], ["y acts."], Table("Digests", ["arm"], [["z"]], "Equal.")),
        method=[("Pairs", "By seed.")],
        notes=["A note."],
        facts=[("torch", "2.13")],
        glossary=[("warmup", "Length: `5ep`.")],
    )
    return render(replace(full, **changes))


def digest(text):
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_nothing_is_loaded_and_only_our_scripts_run(block):
    text = page(block)
    outline = Outline(text)
    assert not {"link", "iframe", "object", "embed", "img", "base", "form"} & set(outline.tags)
    assert "://" not in text
    assert not [value for value in outline.values("href") if not value.startswith("#")]
    assert not outline.values("src")
    policy = next(value for value in outline.values("content") if value.startswith("default-src 'none'; "))
    ran = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(ran) == 2
    sources = " ".join(f"'{digest(script)}'" for script in ran)
    assert policy == (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert "The MIT License" in ran[0]
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_a_page_without_figures_has_no_script(block):
    text = page(block, figures=[])
    assert "<script" not in text
    assert "script-src" not in text


def test_what_is_vendored_is_what_its_readme_says():
    folder = Path(widestep.__file__).parent / "report" / "vendored"
    said = re.findall(r"`(uPlot[^`]*)` \| `[^`]*` \| `([0-9a-f]{64})`", (folder / "README.md").read_text())
    assert len(said) == 2
    for name, expected in said:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected


def test_every_part_is_there_and_the_page_is_stable(block):
    text = page(block)
    for words in (
        "Title",
        "Partial.",
        "Accuracy falls.",
        "A caption.",
        "Results",
        "By seed.",
        "A note.",
        "2.13",
        "3 of 3 audited.",
        "x did nothing.",
        "y acts.",
        "Equal.",
    ):
        assert words in text
    assert "<code>5ep</code>" in text
    assert text == page(block)


def test_figures_have_a_role_a_name_and_their_numbers(block):
    outline = Outline(page(block))
    figures = [value for tag, name, value in outline.attributes if (tag, name) == ("svg", "role")]
    assert figures == ["img", "img"]
    assert [value for value in outline.values("aria-label") if value.startswith("Figure 2. Curves. a, n = 3")]
    assert outline.tags.count("figcaption") == outline.tags.count("figure") == 2
    assert outline.tags.count("details") == 3  # the audit's too


def test_ids_are_unique_and_references_resolve(block):
    outline = Outline(page(block))
    names = outline.values("id")
    assert len(names) == len(set(names))
    used = {value[1:] for value in outline.values("href")} | set(re.findall(r"url\(#([^)]+)\)", page(block)))
    assert used
    assert used <= set(names)


def test_figures_follow_the_colours_of_the_page(block):
    assert "var(--ink)" in block.svg
    assert "#1b1f24" not in block.svg
    assert "#0072b2" in block.svg


@pytest.mark.parametrize("verdict", ["supported", "contradicted", "undecided"])
def test_verdicts_are_words_and_undecided_ones_say_what_they_could_see(block, verdict):
    text = page(block, findings=[replace(FINDING, verdict=verdict)])
    assert re.search(rf'class="chip {verdict}">.*?</span> {verdict}</span>', text)
    assert ("detectable: 0.83 points or more" in text) == (verdict == "undecided")
    assert "+0.40" in text
    assert "[−0.20, +1.00]" in text
    assert "n = 12 · p 0.200 · adjusted 0.600" in text


def test_one_seed_is_marked(block):
    one = replace(FINDING, n=1, interval=None, p=None, p_adjusted=None, minimum_detectable_difference=None)
    text = page(block, findings=[one])
    assert "n = 1: no interval" in text
    assert "forest" not in text.split("</style>")[1]


HOSTILE = "<script>alert('x')</script>\" onload=\"y"


def test_names_are_escaped_everywhere(block):
    data = replace(CURVES, title=HOSTILE, caption=HOSTILE, series=[replace(CURVES.series[0], label=HOSTILE)])
    text = page(
        FigureBlock(data, draw(data)),
        eyebrow=HOSTILE,
        title=HOSTILE,
        counts=[("complete", HOSTILE)],
        notices=[HOSTILE],
        findings=[replace(FINDING, claim=HOSTILE, text=HOSTILE, detail=HOSTILE, test=HOSTILE, unit=HOSTILE)],
        tables=[Table(HOSTILE, [HOSTILE], [[HOSTILE, HOSTILE]], HOSTILE)],
        audit=AuditSection(HOSTILE, [HOSTILE], [HOSTILE], Table(HOSTILE, [HOSTILE], [[HOSTILE, HOSTILE]], HOSTILE)),
        method=[(HOSTILE, HOSTILE)],
        notes=[HOSTILE],
        facts=[(HOSTILE, HOSTILE)],
        glossary=[(HOSTILE, HOSTILE)],
    )
    outline = Outline(text)
    assert outline.tags.count("script") == 3
    assert "onload" not in [name for _, name, _ in outline.attributes]
    assert html.escape(HOSTILE)[:8] in text


def test_the_small_drawing_is_to_scale():
    place = forest(replace(FINDING, effect=0.5, interval=[0.0, 1.0], margin=0.5))
    # half the width of 190 is 1.12 times the reach of 1.0: 84.8 a point
    assert (place["zero"], place["low"], place["effect"], place["high"]) == ("95.0", "95.0", "137.4", "179.8")
    assert (place["margin_left"], place["margin_width"]) == ("52.6", "84.8")
    assert forest(replace(FINDING, interval=None)) is None
    assert forest(replace(FINDING, effect=0.0, interval=[0.0, 0.0], unit="epochs"))["zero"] == "95.0"


def test_inline_figures_keep_only_what_a_page_needs():
    svg = '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9pt" viewBox="0 0 9 9"><g id="axes_1">'
    svg += '<path id="m1" style="fill: #1b1f24"/><use xlink:href="#m1"/></g></svg>'
    drawn = str(inline(Drawing(svg, b"").svg, 'say "hi"'))
    assert drawn == (
        '<svg viewBox="0 0 9 9" role="img" aria-label="say &#34;hi&#34;" focusable="false"><g>'
        '<path id="m1" style="fill: var(--ink)"/><use href="#m1"/></g></svg>'
    )


def test_curves_stand_side_by_side_in_the_table():
    table = figure_table(CURVES)
    assert table.headers == ["epoch", "a, n = 3", "b, n = 3"]
    assert table.rows == [["1", *["50.00 [49.00, 51.00]"] * 2], ["2", "90", "90"]]


def test_an_audit_without_parts_is_its_words(block):
    text = page(block, audit=AuditSection("Nothing found.", [], [], Table("Digests", ["arm"], [])))
    section = text[text.index('<section aria-labelledby="audit">') :].partition("</section>")[0]
    assert "Nothing found." in section
    assert not {"ul", "details", "table"} & set(Outline(section).tags)
    assert 'aria-labelledby="audit"' not in page(block, audit=None)


def test_code_between_backticks():
    assert coded("use `a<b` or `c`") == "use <code>a&lt;b</code> or <code>c</code>"
    assert coded("one ` alone") == "one ` alone"


@pytest.mark.parametrize(
    ("why", "words"), [("reversed", "opposite"), ("equivalent", "equality"), ("beyond", "larger difference")]
)
def test_a_contradicted_claim_says_what_is_shown(why, words):
    finding = replace(FINDING, verdict="contradicted", why=why, p_shown=0.012)
    assert f"{words} shown: adjusted p 0.012" in render(Page("Study s", "A title", [], findings=[finding]))
