"""The slope of the best warmup against the batch: worked out by hand, by numpy, and by drawing seeds in a plain loop."""

import json

import numpy as np
import pytest
from simulated_studies import Simulator

from widestep.report.slope import warmup_slopes
from widestep.report.statistics import draws
from widestep.study.study import parse

TEXT = """
name = "warm"
title = "Three batches"
recipe = "digits"
seeds = [0]
margin = 0.5

[arms.four]
set = { grid = "40x1x8" }
axes = { warmup = ["0ep", "2ep", "4ep", "8ep"] }

[arms.one]
set = { grid = "10x1x8" }
axes = { warmup = ["0ep", "1ep", "2ep", "4ep"] }

[arms.two]
set = { grid = "20x1x8" }
axes = { warmup = ["0ep", "2ep", "12st"] }

[arms.other]
set = { epochs = "90ep" }
axes = { grid = ["10x1x8", "20x1x8"], warmup = ["1ep", "3ep"] }

[arms.alone]
set = { epochs = "10ep" }
axes = { warmup = ["0ep", "1ep"] }
"""


def simulator(num_seeds):
    study = parse(TEXT).model_copy(update={"seeds": list(range(num_seeds))})
    return Simulator(study, lambda cell: 960 // cell.recipe.grid.global_batch)  # 3, 6 and 12 steps an epoch


def table(best, cells, num_seeds, noise=None):
    """Accuracies of which the cell at `best` is the highest."""
    values = np.full((cells, num_seeds), 95.0)
    values[best] += 1.0
    return values if noise is None else values + noise


def results(num_seeds, best, noise=None):
    simulated = simulator(num_seeds)
    shapes = {arm: len(cells) for arm, cells in simulated.cells.items()}
    return simulated.results({arm: table(best.get(arm, 0), shapes[arm], num_seeds, noise and noise[arm]) for arm in shapes})


def test_proportional_warmups_have_slope_one_in_epochs_and_none_in_steps():
    found = warmup_slopes(results(4, {"one": 1, "two": 1, "four": 2, "other": 1}))
    # 1, 2 and 4 epochs at 80, 160 and 320 images: 12 steps each
    assert [one.arms for one in found] == [["one", "two", "four"], ["other", "other"]]
    three = found[0]
    assert (three.batches, three.epochs, three.steps, three.n) == ([80, 160, 320], [1.0, 2.0, 4.0], [12.0, 12.0, 12.0], 4)
    assert (three.epochs_slope, three.steps_slope) == (pytest.approx(1.0), pytest.approx(0.0))
    assert three.epochs_interval == (pytest.approx(1.0), pytest.approx(1.0))
    assert (three.num_none, three.num_longest, three.remarks) == (0, 1, "longest best at 1")  # 12st are 2ep


def test_the_same_epochs_have_slope_none():
    other = warmup_slopes(results(4, {}))[1]
    assert (other.epochs, other.epochs_slope, other.steps_slope) == ([1.0, 1.0], pytest.approx(0.0), pytest.approx(-1.0))


def test_no_warmup_counts_as_half_the_shortest_tried():
    found = warmup_slopes(results(4, {"one": 0, "two": 0, "four": 3}))[0]
    expected = np.polyfit(np.log([80, 160, 320]), np.log([0.5, 1.0, 8.0]), 1)[0]
    assert found.epochs_slope == pytest.approx(expected)
    assert found.epochs == [0.0, 0.0, 8.0]
    steps = np.polyfit(np.log([80, 160, 320]), np.log([6.0, 6.0, 24.0]), 1)[0]
    assert found.steps_slope == pytest.approx(steps)
    assert found.remarks == "none best at 2; longest best at 1"


def test_the_interval_is_a_plain_loop_over_drawn_seeds():
    num_seeds, rng = 6, np.random.default_rng(2)
    shapes = {"four": 4, "one": 4, "two": 3, "other": 4, "alone": 2}
    noise = {arm: rng.normal(0, 1, (cells, num_seeds)) for arm, cells in shapes.items()}
    found = warmup_slopes(results(num_seeds, {"one": 1, "two": 1, "four": 2}, noise))[0]
    tried = {"one": [0.5, 1, 2, 4], "two": [1, 2, 2], "four": [1, 2, 4, 8]}
    slopes = []
    for seeds in draws(num_seeds):
        best = [
            tried[arm][int((table(index, shapes[arm], num_seeds, noise[arm])[:, seeds].mean(axis=1)).argmax())]
            for arm, index in (("one", 1), ("two", 1), ("four", 2))
        ]
        slopes.append(np.polyfit([0, 1, 2], np.log2(best), 1)[0])
    low, high = np.sort(slopes)[[99, 3899]]  # the 100th and the 3,900th of 4,000
    assert found.epochs_interval == pytest.approx((low, high))
    assert found.epochs_interval[0] < found.epochs_interval[1]
    assert found.is_rough


def test_a_diverged_warmup_is_not_the_best_and_one_seed_has_no_interval():
    simulated = simulator(1)
    tables = {arm: table(1, len(cells), 1) for arm, cells in simulated.cells.items()}
    tables["four"][1] = np.nan
    tables["four"][3] = 95.5
    found = warmup_slopes(simulated.results(tables))[0]
    assert (found.epochs[2], found.epochs_interval, found.n) == (8.0, None, 1)
    json.dumps(found.record(), allow_nan=False)
    assert found.record()["effect"] == found.epochs_slope
    assert found.record()["slope"]["batches"] == [80, 160, 320]


def test_seeds_count_that_ended_at_every_batch():
    simulated = simulator(3)
    tables = {arm: table(1, len(cells), 3) for arm, cells in simulated.cells.items()}
    tables["four"][:, 0] = np.nan  # nothing is best there
    assert warmup_slopes(simulated.results(tables))[0].n == 2
    tables["four"][:] = np.nan
    assert [one.arms for one in warmup_slopes(simulated.results(tables))] == [["other", "other"]]


def test_an_arm_that_tried_no_warmup_only_has_no_slope():
    """In epochs and in steps: a ratio of lengths needs one that is not zero."""
    text = TEXT.replace('axes = { warmup = ["0ep", "1ep", "2ep", "4ep"] }', 'axes = { warmup = ["0ep", "0st"] }')
    simulated = Simulator(parse(text), lambda cell: 960 // cell.recipe.grid.global_batch)
    tables = {arm: table(0, len(cells), 1) for arm, cells in simulated.cells.items()}
    assert [one.arms for one in warmup_slopes(simulated.results(tables))] == [["other", "other"]]
