import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from widestep.plan import recipes
from widestep.plan.duration import Duration
from widestep.plan.grid import WorkerGrid
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan

IMAGENET = 1_281_167
NUM_TRAIN = {"digits": 960, "digits-iter": 960, "poster": IMAGENET}
SHAPES = ("linear", "constant", "exponential", "polynomial")
DECAYS = ("step", "cosine", "polynomial", "linear", "exponential", "constant")


def plan(num_train: int = 1_000, **fields: object) -> RunPlan:
    """Ten steps an epoch of 4 workers x 25 images, 20 epochs, peak rate 4 x 0.1."""
    given = {"grid": "4x1x25", "epochs": "20ep", "base_lr": 0.1, "warmup": 0, "final_lr": 1e-4, **fields}
    return RunPlan(recipes.changed(Recipe(), given, typed=True), num_train)


@pytest.mark.parametrize(
    ("name", "steps_per_epoch", "total_steps", "warmup_steps", "drops", "peak"),
    [
        # 960 images: 30 steps of 32 images, 48 of 20; ImageNet: 41 of 30,720
        ("digits", 30, 1_080, 60, [360, 720, 960], 0.18),
        ("digits-iter", 48, 4_320, 240, [1_440, 2_880, 3_840], 3.0),
        ("poster", 41, 3_690, 205, [1_230, 2_460, 3_280], 3.0),
    ],
)
def test_the_shipped_recipes(name, steps_per_epoch, total_steps, warmup_steps, drops, peak):
    shipped = RunPlan(recipes.load(name).recipe, NUM_TRAIN[name])
    assert (shipped.steps_per_epoch, shipped.total_steps) == (steps_per_epoch, total_steps)
    assert shipped.schedule.warmup_steps == warmup_steps
    rates = shipped.schedule.trace()
    assert len(rates) == total_steps
    assert rates[warmup_steps - 2] < rates[warmup_steps - 1] == pytest.approx(peak, rel=1e-15)
    assert [step for step in range(warmup_steps, total_steps) if rates[step] < rates[step - 1]] == drops
    assert rates[-1] == pytest.approx(peak / 1000)


@pytest.mark.parametrize("unit", ["5ep", "50st", "5000im"])
def test_the_units_of_warmup_epochs_and_decay_agree(unit):
    changed = plan(warmup=unit, epochs=unit, decay_at=[unit])
    assert (changed.schedule.warmup_steps, changed.total_steps) == (50, 50)
    assert changed.schedule.decay_rate(49) == 0.4
    assert changed.schedule.decay_rate(50) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("fields", "total_steps", "num_epochs", "total_images"),
    [
        # 1,030 images, 100 a step: drop 10 steps, short 11 (the last of 30), pad 11 (4 workers: 2 repeated, the last of 32)
        ({"tail": "drop"}, 200, 20, 20 * 1_000),
        ({"tail": "short"}, 220, 20, 20 * 1_030),
        ({"tail": "pad"}, 220, 20, 20 * 1_032),
        ({"tail": "pad", "epochs": "12st"}, 12, 2, 1_032 + 100),
        ({"tail": "short", "epochs": "11st"}, 11, 1, 1_030),
        ({"tail": "drop", "epochs": "1st"}, 1, 1, 100),
        ({"tail": "drop", "epochs": "1im"}, 1, 1, 100),
        ({"tail": "drop", "epochs": "0.01ep"}, 1, 1, 100),
        ({"tail": "drop", "epochs": "2.55ep"}, 26, 3, 2_600),
        ({"tail": "short", "epochs": 2.5}, 28, 3, 2 * 1_030 + 600),  # 27.5 steps
    ],
)
def test_steps_epochs_and_images(fields, total_steps, num_epochs, total_images):
    changed = plan(num_train=1_030, **fields)
    assert (changed.total_steps, changed.num_epochs, changed.total_images) == (total_steps, num_epochs, total_images)


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"epochs": 3}, [10, 20, 30]),
        ({"epochs": "25st"}, [10, 20, 25]),
        ({"epochs": "25st", "evaluate_every": "20st"}, [20, 25]),
        ({"epochs": 3, "evaluate_every": 2}, [20, 30]),
        ({"epochs": 3, "evaluate_every": "1500im"}, [15, 30]),
        ({"epochs": 3, "evaluate_every": "90ep"}, [30]),
        ({"epochs": "3st", "evaluate_every": "0.01ep"}, [1, 2, 3]),
    ],
)
def test_evaluations(fields, after):
    changed = plan(**fields)
    assert [step for step in range(1, changed.total_steps + 1) if changed.evaluation_due(step)] == after
    assert changed.num_evaluations == len(after)


