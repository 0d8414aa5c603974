"""The time left of a training: timelines of many kinds are replayed, and what was said is compared with what came."""

import numpy as np
import pytest

from widestep.plan.duration import Duration
from widestep.plan.grid import RampPoint, WorkerGrid
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.train.remaining import Pace, Remaining

DIGITS = RunPlan(Recipe(), 960)  # 36 epochs of 30 steps of 32 images, an evaluation each epoch


NINETY = RunPlan(Recipe(epochs=Duration.parse("90ep")), 960)


def replay(plan, seconds_of_step, seconds_of_evaluation, first=0, num_final=0, num_val=837):
    """Play a run; return (share of the steps done, seconds said, seconds it took) after every step and every evaluation."""
    now, said = 1000.0, []
    remaining = Remaining(plan, first, num_val, now, progress=float(first), num_final_evaluations=num_final)
    for step in range(first + 1, plan.total_steps + 1):
        now += seconds_of_step(step)
        remaining.stepped(step, float(step), now)
        share = (step - first) / (plan.total_steps - first)
        said.append((share, remaining.seconds(now), now))
        if plan.evaluation_due(step):
            now += seconds_of_evaluation(step)
            remaining.evaluated(now)
            said.append((share, remaining.seconds(now), now))
    now += num_final * seconds_of_evaluation(plan.total_steps)
    return np.array([(share, seconds, now - time) for share, seconds, time in said])


def worst(found, after=0.05):
    """The largest error after a share of the work: of what was left, of which the end is not asked for more exactly."""
    later = found[found[:, 0] >= after]
    least = 0.03 / 0.2 * found[0, 2]  # an error of 3 % of all is as good as one of 20 % of what is left
    return np.max(np.abs(later[:, 1] - later[:, 2]) / np.maximum(later[:, 2], least))


def noise(spread, seed=0):
    rng = np.random.default_rng(seed)
    return lambda: rng.lognormal(-(spread**2) / 2, spread)


def test_a_constant_pace_is_told_exactly():
    found = replay(DIGITS, lambda step: 0.1, lambda step: 0.5)
    assert worst(found) < 1e-9  # the first evaluation was after 1/36 of the steps


TIMELINES = {
    "steps that vary": (DIGITS, lambda step, vary: 0.1 * vary(), lambda step: 0.3),
    "a slow start": (DIGITS, lambda step, vary: 0.1 * vary() * (20 if step <= 20 else 1), lambda step: 0.3),
    "a minute to compile": (DIGITS, lambda step, vary: 60.0 if step == 1 else 0.1 * vary(), lambda step: 0.3),
    "a slow first evaluation": (NINETY, lambda step, vary: 0.1 * vary(), lambda step: 5.0 if step == 30 else 1.0),
    "epochs that begin with waiting": (DIGITS, lambda step, vary: 0.1 * vary() + 2.0 * (step % 30 == 1), lambda step: 0.3),
    "mostly evaluations": (DIGITS, lambda step, vary: 0.02 * vary(), lambda step: 3.0),
    "a save every 25 steps": (DIGITS, lambda step, vary: 0.1 * vary() + 0.4 * (step % 25 == 0), lambda step: 0.3),
    "evaluations that come late": (
        RunPlan(Recipe(evaluate_every=Duration.parse("9ep")), 960),
        lambda step, vary: 0.1 * vary(),
        lambda step: 837 * 0.1 / 32 / 3,  # a third of what training on so many images takes
    ),
}


@pytest.mark.parametrize("name", TIMELINES)
def test_after_a_twentieth_of_the_work_it_is_right_to_a_fifth(name):
    plan, seconds, of_evaluation = TIMELINES[name]
    vary = noise(0.3)
    assert worst(replay(plan, lambda step: seconds(step, vary), of_evaluation)) < 0.2


def test_workers_that_join_later_are_foreseen():
    """From 4 to 40 workers after a third: ten times the images a step, a tenth of the steps."""
    ramp = (RampPoint.parse("12ep:40"),)
    plan = RunPlan(Recipe(worker_ramp=ramp), 960)
    found = replay(plan, lambda step: 0.1 * plan.images_at(step - 1) / 32, lambda step: 0.5)
    assert worst(found, after=0.075) < 0.02  # an evaluation was seen


def test_a_constant_cost_of_steps_is_learnt_at_the_second_number_of_workers():
    """4, 10 and 40 workers; a step takes 0.05 s and 1 ms an image: at 320 images 0.37 s."""
    plan = RunPlan(Recipe(worker_ramp=(RampPoint.parse("4ep:10"), RampPoint.parse("8ep:40"))), 960)
    found = replay(plan, lambda step: 0.05 + 0.001 * plan.images_at(step - 1), lambda step: 0.5)
    in_second_stage = found[:, 0] > plan.timeline.stages[2].first_step / plan.total_steps - 0.1
    assert worst(found[in_second_stage]) < 0.02


def test_only_the_pace_of_this_session_counts():
    assert worst(replay(DIGITS, lambda step: 0.1, lambda step: 0.5, first=540), after=0.06) < 1e-9  # an evaluation was seen


def test_what_the_end_costs_is_counted():
    """Five more evaluations at the end, as where policies of batch normalisation are compared."""
    found = replay(DIGITS, lambda step: 0.1, lambda step: 4.0, num_final=5)
    assert worst(found) < 1e-9


def test_a_long_run_needs_few_numbers_and_stays_right():
    plan = RunPlan(Recipe(epochs=Duration.parse("2000ep"), evaluate_every=Duration.parse("100ep")), 960)
    vary = noise(0.5)
    assert worst(replay(plan, lambda step: 0.1 * vary(), lambda step: 1.0)[::50]) < 0.1


def test_adascale_ends_when_its_progress_does():
    """Every step makes the progress of 3: a third of the steps of one worker, 1,440."""
    plan = RunPlan(Recipe(scaling="adascale", reference_batch=None, grid=WorkerGrid.parse("4x1x8"), base_lr=0.01), 960)
    assert plan.length == 36 * 120
    remaining = Remaining(plan, 0, 1, 0.0)  # evaluations cost next to nothing
    for step in range(1, 401):
        remaining.stepped(step, 3.0 * step, 2.0 * step)
    left = remaining.seconds(800.0)
    assert left == pytest.approx(2.0 * (1440 - 400), rel=0.001)


def test_time_that_passes_is_taken_off_and_nothing_is_known_at_first():
    remaining = Remaining(DIGITS, 0, 837, 100.0)
    assert remaining.seconds(105.0) is None
    remaining.stepped(1, 1.0, 110.0)
    before = remaining.seconds(110.0)
    assert remaining.seconds(114.0) == pytest.approx(before - 4.0)
    assert remaining.seconds(1e9) == 0.0


def test_a_pace_is_that_of_the_later_half():
    pace = Pace()
    assert pace.seconds is None
    for seconds in (7.0, 7.0, 7.0, 1.0, 2.0, 3.0):
        pace.add(seconds)
    assert pace.seconds == 2.0
    for _ in range(5_000):
        pace.add(4.0)
    assert pace.seconds == 4.0


def test_a_pace_takes_whole_periods():
    """Every third takes 4 s, the others 1 s: 2 s on the average of whole periods alone."""
    pace = Pace(period=3)
    for number in range(1, 100):
        pace.add(4.0 if number % 3 == 0 else 1.0)
        assert number < 3 or pace.seconds == 2.0
