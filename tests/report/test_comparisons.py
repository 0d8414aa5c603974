"""Comparisons of two cells: counts of both sides, and records that JSON can hold."""

import json

import pytest
from scipy import stats

from widestep.report.comparisons import Comparison, Side, paired


def test_failures_count_collapsed_and_diverged_runs_of_both_sides():
    one = Comparison(Side("a", 98.0, 2, 3, 12), Side("b", 97.0, 1, 0, 11), "points", paired([], level=0.95, margin=1))
    assert one.failure_p == pytest.approx(stats.fisher_exact([[5, 7], [1, 10]])[1])
    record = one.record()
    assert (record["num_collapsed_first"], record["num_diverged_first"], record["num_finished_second"]) == (2, 3, 11)
    assert (record["median_first"], record["median_second"]) == (98.0, 97.0)


def test_nothing_finished_has_no_failure_rate():
    one = Comparison(Side("a", None, 0, 0, 0), Side("b", None, 1, 0, 2), "points", paired([], level=0.95, margin=1))
    assert one.failure_p is None
    assert json.loads(json.dumps(one.record()))["interval"] is None


@pytest.mark.parametrize(("values", "n"), [([], 0), ([1.5], 1)])
def test_too_few_pairs_have_no_interval(values, n):
    found = paired(values, level=0.95, margin=1)
    assert (found.n, found.low, found.p, found.equivalence_p, found.detectable) == (n, None, None, None, None)
    assert found.effect == (values[0] if values else None)