def test_images_are_those_of_the_order():
    changed = plan(num_train=1_030, tail="pad", epochs="25st")
    places = [changed.progress(step) for step in range(changed.total_steps)]
    assert changed.total_images == sum(changed.order.step(at.epoch, at.step_in_epoch).size for at in places)


@given(
    shape=st.sampled_from(SHAPES),
    start=st.sampled_from(["base", "zero", 0.0, 0.03, 0.4, 7.0]),
    first=st.sampled_from(["open", "closed"]),
    warmup=st.sampled_from(["0", "0.05ep", "1ep", "2.55ep", "37st", "3333im"]),
    decay=st.sampled_from(DECAYS),
    power=st.floats(0.2, 5.0),
    grid=st.sampled_from(["1x1x25", "3x1x25", "4x1x25", "10x1x10"]),
    scaling=st.sampled_from(["none", "linear", "sqrt", "per-worker"]),
)
def test_every_warmup_joins_every_decay_at_the_peak(shape, start, first, warmup, decay, power, grid, scaling):
    assume(shape != "exponential" or start not in ("zero", 0.0))
    reference = {"reference_batch": 50} if scaling in ("linear", "sqrt") else {}
    changed = plan(
        grid=grid,
        scaling=scaling,
        warmup=warmup,
        warmup_shape=shape,
        warmup_start=start,
        warmup_first=first,
        warmup_power=power,
        lr_decay=decay,
        **reference,
    )
    peak, schedule = changed.recipe.peak_lr, changed.schedule
    rates = schedule.trace()
    assert rates[schedule.warmup_steps] == peak  # L3: exactly at the peak; a warmup of 0 starts there
    assert max(rates) == peak  # L3: never above
    rising = rates[: schedule.warmup_steps + 1]
    assert rising == sorted(rising)  # L3: non-decreasing
    if schedule.warmup_steps and first == "open" and shape != "constant":
        assert rates[schedule.warmup_steps - 1] == peak
    if schedule.warmup_steps and (first == "closed" or shape == "constant"):
        assert rates[0] == min(peak, {"base": 0.1, "zero": 0.0}.get(start, start))  # L3: base, zero or a value


@pytest.mark.parametrize(("power", "rates"), [(1.0, [0.1, 0.2, 0.3, 0.4]), (2.0, [0.025, 0.1, 0.225, 0.4])])
def test_the_power_of_the_warmup(power, rates):
    schedule = plan(warmup="4st", warmup_shape="polynomial", warmup_start="zero", warmup_power=power).schedule
    assert schedule.trace(0, 4) == pytest.approx(rates)


@pytest.mark.parametrize(("power", "rate"), [(1.0, 0.5), (2.0, 0.25), (3.0, 0.125)])
def test_the_power_of_the_decay(power, rate):
    """100 steps of which one is warmup: 99 and one more of decay, half way after 50."""
    schedule = plan(
        epochs="100st", warmup="1st", lr_decay="polynomial", decay_power=power, base_lr=0.25, final_lr=0.0
    ).schedule
    assert (schedule(1), schedule(51)) == (1.0, rate)


def test_step_decay_counts_from_the_start_of_training_whatever_the_warmup():
    """L5: 10 steps an epoch, x 0.1 after epochs 3, 6 and 8."""
    for warmup in (0, 1, 3, 5, 7):
        rates = plan(warmup=warmup, epochs=10, decay_at=[3, 6, 8]).schedule.trace()
        expected = [0.4 * 0.1 ** sum(step >= drop for drop in (30, 60, 80)) for step in range(100)]
        assert rates[10 * warmup :] == pytest.approx(expected[10 * warmup :], rel=1e-15)
        assert all(rates[step] <= 0.4 for step in range(10 * warmup))


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize(
    ("decay", "closed_form"),
    [
        ("cosine", lambda t: 1e-4 + (0.4 - 1e-4) * math.cos(math.pi * t / 2) ** 2),
        ("linear", lambda t: 0.4 * (1 - t) + 1e-4 * t),
        ("exponential", lambda t: 0.4 * (1e-4 / 0.4) ** t),
        ("constant", lambda t: 0.4),
    ],
)
def test_closed_forms(decay, closed_form, warmup):
    """L5: t runs from 0 at the end of the warmup to 1 at the end of training (200 steps)."""
    rates = plan(warmup=warmup, lr_decay=decay).schedule.trace()
    after = range(10 * warmup, 200)
    expected = [closed_form((step - 10 * warmup) / (200 - 10 * warmup)) for step in after]
    assert [rates[step] for step in after] == pytest.approx(expected, rel=1e-12)


