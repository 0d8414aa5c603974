"""Judging at looks: the error rate over claims and looks together, effects that are found, and claims that stay decided."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from widestep.report.claims import judge_at
from widestep.report.compared import cells_of, comparisons_of
from widestep.report.expected import expected_runs, share_open
from widestep.report.results import CellResults, Curves, Diverged, SeedRun, Spared, StudyResults
from widestep.study.sequential import Sequential
from widestep.study.study import parse

IMAGE = 100 / 837
NO_CURVES = Curves(np.zeros(0), np.zeros(0), np.zeros(0))
TEXT = """
name = "simulated"
title = "Simulated"
recipe = "digits"
seeds = [0, 1, 2, 3, 4, 5, 6, 7]
margin = 0.5

[sequential]
first = 3
step = 2
spending = "pocock"

[arms.batch]
axes = { grid = ["4x1x8", "10x1x8", "40x1x8"] }

[arms.warm]
set = { grid = "30x1x8" }
axes = { warmup = ["0ep", "2ep", "4ep"] }

[arms.rule]
set = { grid = "20x1x8" }
axes = { scaling = ["linear", "none"] }

[claims.falls]
text = "Falls."
test = "falls"
arms = ["batch"]
axis = "grid"

[claims.worst]
text = "Worst."
test = "worst"
arms = ["warm"]
axis = "warmup"

[claims.same]
text = "Equal."
test = "equivalent"
arms = ["rule"]
axis = "scaling"
"""


@pytest.fixture(scope="module")
def study():
    return parse(TEXT)


@pytest.fixture(scope="module")
def simulated(study):
    """`simulated(accuracies)` makes results of {arm: (num_cells, num_seeds)}; NaN is a run that diverged."""
    cells = {arm: study.cells(arm) for arm in study.arms}

    def outcome(seed, accuracy):
        if np.isnan(accuracy):
            return Diverged("the loss is not finite")
        rounded = float(np.round(accuracy / IMAGE) * IMAGE)
        return SeedRun(seed, rounded, rounded, rounded, 3, NO_CURVES, IMAGE)

    def made(accuracies):
        arms = {
            arm: [
                CellResults(cell, {seed: outcome(seed, row[seed]) for seed in study.seeds}, 0.5)
                for cell, row in zip(cells[arm], rows, strict=True)
            ]
            for arm, rows in accuracies.items()
        }
        return StudyResults(study, Path("nowhere"), arms, {}, {})

    return made


def drawn(rng, effects, sd=1.0):
    """Accuracies about 90 that share a part by seed, as runs of one seed do."""
    return {
        arm: 90 + rng.normal(0, 1, 8) + np.array(shifts)[:, None] + rng.normal(0, sd, (len(shifts), 8))
        for arm, shifts in effects.items()
    }


def verdicts(results, num_looks):
    return {one.claim: one.verdict for one in judge_at(results, num_looks)}


def test_several_claims_and_looks_keep_one_error_rate(simulated):
    """No effect, or one of just the margin: of 200 studies 10 may say anything wrong on any claim at any of four looks.

    More than 24 have a probability of 4e-5. Equality of the first two claims is true, and no error.
    """
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(200):
        found = judge_at(simulated(drawn(rng, {"batch": [0, 0, 0], "warm": [0, 0, 0], "rule": [0.5, 0]})), 4)
        wrong += any(one.verdict != "undecided" and (one.why != "equivalent" or one.claim == "same") for one in found)
    assert wrong <= 24


def test_planted_effects_are_found_early(simulated):
    effects = {"batch": [6, 3, 0], "warm": [-20, 0, 0], "rule": [0, 25]}
    results = simulated(drawn(np.random.default_rng(3), effects, sd=0.3))
    found = {one.claim: one for one in judge_at(results, 4)}
    assert {name: one.verdict for name, one in found.items()} == {
        "falls": "supported",
        "worst": "supported",
        "same": "contradicted",
    }
    assert all(one.look.look <= 2 for one in found.values())
    assert found["falls"].n == found["falls"].look.seeds


def test_a_decided_claim_stays_as_it_was(simulated):
    """Decided after three seeds; then the effect turns round."""
    accuracies = drawn(np.random.default_rng(4), {"batch": [40, 20, 0], "warm": [0, 0, 0], "rule": [0.5, 0]}, sd=0.05)
    turned = {**accuracies, "batch": accuracies["batch"].copy()}
    turned["batch"][:, 3:] = turned["batch"][::-1, 3:]
    early = judge_at(simulated(accuracies), 1)[0]
    assert (early.verdict, early.n) == ("supported", 3)
    late = judge_at(simulated(turned), 4)[0]
    assert replace(late, p_adjusted=early.p_adjusted) == early


def test_looks_only_see_their_seeds(simulated):
    rng = np.random.default_rng(6)
    effects = {"batch": [1, 0, 0], "warm": [0, 0, 0], "rule": [0, 0]}
    one, other = drawn(rng, effects), drawn(rng, effects)
    mixed = {arm: np.concatenate([one[arm][:, :5], other[arm][:, 5:]], axis=1) for arm in one}
    assert judge_at(simulated(one), 2) == judge_at(simulated(mixed), 2)


def test_before_the_first_look_nothing_is_said(simulated):
    accuracies = drawn(np.random.default_rng(4), {"batch": [40, 20, 0], "warm": [0, 0, 0], "rule": [0, 0]})
    found = judge_at(simulated(accuracies), 0)
    assert [(one.verdict, one.n, one.p) for one in found] == [("undecided", 0, None)] * 3
    assert found[0].detail.startswith("No look was taken yet.")


def test_seeds_that_were_not_wanted_are_neither_missing_nor_compared(simulated, study):
    results = simulated(drawn(np.random.default_rng(8), {"batch": [2, 1, 0], "warm": [0, 0, 0], "rule": [0, 0]}))
    cell = results.arms["batch"][0]
    spared = replace(cell, outcomes={seed: run if seed < 3 else Spared() for seed, run in cell.outcomes.items()})
    results = replace(results, arms={**results.arms, "batch": [spared, *results.arms["batch"][1:]]})
    assert spared.missing == []
    assert comparisons_of(results, study.claims["falls"])[0].paired.n == 3


def test_every_setting_that_is_compared_gets_seeds(simulated, study):
    """What a claim compares is asked in two ways; labels name the settings."""
    results = simulated(drawn(np.random.default_rng(9), {"batch": [0, 0, 0], "warm": [0, 0, 0], "rule": [0, 0]}))
    labels = {cell.cell.fingerprint(0): cell.label for cells in results.arms.values() for cell in cells}
    for claim in study.claims.values():
        compared = {side.label for one in comparisons_of(results, claim) for side in (one.first, one.second)}
        assert {labels[cell.fingerprint(0)] for cell in cells_of(study, claim)} == compared


def test_expected_runs(study):
    """Eight settings, seven of them compared. Nothing differs: nearly all of 8 seeds; huge differences: 3 or 5 seeds."""
    assert 7 * 7.5 + 3 < expected_runs(study, 0.0) <= 7 * 8 + 3
    assert expected_runs(study, 100.0) == pytest.approx(8 * 3)
    for ratio in (0.0, 1.0, 3.0):
        still = share_open(Sequential(first=2, step=1), 8, 0.05, ratio)
        assert (np.diff(still) <= 0).all()
    assert share_open(Sequential(), 12, 0.05, 0.0)[-1] == pytest.approx(0.95, abs=4 * 0.0035)
