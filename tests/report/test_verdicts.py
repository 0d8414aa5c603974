"""The decisions: hand-made cases for every verdict, and error rates over simulated studies."""

from dataclasses import replace

import numpy as np
import pytest

from widestep.report.comparisons import paired
from widestep.report.verdicts import KINDS, Rule, family

MARGIN = 0.5
UP = [0.9, 1.1, 1.0, 1.2, 0.8, 1.05, 0.95, 1.15]
DOWN = [-value for value in UP]
NONE = [0.01, -0.02, 0.015, -0.01, 0.02, -0.015, 0.005, -0.005]
WIDE = [3.0, -2.0, 4.0, -3.5, 1.0, -1.5, 2.5, -2.8]
MIDDLE = [0.3, 0.7, 0.4, 0.6, 0.35, 0.65, 0.45, 0.55]
SMALL = [0.10, 0.11, 0.12, 0.13, 0.09, 0.08, 0.105, 0.115]


def pair(differences):
    return paired(differences, level=0.95, margin=MARGIN)


def decide(kind, *columns, others=()):
    """Decide a claim from its columns of differences, beside claims whose p values are `others`."""
    pairs = [pair(column) for column in columns]
    return KINDS[kind].decide(pairs, Rule(0.95, family([1.0, *others], 0), MARGIN))[:2]


@pytest.mark.parametrize(
    ("kind", "columns", "expected"),
    [
        ("falls", [UP], ("supported", "shown")),
        ("falls", [DOWN], ("contradicted", "reversed")),
        ("falls", [NONE], ("contradicted", "equivalent")),
        ("falls", [SMALL], ("supported", "shown")),  # shown, though smaller than the margin
        ("falls", [WIDE], ("undecided", "open")),
        ("worst", [UP, UP, UP], ("supported", "shown")),
        ("worst", [UP, WIDE, UP], ("undecided", "open")),
        ("worst", [UP, DOWN, WIDE], ("contradicted", "reversed")),
        ("worst", [UP, DOWN], ("contradicted", "reversed")),
        ("worst", [NONE, NONE[::-1]], ("contradicted", "equivalent")),
        ("worst", [NONE, WIDE], ("undecided", "open")),
        ("too-long", [WIDE, UP], ("supported", "shown")),
        ("too-long", [DOWN, DOWN], ("contradicted", "reversed")),
        ("too-long", [DOWN, WIDE], ("undecided", "open")),
        ("too-long", [NONE, NONE[::-1]], ("contradicted", "equivalent")),
        ("optimum-grows", [UP], ("supported", "shown")),
        ("optimum-grows", [DOWN], ("contradicted", "reversed")),
        ("optimum-grows", [NONE], ("undecided", "open")),
        ("equivalent", [NONE], ("supported", "equivalent")),
        ("equivalent", [UP], ("contradicted", "beyond")),
        ("equivalent", [WIDE], ("undecided", "open")),
        ("equivalent", [MIDDLE], ("undecided", "open")),  # a difference is shown, but not one beyond the margin
    ],
)
def test_each_verdict(kind, columns, expected):
    assert decide(kind, *columns) == expected


def test_what_an_earlier_look_had_shown_must_still_hold():
    """A sequential p stays small when later seeds have widened the interval over the margin again."""
    now = {"equivalence_p": 0.01, "equivalence_low": -0.58, "equivalence_high": 0.2, "beyond_p": 1.0}
    equal, rule = replace(pair(NONE), **now), Rule(0.95, family([1.0], 0), MARGIN)
    assert KINDS["equivalent"].decide([equal], rule)[:2] == ("undecided", "open")
    assert KINDS["falls"].decide([replace(equal, p=0.9)], rule)[:2] == ("undecided", "open")
    still = replace(equal, equivalence_low=-0.49)
    assert KINDS["equivalent"].decide([still], rule)[:2] == ("supported", "equivalent")
    apart = replace(pair(UP), low=0.45, high=1.2, beyond_p=0.01, equivalence_p=1.0)
    assert KINDS["equivalent"].decide([apart], rule)[:2] == ("undecided", "open")
    assert KINDS["equivalent"].decide([replace(apart, low=0.55)], rule)[:2] == ("contradicted", "beyond")


def test_the_family_of_claims_matters():
    # eight equal signs: p = 2/2**8 = .0078; beside seven other claims of p .5 it becomes .0625
    assert decide("falls", UP)[0] == "supported"
    assert decide("falls", UP, others=[0.5] * 7)[0] == "undecided"
    assert family([0.01, None, 0.04], 0)(0.01) == pytest.approx(0.03)  # an untestable claim counts as p = 1


def test_a_small_p_without_an_interval_beside_zero_is_not_shown():
    collapse = [0.2, 0.25, 0.3, 0.22, 0.28, 0.31, 0.27, 90.0]  # all positive, but one run makes the mean
    assert pair(collapse).p < 0.01
    assert pair(collapse).low < 0
    assert decide("falls", collapse) == ("undecided", "open")