def mlperf_lr(step: int, peak: float, num_warmup: int, num_steps: int) -> float:
    """MLPerf's reference: linear from 0, then a polynomial of power 2 to 1e-4 over num_steps - num_warmup + 1 steps."""
    if step < num_warmup:
        return peak * step / num_warmup
    decay_steps = num_steps - num_warmup + 1
    done = min(step - num_warmup, decay_steps)
    return (peak - 1e-4) * (1 - done / decay_steps) ** 2 + 1e-4


def test_polynomial_decay_is_mlperfs():
    """L5, with the tuned settings for 32,768 images: peak 29.0, 706 steps of warmup, 2,512 steps in all."""
    schedule = plan(
        num_train=100,
        scaling="none",
        base_lr=29.0,
        warmup="706st",
        warmup_start="zero",
        warmup_first="closed",
        epochs="2512st",
        lr_decay="polynomial",
    ).schedule
    expected = [mlperf_lr(step, 29.0, 706, 2_512) for step in range(2_512)]
    assert schedule.trace() == pytest.approx(expected, rel=1e-12)
    assert (schedule(0), schedule(353), schedule(706)) == (0.0, 14.5, 29.0)
    assert schedule(2_511) == pytest.approx(1e-4 + 28.9999 * (2 / 1_807) ** 2, rel=1e-12)  # 1.355e-4: not yet 1e-4
    assert round(schedule(2_511), 7) == 1.355e-4


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("warmup", ["0", "2.5ep", "5ep", "20ep"])
@pytest.mark.parametrize("name", list(NUM_TRAIN))
def test_no_scaling_differs_from_linear_scaling_at_every_step(name, warmup, decay):
    """L7: the reference is one worker; 2 workers and the shipped number of them."""
    shipped = recipes.load(name).recipe
    for num_workers in (2, shipped.grid.num_workers):
        grid = WorkerGrid(num_workers, 1, shipped.grid.images_per_worker)
        fields = {"grid": grid, "warmup": warmup, "lr_decay": decay, "final_lr": 1e-6}
        unscaled = recipes.changed(shipped, {**fields, "scaling": "none"})
        linear = recipes.changed(shipped, {**fields, "scaling": "linear", "reference_batch": grid.images_per_worker})
        few, many = (RunPlan(recipe, 20 * grid.global_batch).schedule.trace() for recipe in (unscaled, linear))
        assert len(few) == len(many) == 20 * shipped.epochs.amount
        assert (np.array(many) > np.array(few)).all()


def test_one_worker_is_the_reference():
    """L7 needs more than one worker: with one, linear from one worker's images is no scaling."""
    one = {"grid": "1x1x25", "warmup": 5}
    assert plan(**one, scaling="none").schedule.trace() == plan(**one, scaling="linear", reference_batch=25).schedule.trace()


def test_the_rate_is_a_function_of_the_step_alone():
    """L1: another object, another order of asking, a start in the middle: the same bits."""
    for decay in DECAYS:
        whole = plan(warmup=3, lr_decay=decay).schedule.trace()
        assert plan(warmup=3, lr_decay=decay).schedule.trace(77, 130) == whole[77:130]
        backwards = plan(warmup=3, lr_decay=decay).schedule
        assert [backwards(step) for step in reversed(range(200))] == whole[::-1]


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 7},
        {"workers_per_forward": 4},
        {"grid": WorkerGrid(2, 2, 25)},
        {"threads": 8},
        {"momentum": 0.0},
        {"stack": 12},
        {"images_per_evaluation": 7},
    ],
)
def test_what_does_not_touch_the_rate(fields):
    """L1: the seed, how workers are laid out or computed, the optimizer."""
    assert plan(warmup=3, **fields).schedule.trace() == plan(warmup=3).schedule.trace()


def test_progress_and_order_belong_to_the_plan():
    changed = plan(seed=3)
    assert (changed.progress(25).epoch, changed.progress(25).step_in_epoch) == (2, 5)
    assert changed.order is changed.order
    assert (changed.order.seed, changed.order.shape) == (3, changed.shape)
    assert Duration.parse("20ep").steps(changed.steps_per_epoch, 100) == changed.total_steps


def test_the_plan_in_words():
    assert RunPlan(recipes.load("poster").recipe, IMAGENET).describe() == [
        "workers    240 x 128 images = 30,720 a step, 1 worker(s) a forward pass",
        "epochs     90 = 3,690 steps, 41 an epoch; tail drop: 21,647 images dropped an epoch",
        "rate       0.0125 @ 1 worker x 240 workers -> 3",
        "warmup     205 steps = 5 epochs, linear; then step decay",
        "batch-norm local to each worker, running statistics: mean",
    ]
