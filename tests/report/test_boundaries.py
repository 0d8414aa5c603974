"""Group-sequential boundaries against published tables, against simulated t-tests, and against the plain t-test."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from widestep.report.boundaries import SPENDING, nominal_level, scores, sequential_p

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]
MANY = [1000, 2000, 3000, 4000, 5000]


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        ("obrien-fleming", [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        ("pocock", [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
    ],
)
def test_many_pairs_give_the_published_boundaries(spending, published):
    """Lan and DeMets, five equal looks, one-sided 0.025, known spread; 1,000 pairs a look come to a known spread."""
    assert scores(0.025, FIVE, MANY, spending) == pytest.approx(published, abs=0.002)


@pytest.mark.parametrize(("num_looks", "constant"), [(2, 2.178), (3, 2.289), (4, 2.361)])
def test_the_error_between_looks_is_that_of_pococks_constants(num_looks, constant):
    """Pocock's constants share 0.05 among looks at equal levels: spending what they spend must give them back."""
    counts = [1000 * look for look in range(1, num_looks + 1)]
    covariance = np.sqrt(np.minimum.outer(counts, counts) / np.maximum.outer(counts, counts))
    spent = [
        1 - float(stats.multivariate_normal.cdf(np.full(k, constant), cov=covariance[:k, :k], abseps=1e-6))
        for k in range(1, num_looks + 1)
    ]
    assert spent[-1] == pytest.approx(0.025, abs=1.5e-4)
    SPENDING["published"] = lambda share, time: share * spent[round(time * num_looks) - 1] / spent[-1]
    try:
        found = scores(spent[-1], [look / num_looks for look in range(1, num_looks + 1)], counts, "published")
    finally:
        del SPENDING["published"]
    assert found == pytest.approx([constant] * num_looks, abs=0.003)


@pytest.mark.parametrize("spending", list(SPENDING))
@given(share=st.floats(1e-6, 0.5), time=st.floats(0.01, 1.0))
def test_spending_ends_with_all_and_never_overspends(spending, share, time):
    spend = SPENDING[spending]
    assert float(spend(np.array(share), 1.0)) == pytest.approx(share)
    assert 0 <= float(spend(np.array(share), time)) <= share * (1 + 1e-12)


def crossed(counts, share, spending, num_draws=500_000):
    """Share of simulated studies without an effect in which a one-sided paired t-test crosses at one of the looks."""
    data = np.random.default_rng(5).standard_normal((num_draws, counts[-1]))
    times = [count / counts[-1] for count in counts]
    above, below = np.zeros((2, num_draws), dtype=bool)
    for look, count in enumerate(counts, start=1):
        seen = data[:, :count]
        t = seen.mean(axis=1) / (seen.std(axis=1, ddof=1) / math.sqrt(count))
        critical = stats.t.isf(nominal_level(share, times[:look], counts[:look], spending), count - 1)
        above |= t > critical
        below |= t < -critical
    return (above.mean() + below.mean()) / 2


@pytest.mark.parametrize("spending", list(SPENDING))
@pytest.mark.parametrize(("counts", "share"), [((2, 3, 4, 5, 6), 0.025), ((4, 6, 8, 10, 12), 0.025), ((3, 5, 8), 0.005)])
def test_few_pairs_keep_the_error_rate(counts, share, spending):
    """With boundaries for a known spread 2, 3, 4, 5 and 6 pairs cross up to 1.22 times too often; here 1.00 times."""
    spread = math.sqrt(share / 2 / 500_000)
    assert crossed(counts, share, spending) == pytest.approx(share, abs=4.5 * spread + 0.01 * share)


@given(p=st.floats(1e-7, 0.49), count=st.integers(2, 40))
def test_one_look_with_all_seeds_is_the_plain_test(p, count):
    assert sequential_p([p], [1.0], [count], "obrien-fleming") == pytest.approx(p, rel=0.01)


@pytest.mark.parametrize("spending", list(SPENDING))
@given(share=st.floats(1e-6, 0.4))
def test_a_sequential_p_is_the_error_rate_whose_boundary_is_met(spending, share):
    times, counts = [1 / 3, 2 / 3, 1.0], [4, 8, 12]
    for look in (1, 2, 3):
        p_values = [0.9] * look
        p_values[-1] = nominal_level(share, times[:look], counts[:look], spending)
        if p_values[-1] > 1e-15:
            assert sequential_p(p_values, times[:look], counts[:look], spending) == pytest.approx(share, rel=0.01)


@given(st.lists(st.floats(1e-9, 1.0), min_size=2, max_size=4))
def test_more_looks_never_take_back_what_was_shown(p_values):
    times, counts = [0.25, 0.5, 0.75, 1.0], [3, 6, 9, 12]
    found = [sequential_p(p_values[:k], times[:k], counts[:k], "pocock") for k in range(1, len(p_values) + 1)]
    assert found == sorted(found, reverse=True)
    assert found[-1] >= min(p_values) * 0.99


def test_what_a_look_cannot_spend_it_does_not_show():
    """Two of a thousand seeds: O'Brien-Fleming spends less than a score of 9 stands for."""
    assert nominal_level(0.025, [0.002], [2], "obrien-fleming") == 0
    assert sequential_p([1e-300], [0.002], [2], "obrien-fleming") > 1e-3
