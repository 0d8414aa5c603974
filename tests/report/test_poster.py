"""The poster: every number is followed to its source, every text lies within its box, equal studies give equal bytes."""

import csv
import io
import itertools
import json
import re
import tomllib
import warnings

import pytest
from matplotlib.figure import Figure

from widestep.cli.main import run
from widestep.report import poster_drawing
from widestep.report.build import build_report
from widestep.report.claims import judge
from widestep.report.cost import study_cost
from widestep.report.figures import figure_data
from widestep.report.poster import poster, poster_record, summary_record
from widestep.report.poster_drawing import HEIGHT, WIDTH, draw_poster
from widestep.report.poster_text import fitting_size, line_height, shortened, text_width, without_common_start, wrapped
from widestep.report.results import read_study
from widestep.study import study as studies
from widestep.study.amendments import Amendment, write_amendment

_NUMBER = re.compile(r"[+−]?\d[\d,]*(?:\.\d+)?")


def outcome(fakes):
    def planned(cell, seed, rng):
        workers, warmup = cell.recipe.grid.num_workers, float(cell.recipe.warmup.amount)
        if (workers, warmup, seed) == (40, 8, 3):
            return fakes.planned(0, "diverged")
        return fakes.planned(820 - workers + int(rng.integers(5)) - 8 * (warmup == 0))

    return planned


@pytest.fixture(scope="module")
def made(tmp_path_factory, small_text, fakes):
    text = small_text.replace("margin = 0.5", 'margin = 0.5\nnotes = ["Trained on 8 images by 3 people."]')
    directory = fakes.study(tmp_path_factory.mktemp("poster") / "s", studies.parse(text), outcome(fakes))
    build_report(directory, with_poster=True)
    return directory


def files_of(directory):
    names = ("findings.json", "summary.json", "cost.json")
    found = {name: json.loads((directory / "report" / name).read_text()) for name in names}
    return {**found, "study.toml": tomllib.loads((directory / "study.toml").read_text())}


def value_at(files, source):
    value = files[source["file"]]
    for key in source["at"][:-1]:
        value = value[key]
    last = source["at"][-1]
    found = value[last]
    return last if isinstance(found, dict) else ", ".join(found) if isinstance(found, list) else found


def says(text, value):
    """Whether a text is this value, to the digits that it shows; a share may be written in percent."""
    if isinstance(value, str):
        return text in (value, value.rstrip("."), value[:16])
    number = text.removeprefix("< ").replace(",", "").replace("−", "-")
    if text.startswith("< "):
        return value < float(number)
    half = 0.5 * 10 ** -len(number.partition(".")[2]) * (1 + 1e-9)
    return any(abs(float(number) - scale * value) <= half for scale in (1, 100))


def test_every_number_is_followed_to_its_source(made):
    record, files = json.loads((made / "report" / "poster.json").read_text()), files_of(made)
    followed = 0
    for said in record["texts"]:
        rest = said["text"]
        for source in said["sources"]:
            assert source["text"] in said["text"]
            rest = rest.replace(source["text"], "", 1)
            if source["file"].startswith("figures/"):
                with (made / "report" / source["file"]).open() as file:
                    assert list(csv.reader(file))
            elif source["text"].endswith(("s", "min", "h")) and source["at"][-1] == "elapsed_seconds":
                pass
            else:
                assert says(source["text"], value_at(files, source)), source
                followed += 1
        rest = rest.replace("SHA-256", "")
        assert not _NUMBER.search(rest), (said["text"], rest)
    assert followed > 50
    assert len([said for said in record["texts"] if said["text"].startswith(("Supported", "Contradicted", "Left"))]) == 5


def test_following_finds_a_wrong_number():
    assert says("+1.58", 1.5837)
    assert not says("+1.58", 1.5949)
    assert says("95", 0.95)
    assert says("< 0.001", 0.0004)
    assert not says("< 0.001", 0.004)


def test_what_is_written_is_on_the_poster(made):
    record = json.loads((made / "report" / "poster.json").read_text())
    svg = (made / "report" / "poster.svg").read_text()
    words = set(re.sub(r"<[^>]*>", " ", svg).replace("&gt;", ">").replace("&lt;", "<").split())
    for said in record["texts"]:
        assert set(said["text"].split()) <= words, said["text"]
    for words_of_verdicts in ("supported", "diverged", "Trained"):
        assert words_of_verdicts in words


def test_the_page_is_a0_and_the_bytes_are_the_same_again(made):
    report = made / "report"
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", (report / "poster.pdf").read_bytes())
    assert [float(side) * 25.4 / 72 for side in box.groups()] == pytest.approx([1189, 841], abs=0.1)
    again = drawn_from(made)
    assert (report / "poster.pdf").read_bytes() == again.pdf
    assert (report / "poster.svg").read_text() == again.svg
    assert b"CreationDate" not in again.pdf


def drawn_from(directory):
    results = read_study(directory)
    findings = judge(results)
    figures = [figure_data(results, spec) for spec in results.study.figures]
    files = {
        "findings.json": [one.record() for one in findings],
        "summary.json": summary_record(results, (directory / "study.toml").read_text()),
        "cost.json": study_cost(results).record(),
        "study.toml": results.study.model_dump(),
    }
    return draw_poster(poster(results, findings, figures, files))


def check_lines(lines):
    """Every line lies within the margins, and no two lie on one another (their leading may touch)."""
    boxes = []
    for line in lines:
        right = line.x + text_width(line.text, line.size, bold=line.bold)
        bottom = line.y + 0.93 * line_height(line.size)
        assert 0.99 <= line.x < right <= WIDTH - 0.99, line
        assert 0 < line.y < bottom < HEIGHT, line
        boxes.append((line.x, right, line.y, bottom))
    for (left, right, top, bottom), (left_2, right_2, top_2, bottom_2) in itertools.combinations(boxes, 2):
        assert left >= right_2 or left_2 >= right or top >= bottom_2 or top_2 >= bottom


