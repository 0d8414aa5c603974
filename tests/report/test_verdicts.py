"""The decisions: hand-made cases for every verdict, and error rates over simulated studies."""

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
    p = KINDS[kind].choose(pairs)[1]
    return KINDS[kind].decide(pairs, Rule(0.95, family([p, *others], 0), MARGIN))[:2]


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


def simulated_study(rng, effects, num_seeds, sd):
    """Verdicts of five claims, one of each kind, as a study with these true values would give them."""
    falls, worst, too_long, grows, margin_gap = effects
    cells = rng.normal(0, sd, (num_seeds, 4))  # the warmup cells, shared by two of the claims as in the real study
    columns = {
        "falls": [rng.normal(falls, sd, num_seeds)],
        "worst": [cells[:, k] + worst - cells[:, 0] for k in (1, 2, 3)],
        "too-long": [cells[:, k] + too_long - cells[:, 3] for k in (1, 2)],
        "optimum-grows": [np.rint(rng.normal(grows, 2, num_seeds))],
        "equivalent": [rng.normal(margin_gap, sd, num_seeds)],
    }
    pairs = {kind: [pair(column) for column in found] for kind, found in columns.items()}
    p_values = [KINDS[kind].choose(found)[1] for kind, found in pairs.items()]
    rules = [Rule(0.95, family(p_values, index), MARGIN) for index in range(len(pairs))]
    return {kind: KINDS[kind].decide(found, rule)[0] for (kind, found), rule in zip(pairs.items(), rules, strict=True)}


@pytest.mark.parametrize("num_seeds", [4, 12])
def test_wrongly_supported_claims_stay_below_five_percent(num_seeds):
    rng, num_fakes = np.random.default_rng(num_seeds), 1500
    wrong = 0
    for _ in range(num_fakes):  # every claim is false: no effects, and a true difference as large as the margin
        verdicts = simulated_study(rng, (0, 0, 0, 0, MARGIN), num_seeds, 0.6)
        wrong += "supported" in verdicts.values()
    assert wrong / num_fakes <= 0.05


def test_planted_effects_are_found():
    rng, found = np.random.default_rng(3), []
    for _ in range(100):
        found.append(list(simulated_study(rng, (1.0, 1.5, 1.5, 4.0, 0.0), 12, 0.4).values()))
    assert np.mean(np.array(found) == "supported", axis=0).min() > 0.8
