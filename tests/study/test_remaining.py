"""The time left of a study: crews are played on slots by their own order of work, and what was said is compared."""

import numpy as np
import pytest

from widestep.plan.runplan import RunPlan
from widestep.study.remaining import StudyRemaining
from widestep.study.study import parse
from widestep.study.work import stacks

TEXT = """
name = "played"
title = "Five batches, two warmups"
recipe = "digits"
seeds = [0, 1, 2, 3]
margin = 0.5
[set]
stack = 2
[arms.batch]
axes = { grid = ["4x1x8", "10x1x8", "20x1x8", "30x1x8", "40x1x8"] }
[arms.long]
set = { grid = "10x1x8", warmup = "1ep" }
axes = { epochs = ["36ep", "72ep", "144ep"] }
"""


class Untouched:
    """A study of which nothing is saved yet, as `stacks` looks at it."""

    def run(self, trial):
        return self

    checkpoints = None


@pytest.fixture
def played(monkeypatch):
    """`played(num_slots, ratio, ...)`: (share of the work done, seconds said, seconds it took), second by second."""
    monkeypatch.setattr("widestep.study.work.saved_steps", lambda checkpoints: [])

    def play(num_slots, ratio, *, text=TEXT, spread=0.03, opening=2.0, cost=4e-4, predicted=None):
        rng, trials = np.random.default_rng(0), parse(text).trials()
        plans = {trial.fingerprint: RunPlan(trial.recipe, 960) for trial in trials}
        queue = [[trial.fingerprint for trial in stack] for stack in stacks(trials, Untouched())]

        def lasts(stack):
            plan = plans[stack[0]]
            images = plan.recipe.stack * plan.total_images + ratio * plan.total_steps
            return opening + cost * images * float(rng.lognormal(0, spread))

        waiting = [(stack, lasts(stack)) for stack in queue]
        whole = sum(seconds for _, seconds in waiting)
        remaining = StudyRemaining(plans, num_slots, predicted, [trial.fingerprint for trial in trials])
        by_name = {trial.fingerprint: trial for trial in trials}
        running, finished, said, now, done = [], [], [], 1000.0, 0.0
        tick = whole / num_slots / 500
        while waiting or running:
            while waiting and len(running) < num_slots:
                running.append([*waiting.pop(0), now])
            shares = {}
            for stack, seconds, began in running:
                num = plans[stack[0]].num_evaluations
                share = int(num * max(0.0, now - began - opening) / (seconds - opening)) / num  # a row an evaluation
                shares |= dict.fromkeys(stack, min(1.0, share))
            remaining.observe(shares, finished, now)
            left = remaining.seconds([[by_name[name] for name in stack] for stack, _ in waiting], now)
            said.append((done / whole, np.nan if left is None else left, now))
            now += tick
            done += tick * len(running)
            for one in [one for one in running if now - one[2] >= one[1]]:
                running.remove(one)
                finished += one[0]
        return np.array([(share, left, now - time) for share, left, time in said])

    return play


def worst(found, after=0.05):
    """The largest error after a share of the work: of what was left, of which the end is not asked for more exactly."""
    later = found[found[:, 0] >= after]
    least = 0.05 / 0.2 * found[0, 2]  # an error of 5 % of all is as good as one of 20 % of what is left
    return np.max(np.abs(later[:, 1] - later[:, 2]) / np.maximum(later[:, 2], least))


@pytest.mark.parametrize("num_slots", [1, 2, 3])
@pytest.mark.parametrize("ratio", [20.0, 200.0, 1000.0])
def test_after_a_twentieth_of_the_work_it_is_right_to_a_fifth(played, num_slots, ratio):
    """Steps that cost as much as 20, 200 or 1,000 images: small batches are cheap, or ten times dearer an image."""
    assert worst(played(num_slots, ratio)) < 0.2


def test_trials_that_are_not_stacked(played):
    assert worst(played(2, 200.0, text=TEXT.replace("stack = 2", "stack = 1"))) < 0.2


def test_a_slot_that_ends_alone_is_foreseen(played):
    """One trial of 40 times the length of the others beside them: the study lasts as long as that one."""
    text = TEXT.replace('"144ep"', '"1440ep"').replace("[0, 1, 2, 3]", "[0, 1]")
    assert worst(played(2, 50.0, text=text), after=0.1) < 0.2


def test_nothing_is_known_before_the_first_evaluation_unless_it_was_predicted(played):
    assert np.isnan(played(2, 200.0)[0, 1])
    found = played(2, 200.0, predicted=600.0)
    assert found[0, 1] == pytest.approx(600.0, rel=0.35)  # a prediction has no idea of slots that end alone


def trial_of(arm, seed):
    return next(trial for trial in parse(TEXT).trials() if trial.arm == arm and trial.seed == seed)


@pytest.fixture
def two_slots():
    trials = parse(TEXT).trials()
    plans = {trial.fingerprint: RunPlan(trial.recipe, 960) for trial in trials}
    return StudyRemaining(plans, 2, None, list(plans))


def test_a_trial_is_told_by_its_own_pace(two_slots):
    """A quarter every 10 s after a start of 5 s: 45 s in all."""
    name = trial_of("batch", 0).fingerprint
    for now, share in ((0.0, 0.0), (15.0, 0.25), (25.0, 0.5)):
        two_slots.observe({name: share}, [], now)
    assert two_slots.of_trial(name, 25.0) == pytest.approx(20.0 + 5.0 * 0.5)
    assert two_slots.of_trial(name, 29.0) == pytest.approx(20.0 + 5.0 * 0.5 - 4.0)


def test_a_shape_that_was_seen_costs_what_it_did(two_slots):
    """40 s for the first seeds, so 40 s for others of the same cell: two stacks on two slots."""
    first, second, third, fourth = (trial_of("batch", seed) for seed in range(4))
    two_slots.observe({first.fingerprint: 0.0, second.fingerprint: 0.0}, [], 100.0)
    two_slots.observe({}, [first.fingerprint, second.fingerprint], 140.0)
    assert two_slots.seconds([[third, fourth]], 140.0) == pytest.approx(40.0)
    assert two_slots.seconds([[third], [fourth], [third]], 140.0) == pytest.approx(80.0)


def test_trials_of_one_stack_count_once(two_slots):
    """Seeds 0 and 1 share a stack; 0 and 2 have the same place, so they are two."""
    names = [trial_of("batch", seed).fingerprint for seed in range(4)]
    for now, share in ((0.0, 0.0), (10.0, 0.1), (20.0, 0.2)):
        two_slots.observe(dict.fromkeys(names[:2], share), [], now)
    waiting = [[trial_of("batch", 2), trial_of("batch", 3)]]
    assert two_slots.seconds(waiting, 20.0) == pytest.approx(100.0)  # beside the one that runs, 80 s left
    for now, share in ((20.0, 0.0), (30.0, 0.1), (40.0, 0.2)):
        two_slots.observe(dict.fromkeys(names[:2], share + 0.2) | dict.fromkeys(names[2:], share), [], now)
    assert two_slots.seconds([[trial_of("batch", 0)]], 40.0) == pytest.approx(60.0 + 100.0)
