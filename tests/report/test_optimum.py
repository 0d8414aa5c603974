"""The best warmup: per seed, per arm, in epochs and steps, and with a bootstrap interval."""

import numpy as np
import pytest

from widestep.report.optimum import best_per_seed, best_warmups, bootstrap_best
from widestep.report.results import read_study
from widestep.study import study as studies


@pytest.fixture
def read(tmp_path, small_text, fakes):
    def build(table, seeds=3, status="complete"):
        """`table[arm][seed]` lists the right images of the arm's four warmups; None leaves out, a negative diverges."""
        study = studies.changed(studies.parse(small_text), seeds=seeds)

        def outcome(cell, seed, rng):
            if cell.arm not in table:
                return None
            place = study.arms[cell.arm].axes["warmup"].index(cell.settings["warmup"])
            value = table[cell.arm][seed][place]
            return None if value is None else fakes.planned(abs(value), "diverged" if value < 0 else "complete")

        return read_study(fakes.study(tmp_path / "s", study, outcome))

    return build


def test_best_per_seed_averages_ties_and_skips_unfinished_seeds(read):
    results = read({"warm-40": [[800, 820, 820, 810], [700, 690, 680, 670], [700, 710, None, 690]]})
    # 12 steps are 4 epochs of 3 steps; seed 0 ties at 2 and 4 epochs; seed 2 has no run at 4
    assert best_per_seed(results.arms["warm-40"], "warmup") == {0: 3.0, 1: 0.0}


def test_a_diverged_run_is_never_the_best(read):
    results = read({"warm-40": [[-830, 820, 810, 800], [-830, -830, -830, -830], [-830, 700, 700, 705]]})
    assert best_per_seed(results.arms["warm-40"], "warmup") == {0: 2.0, 2: 8.0}


def test_best_per_seed_of_a_grid_counts_images(tmp_path, small_text, fakes):
    study = studies.changed(studies.parse(small_text), seeds=1)
    directory = fakes.study(tmp_path / "s", study, lambda cell, seed, rng: fakes.planned(700 + cell.recipe.grid.num_nodes))
    assert best_per_seed(read_study(directory).arms["batch"], "grid") == {0: 320.0}


def test_best_warmup_of_an_arm_in_both_units(read):
    results = read({"warm-40": [[800, 810, 830, 805]] * 3, "warm-10": [[800, 810, 805, 830]] * 3})
    found = {one.arm: one for one in best_warmups(results)}
    assert set(found) == {"warm-10", "warm-40"}
    forty, ten = found["warm-40"], found["warm-10"]
    assert (forty.epochs, forty.steps, forty.global_batch, forty.n, forty.at_edge) == (4.0, 12, 320, 3, False)
    assert (forty.epochs_interval, forty.steps_interval) == ((4.0, 4.0), (12, 12))
    assert (ten.epochs, ten.steps, ten.at_edge, ten.is_rough) == (8.0, 96, True, True)


def test_the_longest_tried_is_so_by_length(tmp_path, small_text, fakes):
    """Whatever the order in which the study names them."""
    text = small_text.replace('set = { grid = "10x1x8" }\naxes = { warmup = ["0ep", "2ep", "4ep", "8ep"] }',
                              'set = { grid = "10x1x8" }\naxes = { warmup = ["8ep", "0ep", "4ep", "2ep"] }')  # fmt: skip
    study = studies.changed(studies.parse(text), seeds=2)
    for best, edge in (("8ep", True), ("2ep", False)):

        def outcome(cell, seed, rng, best=best):
            return fakes.planned(805 if str(cell.recipe.warmup) == best else 800)

        directory = fakes.study(tmp_path / best, study, outcome)
        [ten] = [one for one in best_warmups(read_study(directory)) if one.arm == "warm-10"]
        assert (ten.epochs, ten.at_edge) == (float(best[0]), edge)


def test_a_warmup_that_diverged_once_is_not_the_best_of_its_arm(read):
    results = read({"warm-40": [[-800, 100, 90, 80], [837, 100, 90, 80], [837, 100, 90, 80]]})
    [forty] = [one for one in best_warmups(results) if one.arm == "warm-40"]
    assert forty.epochs == 2.0
    assert forty.epochs_interval == (0.0, 2.0)  # draws without that seed prefer no warmup


def test_one_seed_has_no_interval_and_none_has_no_best(read):
    results = read({"warm-40": [[800, 810, 830, 805]]}, seeds=1)
    found = {one.arm: one for one in best_warmups(results)}
    assert (found["warm-40"].epochs, found["warm-40"].epochs_interval) == (4.0, None)
    assert (found["warm-10"].n, found["warm-10"].epochs) == (0, None)


def test_bootstrap_interval_covers_what_sampling_does():
    # two values; the second wins in 3 of 10 seeds by as much as the first in the others: the mean prefers the first,
    # and a draw prefers the second when it holds more than 5 of those seeds: binomial(10, .3), P(X >= 6) = 0.047
    accuracy = np.array([[1.0, 0.0]] * 7 + [[0.0, 1.0]] * 3)
    values = np.array([0.0, 8.0])
    assert bootstrap_best(accuracy, values, 0.80) == (0.0, 0.0)
    assert bootstrap_best(accuracy, values, 0.95) == (0.0, 8.0)


def test_bootstrap_is_the_same_every_time():
    accuracy = np.random.default_rng(0).normal(size=(40, 300))
    values = np.arange(300.0)
    assert len({bootstrap_best(accuracy, values, level=0.5) for _ in range(4)}) == 1
