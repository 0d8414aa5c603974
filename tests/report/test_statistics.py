"""Every statistic against a hand-worked number, an enumeration, or another library."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from widestep.report import statistics

differences = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=2, max_size=15)
spread = differences.filter(lambda values: np.ptp(values) > 0.01)


def test_interval_of_three_values_by_hand():
    # mean 2, sd 1, t(0.975; 2) = 4.302653, so 2 -+ 4.302653 / sqrt(3)
    estimate = statistics.mean_interval([1.0, 2.0, 3.0], 0.95)
    assert (estimate.n, estimate.mean, estimate.sd) == (3, 2.0, 1.0)
    assert (estimate.low, estimate.high) == pytest.approx((2 - 2.4841377, 2 + 2.4841377), abs=1e-6)


def test_one_value_has_no_interval():
    estimate = statistics.mean_interval([97.5], 0.95)
    assert (estimate.n, estimate.mean, estimate.low, estimate.high, estimate.sd) == (1, 97.5, None, None, None)


@given(spread, st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_and_t_test_agree_with_scipy(values, level):
    reference = stats.ttest_1samp(values, 0.0)
    ends = reference.confidence_interval(level)
    estimate = statistics.mean_interval(values, level)
    assert (estimate.low, estimate.high) == pytest.approx((ends.low, ends.high), rel=1e-9, abs=1e-9)
    assert statistics.t_test(values) == pytest.approx(reference.pvalue, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize(("value", "p"), [(0.3, 2 / 2**7), (-2.0, 2 / 2**7), (0.0, 1.0)])
def test_identical_differences_are_as_probable_as_their_signs(value, p):
    noisy = [100.0 * (0.5 + value / 100) - 50.0] * 3 + [value] * 4  # equal up to rounding
    estimate = statistics.mean_interval(noisy, 0.95)
    assert estimate.low == estimate.mean == estimate.high == pytest.approx(value, abs=1e-12)
    assert statistics.t_test(noisy) == p
    same = statistics.equivalence(noisy, 0.5, 0.95)
    assert same.p == (1 / 2**7 if abs(value) < 0.5 else 1.0)
    assert same.beyond_p == (1.0 if abs(value) < 0.5 else 2 / 2**7)
    assert same.low == same.high == pytest.approx(value, abs=1e-12)
    assert statistics.minimum_detectable_difference(estimate.sd, 7, 0.95) == 0.0


def enumerated_wilcoxon(values):
    """The definition: all sign patterns of the ranks of the differences that are not zero."""
    kept = [value for value in values if value != 0]
    ranks = stats.rankdata(np.abs(kept)) if kept else []
    positive = sum(rank for rank, value in zip(ranks, kept, strict=True) if value > 0)
    extreme = min(positive, sum(ranks) - positive)
    patterns = [sum(chosen) for chosen in itertools.product(*((0, rank) for rank in ranks))]
    return min(1.0, 2 * sum(one <= extreme + 1e-9 for one in patterns) / len(patterns))


@given(st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0]), max_size=9))
def test_wilcoxon_with_ties_and_zeros_is_the_enumeration(values):
    assert statistics.wilcoxon(values) == pytest.approx(enumerated_wilcoxon(values), abs=1e-12)


@pytest.mark.parametrize("n", [6, 12, 40])
def test_wilcoxon_without_ties_agrees_with_scipy(n):
    values = np.random.default_rng(n).normal(0.3, 1, n)
    reference = stats.wilcoxon(values, method="exact").pvalue
    assert statistics.wilcoxon(values) == pytest.approx(reference, rel=1e-9)


def test_wilcoxon_sees_ties_through_rounding():
    # 98.1 - 97.6 and 97.6 - 98.1 differ in size by rounding alone: they tie, and nothing is shown
    assert statistics.wilcoxon([98.1 - 97.6, 97.6 - 98.1, 0.1 + 0.2 - 0.3]) == 1.0


def test_all_differences_zero_show_nothing():
    assert statistics.wilcoxon([0.0] * 8) == 1.0
    assert statistics.t_test([0.0] * 8) == 1.0


def test_holm_by_hand():
    # sorted .01 .03 .04 .20 -> x4 .04, x3 .09, x2 .08 -> raised to .09, x1 .20
    assert statistics.holm([0.04, 0.20, 0.01, 0.03]) == pytest.approx([0.09, 0.20, 0.04, 0.09])
    assert statistics.holm([0.7, 0.6]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    rejected, ordered = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
    for position, index in enumerate(ordered):
        if p_values[index] * (len(p_values) - position) >= 0.05:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(statistics.holm(p_values)) if p < 0.05} == rejected


@given(spread, st.floats(0.05, 20))
def test_equivalence_is_two_one_sided_tests(values, margin):
    found = statistics.equivalence(values, margin, 0.95)
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert found.p == pytest.approx(max(above, below), rel=1e-6, abs=1e-9)
    ends = stats.ttest_1samp(values, 0.0).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9, abs=1e-9)
    if abs(found.p - 0.05) > 1e-6:
        assert (found.p < 0.05) == (-margin < found.low and found.high < margin)


@given(spread, st.floats(0.05, 20))
def test_beyond_is_the_interval_outside_the_margin(values, margin):
    found = statistics.equivalence(values, margin, 0.95).beyond_p
    upper = stats.ttest_1samp(values, margin, alternative="greater").pvalue
    lower = stats.ttest_1samp(values, -margin, alternative="less").pvalue
    assert found == pytest.approx(min(1.0, 2 * min(upper, lower)), rel=1e-6, abs=1e-9)
    ends = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    if abs(found - 0.05) > 1e-6:
        assert (found < 0.05) == (ends.low > margin or ends.high < -margin)


def test_infinite_differences_have_the_largest_rank():
    # ranks of .5, -1, 2 are 1, 2, 3; two infinite ones share 4.5: the sum of the negative ones is 2, of 2**5 patterns the
    # sums 0, 1 and 2 are as small: p = 2 * 3 / 32
    assert statistics.wilcoxon([0.5, -1.0, 2.0, math.inf, math.inf]) == 2 * 3 / 2**5
    assert statistics.wilcoxon([-math.inf] * 6) == 2 / 2**6
    assert statistics.rank_direction([0.5, -1.0, 2.0, math.inf, math.inf]) == 1
    assert statistics.rank_direction([0.5, 1.0, 2.0, -math.inf, -math.inf]) == -1  # 1 + 2 + 3 against 9
    assert statistics.rank_direction([1.0, -1.0, 0.0]) == 0


@given(st.lists(st.sampled_from([-math.inf, -2.0, -0.5, 0.0, 0.5, 1.0, math.inf]), max_size=9))
def test_infinite_differences_are_as_good_as_very_large_ones(values):
    assert statistics.wilcoxon(values) == statistics.wilcoxon(np.clip(values, -1e6, 1e6))


def test_the_bootstrap_interval_agrees_with_scipy():
    rng = np.random.default_rng(5)
    for values in (rng.normal(1, 1, 12), rng.exponential(2.0, 15), -rng.lognormal(0, 1, 40)):
        low, high = statistics.bootstrap_interval(values, 0.95)
        drawn = stats.bootstrap((values,), np.mean, confidence_level=0.95, n_resamples=50_000, method="BCa", rng=rng)
        reference, width = drawn.confidence_interval, high - low
        assert abs(low - reference.low) < 0.05 * width  # 4,000 draws place a 2.5 % quantile within some 2 % of the width
        assert abs(high - reference.high) < 0.05 * width
    assert statistics.bootstrap_interval([1.5] * 12, 0.95) == (1.5, 1.5)
    assert statistics.bootstrap_interval([0.1, 0.2, 0.4], 0.9) == statistics.bootstrap_interval([0.1, 0.2, 0.4], 0.9)


@pytest.mark.parametrize(("n", "points"), [(3, 1.63), (5, 0.84), (10, 0.50), (12, 0.44), (20, 0.33)])
def test_detectable_difference_table(n, points):
    assert round(statistics.minimum_detectable_difference(0.5, n, 0.95), 2) == points


@pytest.mark.parametrize(("n", "level"), [(2, 0.95), (4, 0.99), (12, 0.95), (60, 0.9)])
def test_detectable_difference_has_power_80(n, level):
    shift = statistics.minimum_detectable_difference(1.0, n, level) * math.sqrt(n)
    critical = stats.t.ppf(0.5 + level / 2, n - 1)

    def density(s):  # the sample's sd s: chi with n - 1 degrees; given s the mean is normal
        return stats.chi.pdf(s * math.sqrt(n - 1), n - 1) * math.sqrt(n - 1) * stats.norm.sf(critical * s - shift)

    assert integrate.quad(density, 0, 8, points=[0.02, 0.1, 0.5, 1, 2], limit=400)[0] == pytest.approx(0.8, abs=1e-5)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_fisher_agrees_with_scipy(failed_first, passed_first, failed_second, passed_second):
    table = [[failed_first, passed_first], [failed_second, passed_second]]
    found = statistics.fisher_exact(failed_first, failed_first + passed_first, failed_second, failed_second + passed_second)
    expected = stats.fisher_exact(table)[1] if sum(map(sum, table)) else 1.0
    assert found == pytest.approx(expected, rel=1e-9)
