"""Figures of claims: the differences of the seeds, their mean, margin and verdict, also when there is none."""

import math
from dataclasses import replace

import pytest

from widestep.report.claims import judge
from widestep.report.differences import claim_figures
from widestep.report.drawing import draw
from widestep.report.results import read_study
from widestep.study import study as studies


@pytest.fixture(scope="module")
def findings(tmp_path_factory, small_text, fakes):
    def outcome(cell, seed, rng):
        workers, warmup = cell.recipe.grid.num_workers, float(cell.recipe.warmup.amount)
        if (workers, seed) == (40, 3):
            return fakes.planned(0, "diverged")
        return fakes.planned(820 - workers + 2 * seed * (workers == 4) - 5 * (warmup == 0))

    directory = fakes.study(tmp_path_factory.mktemp("d") / "s", studies.parse(small_text), outcome)
    return judge(read_study(directory))


def test_dots_are_the_differences_of_the_seeds(findings):
    figure = claim_figures(findings)[0]
    line = figure.series[0]
    # 820 - 4 + 2 seed of 837 right at 4 workers against 820 - 40 at 40, in points; seed 3 diverged at 40
    expected = {seed: 100 * (36 + 2 * seed) / 837 for seed in range(9) if seed != 3}
    assert dict(line.seeds) == pytest.approx(expected)
    assert line.mean[0] == pytest.approx(sum(expected.values()) / 8)
    assert line.n == [8]
    assert (figure.margin, figure.verdict, figure.claim, figure.file_name) == (0.5, "supported", "a", "claim-1")
    assert figure.rows()[0][:2] == ["32 images a step (4x1x8) minus 320 images a step (40x1x8)", "all"]
    assert len(figure.rows()) == 9


def test_every_claim_has_a_figure_with_a_row_for_each_comparison(findings):
    figures = claim_figures(findings)
    assert [figure.claim for figure in figures] == ["a", "b", "c", "d", "e"]
    assert [len(figure.series) for figure in figures] == [1, 3, 2, 1, 1]
    assert figures[3].margin is None  # epochs, which no margin is declared for
    assert "within the band speaks for the claim" in figures[4].caption


def test_words_of_the_drawing(findings):
    figure = claim_figures(findings)[1]
    svg = draw(figure).svg
    for words in ("minus no warmup", "n = 8", figure.verdict, "margin ±0.5"):
        assert words in svg


def test_nothing_finished_is_said(findings):
    nothing = {"effect": None, "interval": None, "n": 0, "differences": []}
    finding = replace(findings[0], comparisons=[{**findings[0].comparisons[0], **nothing}], verdict="undecided")
    figure = claim_figures([finding])[0]
    assert figure.rows() == []
    assert "no complete run yet" in draw(figure).svg
    one = {"effect": 1.5, "interval": None, "n": 1, "differences": [[4, 1.5]]}
    line = claim_figures([replace(finding, comparisons=[{**finding.comparisons[0], **one}])])[0].series[0]
    assert line.seeds == [(4, 1.5)]
    assert math.isnan(line.low[0])
    assert claim_figures([replace(finding, comparisons=[])]) == []