def test_texts_lie_on_the_page_and_not_on_one_another(made):
    drawn = drawn_from(made)
    check_lines(drawn.lines)
    assert drawn.shown.left_out == []


def test_too_much_text_is_made_smaller_then_left_out_by_name(tmp_path, small_text, fakes):
    claims = "".join(
        f'[claims.long{number}]\ntext = "{"Very long words of a claim, number " * 4}{number}."\n'
        'test = "falls"\narms = ["batch"]\naxis = "grid"\n\n'
        for number in range(30)
    )
    text = small_text.replace("[claims.a]", claims + "[claims.a]").partition("[[figures]]")[0]
    text = text.replace("A small study", "Many words and " * 40 + "W" * 300)
    study = studies.changed(studies.parse(text), seeds=2)
    drawn = drawn_from(fakes.study(tmp_path / "s", study, lambda cell, seed, rng: fakes.planned(780 + seed)))
    check_lines(drawn.lines)
    assert drawn.shown.left_out
    assert any("more in the report" in line.text for line in drawn.lines)
    left_out = poster_record(drawn.shown)["left_out"]
    assert "long29: " + "Very long words of a claim, number " * 4 + "29." in left_out
    assert len(left_out) + sum(len(block.items) for block in (*drawn.shown.left, *drawn.shown.right)) >= 3 * 35


def test_many_settings_and_any_script_leave_figures_readable(tmp_path, small_text, fakes, monkeypatch):
    warmups = ", ".join(f'"{number}ep"' for number in range(20))
    text = small_text.replace(
        "[arms.rule]", f"[arms.many]\naxes = {{ warmup = [{warmups}], base_lr = [0.02, 0.045] }}\n\n[arms.rule]"
    )
    text = text.replace('arm = "batch"', 'arm = "many"').replace('arm = "rule"\ntitle', 'arm = "many"\ntitle')
    study = studies.changed(studies.parse(text.replace("A small study", "变量 🎉")), seeds=2)
    directory, made = fakes.study(tmp_path / "s", study, lambda cell, seed, rng: fakes.planned(780 + seed)), []

    class Kept(Figure):
        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr(poster_drawing, "Figure", Kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn_from(directory)
    panels = [axes for axes in made[0].axes if axes.axison]
    legends = [axes.get_legend() for axes in panels if axes.get_legend()]
    assert any(legend.get_texts()[-1].get_text().endswith(" more") for legend in legends)
    for axes in panels:
        height = axes.get_tightbbox().height
        assert axes.get_window_extent().height > 0.3 * height
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_claims_that_came_after_results_say_so(tmp_path, small_text, fakes):
    study = studies.changed(studies.parse(small_text), seeds=2)
    directory = fakes.study(tmp_path / "s", study, lambda cell, seed, rng: fakes.planned(780 + seed))
    write_amendment(directory, Amendment("2026-01-01T00:00:00+00:00", 3, ["claim b"], ["b"], ["c"]))
    said = [one.text for one in drawn_from(directory).shown.texts()]
    assert said.count("b: No warmup is worst. (added after results)") == 2
    assert said.count("c: Too long a warmup is worse. (settings changed after results)") == 2
    assert said.count("a: Accuracy falls with the batch.") == 2
    assert "Claims that were declared before any result, unless they say so:" in said


@pytest.mark.parametrize("status", [None, "diverged"])
def test_nothing_finished_is_a_poster_too(tmp_path, small_text, fakes, status):
    study = studies.changed(studies.parse(small_text), seeds=2)
    planned = fakes.planned(0, status) if status else None
    svg = drawn_from(fakes.study(tmp_path / "s", study, lambda cell, seed, rng: planned)).svg
    assert "no pair of runs is complete" in svg
    assert ("have no result" in svg) == (status is None)


def test_a_poster_needs_a_study(tmp_path, monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    assert run(["report", str(tmp_path), "--poster"]) == 2
    assert "A poster is about one study" in said.getvalue()


def test_wrapping():
    assert wrapped("", 10, 1.0) == [""]
    assert " ".join(wrapped("one two three four", 20, 0.8)) == "one two three four"
    assert all(text_width(line, 20) <= 0.8 for line in wrapped("one two three " + "m" * 50, 20, 0.8))
    assert "".join(wrapped("m" * 50, 20, 0.8)) == "m" * 50
    assert text_width("ab", 20) == pytest.approx(2 * text_width("ab", 10))
    assert fitting_size("one two", [40, 20, 10], 1.0, 1) == 10 or text_width("one two", 20) <= 1.0


def test_shortening_keeps_both_ends_and_what_comes_after():
    assert shortened("one two", 20, 9.0) == ["one two"]
    (line,) = shortened("m" * 50 + "end", 20, 3.0, after=", n = 4")
    assert re.fullmatch(r"m+…m*end, n = 4", line)
    assert text_width(line, 20) <= 3.0
    assert len(shortened("one two three four five six", 20, 0.8, 2)) == 2
    (line,) = shortened("a name", 20, 0.8, after=", n = 4, 2 collapsed")
    assert line.startswith("a")
    assert text_width(line, 20) <= 0.8


def test_the_words_that_all_texts_begin_with_give_way():
    assert without_common_start(["warmup 1 epoch", "warmup 12 epochs"]) == ["…1 epoch", "…12 epochs"]
    assert without_common_start(["a b 2", "a c 1", "a b 1"]) == ["…b 2", "…c 1", "…b 1"]
    assert without_common_start(["linear", "linear 2"]) == ["linear", "linear 2"]