def test_ranks_from_six_pairs_on():
    assert pair(UP[:5]).test == "paired t"
    assert pair(UP[:6]).test.startswith("Wilcoxon")
    assert pair(UP[:6]).p == 2 / 2**6


def test_worst_reports_the_smallest_difference_and_the_largest_p():
    pairs = [pair(UP), pair(SMALL), pair(WIDE)]
    index, p = KINDS["worst"].choose(pairs)
    assert index == 2  # the means are 1.02, 0.106 and 0.0875
    assert p == max(one.p for one in pairs)


def test_too_long_reports_the_largest_difference_with_its_p_adjusted_within():
    pairs = [pair(SMALL), pair(UP)]
    assert KINDS["too-long"].choose(pairs) == (1, pytest.approx(2 * pairs[1].p))


def test_few_pairs():
    assert not KINDS["falls"].ready([pair([1.0])])
    assert not KINDS["worst"].ready([pair(UP), pair([])])
    assert KINDS["too-long"].ready([pair(UP), pair([])])
    assert KINDS["too-long"].decide([pair(UP), pair([])], Rule(0.95, lambda p: p, MARGIN))[0] == "supported"


def diverging(*, first=0, second=0, complete=()):
    return [*complete, *[-np.inf] * first, *[np.inf] * second]


@pytest.mark.parametrize(
    ("kind", "columns", "expected"),
    [
        ("falls", [diverging(second=8)], ("supported", "shown")),  # nobody reached the end: there is no mean
        ("falls", [diverging(first=8)], ("contradicted", "reversed")),
        ("falls", [diverging(second=4, complete=NONE)], ("undecided", "open")),  # W- at least 1 + ... of NONE's negatives
        ("falls", [diverging(second=6, complete=[0.1, 0.2, -0.05, 0.1])], ("supported", "shown")),
        ("falls", [diverging(second=9, complete=[-0.2, -0.1, -0.3])], ("undecided", "open")),  # survivors point back
        ("falls", [diverging(first=1, complete=UP)], ("undecided", "open")),
        ("worst", [diverging(second=8), UP], ("supported", "shown")),
        ("too-long", [diverging(second=8), diverging(second=8)], ("supported", "shown")),
        ("equivalent", [diverging(second=1, complete=NONE)], ("undecided", "open")),  # equal, but for one that failed
        ("equivalent", [diverging(second=8)], ("contradicted", "beyond")),
        ("falls", [diverging(second=5)], ("undecided", "open")),  # p = 2 / 2**5
    ],
)
def test_diverged_runs_rank_last(kind, columns, expected):
    assert decide(kind, *columns) == expected


def test_a_pair_with_a_diverged_run_is_in_the_test_alone():
    found = pair(diverging(first=1, second=3, complete=UP))
    assert (found.n, found.effect) == (8, pytest.approx(np.mean(UP)))
    assert (found.num_first_diverged, found.num_second_diverged, found.equivalence_p) == (1, 3, 1.0)
    # ranks of 12: the three above and the one below share 10.5; the smaller sum is 10.5
    assert found.p == pytest.approx(enumerated(10.5, [*range(1, 9), 10.5, 10.5, 10.5, 10.5]))


def enumerated(sum_of_ranks, ranks):
    sums = np.array([0.0])
    for rank in ranks:
        sums = np.concatenate([sums, sums + rank])
    return 2 * np.mean(sums <= sum_of_ranks)


def test_a_decided_claim_makes_room_only_when_nothing_more_can_be_said_of_it():
    near, far = [0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.9], [2.3, 2.4, 2.45, 2.5, 2.55, 2.6, 2.65, 2.9]
    assert KINDS["falls"].settled([pair(far)], MARGIN) == 2 / 2**8
    assert KINDS["falls"].settled([pair(near)], MARGIN) == pair(near).equivalence_p > 0.05
    assert KINDS["falls"].settled([pair(SMALL)], MARGIN) == 2 / 2**8  # shown, and shown to be within the margin
    assert KINDS["worst"].settled([pair(far), pair(NONE)], MARGIN) == 1.0  # one is far above: that is no statement of it
    assert KINDS["worst"].settled([pair([-value for value in far]), pair(NONE)], MARGIN) == 4 / 2**8
    assert KINDS["too-long"].settled([pair(far), pair(NONE)], MARGIN) == 4 / 2**8
    assert KINDS["too-long"].settled([pair([-value for value in far]), pair(WIDE)], MARGIN) > 0.3
    assert KINDS["equivalent"].settled([pair(UP)], MARGIN) == pair(UP).beyond_p < 0.01
    assert KINDS["equivalent"].settled([pair(NONE)], MARGIN) == pair(NONE).equivalence_p < 0.01
