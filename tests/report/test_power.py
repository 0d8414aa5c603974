"""Power against closed forms, another library's tests and numbers worked out by hand."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import integrate, stats
from simulated_studies import Simulator

from widestep.report import power
from widestep.report.power import _equality, _Test, study_power
from widestep.report.statistics import minimum_detectable_difference
from widestep.study import study as studies
from widestep.study.sequential import Sequential


@pytest.mark.parametrize("n", [3, 4, 5])
def test_few_seeds_are_the_noncentral_t(n):
    # 2,500 draws know a power of .8 to .008, and the difference that goes with it to some 1.5 %
    assert _Test("falls", 1, 0.05, 0.05).detectable(n) == pytest.approx(minimum_detectable_difference(1, n, 0.95), rel=0.05)


@pytest.mark.parametrize(("n", "level"), [(8, 0.05), (12, 0.01)])
def test_ranks_as_scipy_tests_them(n, level):
    shift = _Test("falls", 1, level, 0.05).detectable(n)
    values = np.random.default_rng(n).normal(shift, 1, (4000, n))
    p = stats.wilcoxon(values, axis=1, method="exact").pvalue
    clear = stats.ttest_1samp(values, 0, axis=1).confidence_interval(0.95).low > 0
    assert np.mean((p < level) & clear & (values.mean(axis=1) > 0)) == pytest.approx(0.8, abs=0.04)


def test_many_seeds_are_the_efficiency_of_ranks():
    # at n = 400 the t-test needs (1.96 + .8416) / sqrt(400) = .140, ranks sqrt(pi / 3) times that
    assert _Test("falls", 1, 0.05, 0.05).detectable(400) == pytest.approx(0.140 * math.sqrt(math.pi / 3), rel=0.04)


def test_the_two_ways_meet():
    for kind, num in (("falls", 1), ("worst", 3)):
        below, above = (_Test(kind, num, 0.01, 0.05).detectable(n) for n in (48, 49))
        assert above == pytest.approx(below, rel=0.05)


@pytest.mark.parametrize(("n", "margin"), [(4, 3.0), (12, 1.0), (80, 0.35)])
def test_equality_is_the_integral_over_the_sample_sd(n, margin):
    critical = stats.t.ppf(0.95, n - 1)

    def density(s):  # given the sample's sd s, the mean must lie within margin - critical * s / sqrt(n)
        room = max(0.0, margin - critical * s / math.sqrt(n)) * math.sqrt(n)
        return stats.chi.pdf(s * math.sqrt(n - 1), n - 1) * math.sqrt(n - 1) * (2 * stats.norm.cdf(room) - 1)

    assert _equality(n, margin, 0.05) == pytest.approx(integrate.quad(density, 0, 6, limit=400)[0], abs=0.035)


def test_a_rank_test_has_a_smallest_p():
    assert _Test("falls", 1, 0.05, 0.05).detectable(5) is not None  # a t-test
    assert _Test("falls", 1, 0.05 / 2, 0.05).detectable(6) is None  # 2 / 2**6 = .031
    assert _Test("too-long", 2, 0.05, 0.05).detectable(6) is None  # two candidates
    assert _Test("worst", 2, 0.05, 0.05).detectable(6) is not None  # all must be shown: each at the whole level
    assert _Test("falls", 1, 0.05, 0.05).power(1, 100.0) == 0.0


def spread(study, sds, n=4):
    """Results whose claims a and e have differences with these standard deviations: +-sd * sqrt((n - 1) / n)."""
    arms = {arm: np.full((len(study.cells(arm)), len(study.seeds)), 95.0) for arm in study.arms}
    signs = np.resize([1.0, -1.0], n)
    for arm, sd in sds.items():
        arms[arm][0, :n] += sd * signs * math.sqrt((n - 1) / n)
    return Simulator(study).results(arms)


@pytest.fixture(scope="module")
def study(small_text):
    return studies.changed(studies.parse(small_text), seeds=4)


def test_the_spread_is_measured_here_then_earlier_then_published(study):
    own, earlier = spread(study, {"batch": 0.6}), spread(study, {"batch": 0.3, "rule": 0.9})
    found = {one.claim: one for one in study_power(study, own, earlier)}
    assert (found["a"].sd, found["a"].origin) == (pytest.approx(0.6), "measured on 4 pairs of this study")
    assert found["e"].sd == pytest.approx(0.9)  # no spread here: all runs are equal
    assert found["e"].origin.startswith("measured on 4 pairs of small in ")
    assert found["d"].origin.startswith("the best warmup at 320 against 80 images a step of poster-digits")
    assert found["a"].sentence.startswith("4 seeds see ")
    assert ", given sd 0.6 (measured on 4 pairs of this study); 0.5 points need " in found["a"].sentence


def test_an_earlier_study_without_the_claim_tells_its_pooled_spread(study):
    claims = {f"other-{name}": claim for name, claim in study.claims.items() if name in "ae"}
    earlier = spread(study.model_copy(update={"claims": claims}), {"batch": 0.3, "rule": 0.9})
    found = {one.claim: one for one in study_power(study, None, earlier)}
    assert found["a"].sd == pytest.approx(math.sqrt((0.3**2 + 0.9**2) / 2))
    assert found["a"].origin.startswith("measured on 4 pairs of each of 2 comparisons of small")


def test_two_pairs_tell_no_spread(study):
    two = studies.changed(study, seeds=2)
    assert "poster-digits" in study_power(two, spread(two, {"batch": 0.6}, n=2))[0].origin


def test_the_margin_needs_as_many_seeds_as_find_it(study):
    one = study_power(study, spread(study, {"batch": 0.25}))[0]
    test = _Test("falls", 1, 0.05 / 5, 0.05)
    assert one.seeds_for_margin is not None
    assert test.power(one.seeds_for_margin, 0.5 / 0.25) >= 0.8 > test.power(one.seeds_for_margin - 1, 0.5 / 0.25)
    equal = dataclasses.replace(one, kind="equivalent", equality=0.61, seeds_for_margin=None)
    assert "in 61 % of studies; 80 % need more than 1,000 seeds; given sd 0.25" in equal.sentence


def test_without_a_spread_differences_are_multiples_of_it(study, monkeypatch):
    monkeypatch.setattr(power, "MEASURED_SD", {})
    a, *_, e = study_power(study)
    assert a.sd is None
    assert a.sentence == (
        f"4 seeds see {a.detectable:.2g} standard deviations; no sd is known for this model; give a study that ran with "
        "--sd-from DIR"
    )
    assert e.sentence.startswith("how often 4 seeds show equality within 0.5 points depends on an sd; no sd is known")
    assert (e.equality, e.seeds_for_margin) == (None, None)


def test_claims_that_cannot_be_decided_say_so(small_text):
    six = studies.changed(studies.parse(small_text), seeds=6)
    assert (
        study_power(six)[0].sentence
        == "6 seeds cannot decide this claim before another one is decided, however large the difference"
    )


def test_a_study_that_runs_until_decided_is_planned_by_t_tests(small_text):
    """Ranks of six pairs cannot decide before another claim is; t-tests, which its looks make, can."""
    fixed = studies.changed(studies.parse(small_text), seeds=6)
    decided = study_power(fixed.model_copy(update={"sequential": Sequential()}))
    assert study_power(fixed)[0].needs_others
    assert not any(one.needs_others for one in decided)
    assert decided[0].detectable is not None
    test = _Test("falls", 1, 0.05, 0.05, is_ranked=False)
    for n in (12, 100):
        exact = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, 0.9 * math.sqrt(n))
        assert test.power(n, 0.9) == pytest.approx(exact, abs=0.02)
