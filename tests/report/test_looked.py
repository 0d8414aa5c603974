"""Comparisons at looks: against the plain t-test where there is one look, against simulation where there are more."""

import math

import numpy as np
import pytest
from scipy import stats

from widestep.report.comparisons import Comparison, Side, paired
from widestep.report.looked import Looked, at_looks

SIDE = Side("x", None, 0, 0, 0)
EIGHT = [0.4, 1.1, 0.3, 0.9, 0.7, 1.6, -0.2, 0.8]


def comparison(differences, seeds=None, resolution=0.0):
    by_seed = dict(zip(seeds or range(len(differences)), map(float, differences), strict=True))
    return Comparison(SIDE, SIDE, "points", paired(list(by_seed.values()), level=0.95, margin=0.5), by_seed, resolution)


def seen_at(differences, counts, seeds=range(8), spending="obrien-fleming", resolution=0.0, level=0.95, margin=0.5):
    looked = Looked(list(seeds), counts, spending)
    return at_looks(comparison(differences, None, resolution), looked, level=level, margin=margin).paired


def test_one_look_is_the_plain_t_test():
    found, plain = seen_at(EIGHT, [8], margin=1.0), stats.ttest_1samp(EIGHT, 0.0)
    interval = plain.confidence_interval(0.95)
    assert found.p == pytest.approx(plain.pvalue, rel=0.01)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-3)
    tost = max(
        stats.ttest_1samp(EIGHT, -1.0, alternative="greater").pvalue,
        stats.ttest_1samp(EIGHT, 1.0, alternative="less").pvalue,
    )
    assert found.equivalence_p == pytest.approx(tost, rel=0.01)
    assert (found.n, found.test) == (8, "group-sequential paired t")
    assert found.effect == pytest.approx(np.mean(EIGHT))


def test_an_early_look_needs_more_and_its_interval_is_wider():
    early = seen_at(EIGHT[:4], [4])
    plain = stats.ttest_1samp(EIGHT[:4], 0.0).confidence_interval(0.95)
    assert early.high - early.low > 1.5 * (plain.high - plain.low)
    assert early.p > stats.ttest_1samp(EIGHT[:4], 0.0).pvalue


def test_only_the_seeds_that_a_look_had_count_for_it():
    """Strong from the start, gone later: what the first look showed is not taken back."""
    strong = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98]
    shown = seen_at(strong, [6], spending="pocock")
    later = seen_at([*strong, -4.0, 3.0], [6, 8], spending="pocock")
    assert later.p == pytest.approx(shown.p)
    assert later.low < 0 < later.high


def test_a_look_without_new_pairs_is_none():
    seeds = list(range(8))
    one = comparison(EIGHT[:4], seeds=[0, 1, 2, 5])
    looks = [
        at_looks(one, Looked(seeds, counts, "pocock"), level=0.95, margin=0.5).paired for counts in ([3, 6], [3, 4, 5, 6])
    ]
    assert looks[0] == looks[1]
    assert looks[0].n == 4


def test_the_order_of_seeds_is_that_of_the_study():
    seeds = [7, 3, 5, 1]
    one = Comparison(SIDE, SIDE, "points", paired([1, 2, 3, 9], level=0.95, margin=0.5), {1: 9.0, 3: 2.0, 5: 3.0, 7: 1.0})
    other = comparison([1.0, 2.0, 3.0, 9.0], seeds=[7, 3, 5, 1])
    looked = Looked(seeds, [3, 4], "pocock")
    assert at_looks(one, looked, level=0.95, margin=0.5).paired == at_looks(other, looked, level=0.95, margin=0.5).paired


def test_equal_differences_are_no_certainty():
    """Four differences of one image in 837: the spread is taken to be sqrt(2 / 12) images, so t is 1 / sqrt(1 / 6 / 4)."""
    image = 100 / 837
    found = seen_at([image] * 4, [4], seeds=range(4), resolution=image)
    assert found.p == pytest.approx(2 * stats.t.sf(math.sqrt(24), 3), rel=0.01)
    assert found.low < image < found.high
    assert seen_at([image] * 4, [4], seeds=range(4)).p < 1e-8


@pytest.mark.parametrize("num_pairs", [0, 1])
def test_too_few_pairs(num_pairs):
    found = seen_at(EIGHT[:num_pairs], [4, 6])
    assert (found.n, found.p, found.low, found.equivalence_p) == (num_pairs, None, None, None)


def test_intervals_hold_at_all_looks_together():
    """1,000 studies of 4, 6 and 8 pairs around 0.3: a share of at most 5 % has an interval that misses it at any look."""
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(1000):
        data = 0.3 + rng.standard_normal(8)
        looks = [seen_at(data[:count], [4, 6, 8][: index + 1], spending="pocock") for index, count in enumerate([4, 6, 8])]
        missed += any(not one.low <= 0.3 <= one.high for one in looks)
    assert 0.05 - 4 * 0.0069 < missed / 1000 < 0.05 + 4 * 0.0069
