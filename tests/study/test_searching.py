"""Searches on fake runs whose accuracy is a known function of what is searched."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from widestep.errors import EnvironmentFault, UsageError
from widestep.study import sampling
from widestep.study.crew import ProgressMeter
from widestep.study.searching import Giving, attempts, extend, may_extend, summaries
from widestep.study.store import StudyStore
from widestep.study.study import parse
from widestep.study.work import work

TEXT = """
name = "tuned"
title = "Which warmup and rate?"
recipe = "digits"
seeds = [0, 1]
margin = 0.5
device = "cpu"

[arms.tune]
axes = { grid = ["4x1x8", "40x1x8"] }
search = { over = { warmup = ["0ep", "20ep"], base_lr = [0.01, 10.0] }, num_trials = 20, seeds = [90], at_a_time = 4 }

[arms.tuned]
from_search = "tune"
"""


def accuracy(recipe):
    """Highest (0.95) at warmup 12ep and rate 0.1 with 40 workers, 4ep and 1.0 with 4; both matter alike."""
    warmup, rate = (12, 0.1) if recipe.grid.num_workers == 40 else (4, 1.0)
    off = ((float(recipe.warmup.amount) - warmup) / 20) ** 2 + (math.log10(recipe.base_lr / rate) / 3) ** 2
    return 0.95 - 0.5 * off


class PowerCut(BaseException):
    """Ends a worker at once."""


@pytest.fixture
def life(tmp_path, fake):
    """`life(directory, limit)` works on the search until it is over, or power fails after so many runs."""

    class Life:
        def __init__(self):
            self.executed = Counter()

        def begin(self, name, text=TEXT):
            return StudyStore.create(tmp_path / name, parse(text))

        def run(self, store, trials):
            for trial in trials:
                fake.finish(store.run(trial), val_correct=round(837 * accuracy(trial.recipe)))
                self.executed[trial.fingerprint] += 1

        def __call__(self, name, limit=10**6, text=TEXT):
            store, left = self.begin(name, text), limit

            def execute(trials):
                nonlocal left
                for trial in trials:
                    if left == 0:
                        raise PowerCut
                    left -= 1
                    self.run(store, [trial])

            work(store, execute)
            return store

    return Life()


def files(store):
    return {path.name: path.read_text() for path in (store.directory / "search" / "tune").iterdir()}


def test_a_search_ends_in_runs_with_the_study_s_seeds(life):
    store = life("s")
    assert set(files(store)) == {"1.json", "2.json", "3.json", "4.json", "5.json", "best.json"}
    assert store.is_concluded()
    assert set(life.executed.values()) == {1}
    by_arm = Counter((state.trial.arm, state.trial.seed) for state in store.states())
    assert by_arm == {("tune", 90): 40, ("tuned", 0): 2, ("tuned", 1): 2}
    found = attempts(store, store.searched.arms[0])
    for key, cell in zip(store.searched.arms[0].keys, store.study.cells("tuned"), strict=True):
        best = max(found[key], key=lambda one: one.value).proposal.settings
        assert {name: cell.settings[name] for name in best} == best


def test_the_optimum_is_found_better_than_by_random_choice(life):
    """Mean loss of the best of 20 over eight searches of two optima each, against that of the best of 20 random ones."""
    draws = np.random.default_rng(1)
    warmups, rates = draws.integers(0, 21, (4000, 20)), draws.uniform(-2, 1, (4000, 20))
    random = np.mean(
        [
            (((warmups - warmup) / 20) ** 2 + ((rates - rate) / 3) ** 2).min(axis=1).mean()
            for warmup, rate in ((12, -1), (4, 0))
        ]
    )
    lost = []
    for number in range(8):
        text = TEXT.replace("[90]", f"[{90 + number}]")
        for one in summaries(life(f"s{number}", text=text)):
            lost.append((95 - one.accuracy) / 50)
    assert len(lost) == 16
    assert np.mean(lost) < 0.6 * random


@pytest.mark.parametrize("limits", [[0, 3, 17], [9, 0, 1, 12, 5]])
def test_a_killed_search_proposes_the_same(life, limits):
    expected = files(life("undisturbed"))
    life.executed.clear()
    for limit in limits:
        with pytest.raises(PowerCut):
            life("s", limit)
    assert files(life("s")) == expected
    assert set(life.executed.values()) == {1}


def test_many_workers_propose_the_same(life):
    """Four workers that take one run at a time, in another order each round, and all propose whenever they can."""
    expected = files(life("undisturbed"))
    life.executed.clear()
    workers = [life.begin("s") for _ in range(4)]
    turn = 0
    while not all(store.is_concluded() for store in workers):
        turn += 1
        for store in workers[turn % 4 :] + workers[: turn % 4]:
            extend(store)
            free = [state.trial for state in store.states() if state.runnable]
            held = store.claim(free[turn % 3 :][:1] or free[:1])
            assert not held or not any(other.claim(held) for other in workers if other is not store)
            life.run(store, held)
            store.release(held)
    assert files(workers[0]) == expected
    assert life.executed.keys() >= {trial.fingerprint for trial in workers[0].searched.trials() if trial.arm == "tune"}
    assert set(life.executed.values()) == {1}


def test_no_setting_is_tried_twice_and_a_small_space_ends_early(life):
    text = TEXT.replace('warmup = ["0ep", "20ep"], base_lr = [0.01, 10.0]', 'warmup = ["0ep", "5ep"]')
    one, two = summaries(life("s", text=text))
    assert (one.num_tried, two.num_tried) == (6, 6)
    assert sorted(each["warmup"] for each in one.tried) == [f"{number}ep" for number in range(6)]
    assert (one.best, two.best) == ({"warmup": "4ep"}, {"warmup": "5ep"})
    assert (one.at_edge, two.at_edge) == ({}, {"warmup": "highest"})


def test_several_seeds_count_by_their_mean_and_divergence_as_worst(life, fake):
    text = TEXT.replace("[90]", "[90, 91]").replace('"4x1x8", ', "").replace("num_trials = 20", "num_trials = 4")
    store = life.begin("s", text)
    assert extend(store)
    (arm,) = store.searched.arms
    (found,) = attempts(store, arm).values()
    right = [(800, 700), (790, 730), (836, None), (750, 749)]
    for one, pair in zip(found, right, strict=True):
        for state, correct in zip(one.states, pair, strict=True):
            fake.finish(store.run(state.trial), "diverged" if correct is None else "complete", correct or 830)
    assert extend(store)
    (one,) = summaries(store)
    assert one.best == found[1].proposal.settings
    assert one.accuracy == pytest.approx(100 * 760 / 837)
    assert (one.num_tried, one.num_diverged, one.is_over) == (4, 1, True)
    assert [round(each["accuracy"], 6) for each in one.tried][2] == 0


def test_a_round_waits_for_outcomes(life, fake):
    store = life.begin("s")
    assert extend(store)
    assert not extend(store)
    trials = store.trials
    assert not may_extend(store)
    for trial in trials[:-1]:
        fake.finish(store.run(trial))
    other = life.begin("s")
    assert other.claim(trials[-1:])
    assert not extend(store)
    assert may_extend(store)
    other.fail(trials[-1], "no such luck")
    assert not extend(store)
    assert not may_extend(store)
    store.forget_failures()
    fake.finish(store.run(trials[-1]))
    assert extend(store)


def curve(run, *values):
    """Leave evaluations after epochs 1, 2 ..."""
    rows = ["epoch,step,lr,train_loss,val_loss,val_correct,val_images,val_accuracy"]
    rows += [f"{float(epoch)},{epoch},0.1,,0.1,1,837,{value}" for epoch, value in enumerate(values, start=1)]
    (run.directory / "epochs.csv").write_text("\n".join(rows) + "\n")


def test_what_is_hopeless_is_given_up(life, fake):
    """Of four earlier runs with 0.1, 0.2, 0.3, 0.4 times the epoch the median is 0.25 times it; counted from epoch 18 on."""
    text = TEXT.replace('"4x1x8", ', "")
    store = life.begin("s", text)
    extend(store)
    first = store.trials
    for rank, trial in enumerate(first, start=1):
        fake.finish(store.run(trial), val_correct=700 + rank)
        curve(store.run(trial), *(0.02 * rank * epoch for epoch in range(1, 37)))
    assert extend(store)
    second = store.trials[4:]
    for trial, slope in zip(second, (0.049, 0.051, 0.051, 0.049), strict=True):
        fake.begin(store.run(trial))
        curve(store.run(trial), *(slope * epoch for epoch in range(1, 18)))
    giving = Giving(store, second)
    assert giving
    assert not Giving(store, [])
    assert [giving.why(trial, 36) for trial in second] == [None] * 4
    for trial, slope in zip(second, (0.049, 0.051, 0.051, 0.049), strict=True):
        curve(store.run(trial), *(slope * epoch for epoch in range(1, 20)))
    why = [giving.why(trial, 36) for trial in second]
    assert [one is None for one in why] == [False, True, True, False]
    assert (why[0].epoch, why[0].num_runs) == (18, 4)
    assert why[0].median == pytest.approx(0.05 * 18)
    assert [Giving(store, first).why(trial, 36) for trial in first] == [None] * 4
    curve(store.run(second[1]), *(0.051 * epoch for epoch in range(1, 36)), 0.0)
    assert giving.why(second[1], 36) is None  # the last evaluation is the outcome


def test_a_run_given_up_is_an_outcome_that_is_never_the_best(life, fake):
    text = TEXT.replace('"4x1x8", ', "").replace("num_trials = 20", "num_trials = 8")
    store = life.begin("s", text)
    extend(store)
    for trial in store.trials:
        fake.finish(store.run(trial), val_correct=500)
    extend(store)
    given_up = store.trials[4]
    fake.begin(store.run(given_up))
    record = {"epoch": 18.0, "accuracy": 0.9, "median": 0.95, "num_runs": 4}
    (store.path(given_up) / "pruned.json").write_text(json.dumps(record))
    state = store.state(given_up)
    assert (state.status, state.finished, state.runnable, state.val_accuracy) == ("pruned", True, False, 0.9)
    assert state.reason == "90.00 % at epoch 18, below the median of 4 earlier runs, 95.00 %"
    assert store.claim([given_up]) == []
    assert store.forget_failures() == 0
    for trial in store.trials[5:]:
        fake.finish(store.run(trial), val_correct=600)
    assert extend(store)
    (one,) = summaries(store)
    assert (one.num_tried, one.num_pruned, one.accuracy) == (8, 1, pytest.approx(100 * 600 / 837))
    assert "pruned" in [each["status"] for each in one.tried]


def test_a_run_that_came_to_its_end_with_others_stays_given_up(life, fake):
    store = life.begin("s")
    extend(store)
    trial = store.trials[0]
    fake.finish(store.run(trial))
    assert store.state(trial).status == "complete"
    (store.path(trial) / "pruned.json").write_text('{"epoch": 18.0, "accuracy": 0.5, "median": 0.6, "num_runs": 4}')
    assert (store.state(trial).status, store.state(trial).val_accuracy) == ("pruned", 0.5)


def test_a_search_that_has_begun_cannot_be_changed(life):
    life("s", text=TEXT.replace("num_trials = 20", "num_trials = 4"))
    with pytest.raises(UsageError, match=r"Arm tune has proposals in .* and was changed since"):
        life.begin("s")


def test_damaged_records_are_named(life):
    store = life("s", text=TEXT.replace("num_trials = 20", "num_trials = 4"))
    (store.directory / "search" / "tune" / "1.json").write_text('{"design": "x", "proposals": {}}')
    with pytest.raises(Exception, match=r"1\.json must belong to the search of arm tune"):
        StudyStore.open(store.directory).states()


def test_without_optuna_it_says_so(life, monkeypatch):
    monkeypatch.setattr(sampling, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'widestep\[search\]'"):
        extend(life.begin("s"))


def test_progress_counts_what_may_be_proposed(life, fake):
    """20 settings of two combinations and two seeds for each of the best: 44 trials of as many images each."""
    store = life.begin("s")
    meter = ProgressMeter(store, {})
    extend(store)
    for trial in store.trials[:4]:
        fake.finish(store.run(trial))
    found = meter.read()
    assert (found.num_trials, found.num_finished, len(found.coming), found.share) == (44, 4, 36, pytest.approx(4 / 44))
    found = ProgressMeter(life("s"), {}).read()
    assert (found.num_trials, found.num_finished, found.coming, found.share) == (44, 44, [], 1.0)
