import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.duration import Duration
from widestep.plan.grid import WorkerGrid
from widestep.plan.randomness import Stream
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.plan.scaling import RuleName

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


@pytest.mark.parametrize("ramp", ["", "1ep:8"])
def test_images_are_those_of_the_order(ramp):
    changed = plan(num_train=1_030, tail="pad", epochs="25st", worker_ramp=ramp)
    sizes = [changed.ids_at(step).size for step in range(25)]
    assert sizes == [changed.images_at(step) for step in range(25)]
    assert changed.total_images == sum(sizes)
    narrow, wide = [100] * 10 + [32], [200] * 5 + [32]
    assert sizes == (narrow + 2 * wide + [200] * 2 if ramp else 2 * narrow + [100] * 3)


@given(
    shape=st.sampled_from(SHAPES),
    start=st.sampled_from(["base", "zero", 0.0, 0.03, 0.4, 7.0]),
    first=st.sampled_from(["open", "closed"]),
    warmup=st.sampled_from(["0", "0.05ep", "1ep", "2.55ep", "37st", "3333im"]),
    decay=st.sampled_from(DECAYS),
    power=st.floats(0.2, 5.0),
    grid=st.sampled_from(["1x1x25", "3x1x25", "4x1x25", "10x1x10"]),
    scaling=st.sampled_from(get_args(RuleName)),
)
def test_every_warmup_joins_every_decay_at_the_peak(shape, start, first, warmup, decay, power, grid, scaling):
    assume(shape != "exponential" or start not in ("zero", 0.0))
    reference = {"reference_batch": 50} if scaling in ("linear", "sqrt", "legw") else {}
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
    rates = [schedule(step) for step in range(max(schedule.total_steps, schedule.warmup_steps + 1))]
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


@pytest.mark.parametrize("seed", [0, 3])
def test_the_images_of_a_step(seed):
    """D1, D6: entry i*W + w, straight from the permutation of (seed, epoch)."""
    changed = plan(num_train=1_030, seed=seed)
    assert (changed.position(25).epoch, changed.position(25).step_in_epoch) == (2, 5)
    assert changed.ids_at(25).tolist() == Stream(seed, "order").permutation(1_030, 2)[500:600].tolist()


@given(st.integers(1, 3000), st.integers(1, 40), st.integers(0, 100_000))
def test_epochs_are_counted_with_one_rounding(num_images: int, num_workers: int, step: int) -> None:
    """As the exact fraction: two epochs of one grid, then those of another."""
    assume(num_images >= 2 * num_workers)
    grids = (WorkerGrid.parse(f"1x{num_workers}x1"), WorkerGrid.parse("1x2x1"))
    changed = RunPlan(Recipe(grid=grids[0], worker_ramp="2ep:2", epochs="5ep", warmup="0"), num_images)
    first, later = (num_images // grid.global_batch for grid in grids)
    exact = Fraction(step, first) if step < 2 * first else 2 + Fraction(step - 2 * first, later)
    assert changed.epochs_after(step) == float(exact)


def test_where_epochs_end():
    changed = plan(epochs="25st")
    assert [changed.epochs_after(step) for step in (0, 5, 10, 25)] == [0.0, 0.5, 1.0, 2.5]
    assert [changed.epoch_after(step) for step in (0, 1, 10, 11, 20, 25)] == [0, 1, 1, 2, 2, 3]
    assert [step for step in range(26) if changed.ends_epoch(step)] == [10, 20]
    assert (changed.num_epochs, changed.length, type(changed.length)) == (3, 25.0, float)


def test_the_plan_in_words():
    assert RunPlan(recipes.load("poster").recipe, IMAGENET).describe() == [
        "workers    240 x 128 images = 30,720 a step, 1 worker(s) a forward pass",
        "epochs     90 = 3,690 steps, 41 an epoch; tail drop: 21,647 images dropped an epoch",
        "rate       0.0125 @ 1 worker x 240 workers -> 3",
        "warmup     205 steps = 5 epochs, linear; then step decay",
        "optimizer  sgd, momentum 0.9, weight decay 5e-05",
        "batch-norm local: 128 images together; running statistics: mean",
        "mode       reproducible, fp32",
    ]


def test_the_rest_of_the_plan_in_words():
    """1,000 images; 4 workers x 25, of which two are normalised together, then 8."""
    lines = plan(
        worker_ramp="10ep:8",
        epochs="20ep",
        scaling="per-worker",
        warmup="2.55ep",
        warmup_overshoot=True,
        lr_decay="linear",
        optimizer="lars-tf",
        decay_exempt="batchnorm+bias",
        clip_norm=5.0,
        batchnorm="group:2",
        batchnorm_running="precise",
        mode="fast",
        precision="bf16",
        tf32=True,
        compression="fp16",
    ).describe()
    assert lines == [
        "workers    4 x 25 images = 100 a step, 2 worker(s) a forward pass",
        "ramp       from epoch 10: 8 workers = 200 images a step, 5 steps an epoch, peak rate 0.8; "
        "tail drop: none left over",
        "epochs     20 = 150 steps, 10 an epoch; tail drop: none left over",
        "rate       0.1 @ 1 worker x 4 workers -> 0.4",
        "warmup     30 steps = 3 epochs, linear, above the peak until its epoch ends; then linear decay",
        "optimizer  lars-tf, momentum 0.9, weight decay 5e-05 (not batchnorm+bias), trust 0.001, gradient norm at most 5",
        "batch-norm group:2: 50 images together; running statistics: precise",
        "mode       fast, bf16, factors in tf32, gradients exchanged as fp16",
    ]
    adascale = plan(scaling="adascale", warmup=5, warmup_overshoot=True, optimizer="adamw", epochs=20).describe()
    assert adascale[1:5] == [
        "epochs     20 of one worker = 800 steps at most, 10 an epoch; tail drop: none left over",
        "rate       0.1 @ 1 worker, x the gain of each step (1 to 4); at gain 1 -> 0.1",
        "warmup     200 steps of one worker = 5 epochs, linear; then step decay",
        "optimizer  adamw, betas 0.9 and 0.999, weight decay 5e-05",
    ]


@pytest.mark.parametrize(
    ("tail", "first", "steps", "later"),
    [
        ("drop", "none left over", 17, "8 images dropped an epoch"),
        ("short", "none left over", 18, "8 images in a smaller last step"),
        ("pad", "none left over", 18, "6 images repeated an epoch"),
    ],
)
def test_every_stage_says_what_becomes_of_its_tail(tail, first, steps, later):
    """D1: 960 images, first 30 steps of 4 x 8, then 17 of 7 x 8 = 56 and 8 left, which 7 workers divide with 6 more."""
    lines = RunPlan(Recipe(tail=tail, worker_ramp="1ep:7"), 960).describe()
    assert lines[1] == (
        f"ramp       from epoch 1: 7 workers = 56 images a step, {steps} steps an epoch, peak rate 0.315; "
        f"tail {tail}: {later}"
    )
    assert lines[2].endswith(f" steps, 30 an epoch; tail {tail}: {first}")


def traced(changed: RunPlan) -> list[float]:
    """The rates that a trainer asks for, step by step."""
    return [changed.lr(step) for step in range(changed.total_steps)]


# A ramp: 10 steps an epoch for 2 epochs, 5 steps for 3, then 3 of 300 images (100 left out) for 5: 20 + 15 + 15 steps
RAMP = {"worker_ramp": "2ep:8,5ep:12", "epochs": "10ep", "decay_at": ["4ep", "7ep"]}


def test_a_ramp_by_hand():
    changed = plan(**RAMP)
    assert (changed.total_steps, changed.num_epochs, changed.steps_per_epoch, changed.length) == (50, 10, 10, 50.0)
    assert changed.total_images == 2 * 1_000 + 3 * 1_000 + 5 * 900
    assert [changed.grid_at(step).num_workers for step in (0, 19, 20, 34, 35, 49)] == [4, 4, 8, 8, 12, 12]
    assert [changed.epochs_after(step) for step in (20, 25, 35, 38, 50)] == [2.0, 3.0, 5.0, 6.0, 10.0]
    assert [step for step in range(1, 51) if changed.ends_epoch(step)] == [10, 20, 25, 30, 35, 38, 41, 44, 47, 50]
    assert [step for step in range(1, 51) if changed.evaluation_due(step)] == [10, 20, 25, 30, 35, 38, 41, 44, 47, 50]
    assert changed.num_evaluations == 10
    assert [changed.epoch_after(step) for step in (20, 21, 25, 26, 50)] == [2, 3, 3, 4, 10]


@pytest.mark.parametrize(
    ("text", "epochs"),
    [("2.3ep", 2.3), ("0", 0.0), ("15st", 1.5), ("23st", 2.6), ("36st", 5 + 1 / 3), ("5150im", 5 + 1 / 6)],
)
def test_lengths_in_epochs_under_a_ramp(text, epochs):
    assert plan(**RAMP).epochs_in(Duration.parse(text)) == pytest.approx(epochs, rel=1e-15)


@pytest.mark.parametrize(
    ("every", "after"),
    [
        ("2ep", [20, 30, 38, 44, 50]),
        ("3ep", [25, 38, 47, 50]),
        ("1500im", [15, 25, 33, 39, 44, 49, 50]),  # 5 x 100 + 5 x 200; 8 x 200; 2 x 200 + 4 x 300; 5 x 300; 5 x 300
        ("20st", [20, 40, 50]),
    ],
)
def test_evaluations_under_a_ramp(every, after):
    changed = plan(**RAMP, evaluate_every=every)
    assert [step for step in range(1, 51) if changed.evaluation_due(step)] == after
    assert changed.num_evaluations == len(after)


@pytest.mark.parametrize(
    ("scaling", "reference", "peaks"),
    [
        ("per-worker", None, (0.4, 0.8, 1.2)),
        ("none-as-run", None, (0.4, 0.8, 1.2)),
        ("none", None, (0.1, 0.1, 0.1)),
        ("linear", 200, (0.05, 0.1, 0.15)),
        ("sqrt", 100, (0.1, 0.1 * math.sqrt(2), 0.1 * math.sqrt(3))),
        ("legw", 100, (0.1, 0.1 * math.sqrt(2), 0.1 * math.sqrt(3))),
    ],
)
def test_the_rate_follows_the_ramp(scaling, reference, peaks):
    """The peak of the step's own grid, x 0.1 after epochs 4 and 7, which are steps 30 and 41."""
    changed = plan(**RAMP, scaling=scaling, **({"reference_batch": reference} if reference else {}))
    workers = [0] * 20 + [1] * 15 + [2] * 15
    expected = [peaks[workers[step]] * 0.1 ** ((step >= 30) + (step >= 41)) for step in range(50)]
    assert traced(changed) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("warmup", ["0", "3.5ep", "22st"])
def test_under_a_ramp_each_rate_is_that_of_a_schedule_with_the_steps_peak(decay, warmup):
    """L1: schedules of one worker number each, on the ramp's own steps, of which a step takes that of its grid."""
    changed = plan(**RAMP, warmup=warmup, lr_decay=decay)
    in_steps = {"0": "0st", "3.5ep": "28st", "22st": "22st"}[warmup]  # 20 and 7.5 steps
    alone = {
        number: plan(
            num_train=100_000,
            grid=f"1x{number}x25",
            warmup=in_steps,
            lr_decay=decay,
            epochs="50st",
            decay_at=["30st", "41st"],
        ).schedule.trace()
        for number in (4, 8, 12)
    }
    expected = [alone[changed.grid_at(step).num_workers][step] for step in range(50)]
    assert traced(changed) == expected
    backwards = [plan(**RAMP, warmup=warmup, lr_decay=decay).lr(step) for step in reversed(range(50))]
    assert backwards[::-1] == expected  # L1: a function of the step alone


def test_the_order_under_a_ramp():
    """D1: one permutation an epoch; 1,000 of 1,030 images in steps of 100 or 200, 900 in steps of 300."""
    changed = plan(num_train=1_030, seed=7, **RAMP)
    taken = {epoch: [] for epoch in range(10)}
    for step in range(changed.total_steps):
        taken[changed.position(step).epoch].extend(changed.ids_at(step).tolist())
    for epoch, ids in taken.items():
        assert len(ids) == (1_000 if epoch < 5 else 900)
        assert ids == Stream(7, "order").permutation(1_030, epoch)[: len(ids)].tolist()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"worker_ramp": "20ep:8"}, "worker_ramp has 20ep:8, but the last epoch is number 19, counted from 0; leave"),
        ({"worker_ramp": "2ep:8,19ep:12,21ep:4"}, "worker_ramp has 21ep:4, but the last epoch is number 19,"),
        ({"worker_ramp": "3ep:8", "epochs": "30st"}, "worker_ramp has 3ep:8, but the last epoch is number 2,"),
        ({"worker_ramp": "3ep:41"}, "must hold at least one global batch. 1,000 training images are fewer than 1,025"),
        ({"grid": "1x1x1001"}, "must hold at least one global batch. 1,000 training images are fewer than 1,001"),
        (
            {"lr_decay": "linear", "decay_end": "5ep", "warmup": "50st"},
            "A decay arrives after the warmup. decay_end is after 50 steps, the warmup ends after 50; choose",
        ),
        (
            {"warmup": "1st", "warmup_shape": "polynomial", "warmup_power": 1e3, "warmup_overshoot": True},
            "A rate is a finite number. With warmup_overshoot the warmup of 1st passes all bounds before its epoch ends;",
        ),
    ],
)
def test_what_cannot_be_planned(fields, sentence):
    with pytest.raises(UsageError) as caught:
        plan(**fields)
    assert sentence in str(caught.value)


def test_what_can_be_planned():
    assert plan(worker_ramp="19ep:8").total_steps == 195
    assert plan(worker_ramp="2ep:8", epochs="21st").total_steps == 21
    assert plan(lr_decay="step", decay_end="1ep", warmup="5ep").warmup_steps == 50  # a step decay arrives nowhere
    assert plan(lr_decay="cosine", decay_end="51st", warmup="50st").lr(50) == 0.4


@pytest.mark.parametrize("end", ["100st", "10ep", "10000im"])
@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize(
    ("decay", "closed_form"),
    [
        ("cosine", lambda t: 1e-4 + (0.4 - 1e-4) * math.cos(math.pi * t / 2) ** 2),
        ("linear", lambda t: 0.4 * (1 - t) + 1e-4 * t),
        ("polynomial", lambda t: (0.4 - 1e-4) * (1 - t) ** 2 + 1e-4),
        ("exponential", lambda t: 0.4 * (1e-4 / 0.4) ** t),
    ],
)
def test_a_decay_arrives_where_it_is_told_to(decay, closed_form, warmup, end):
    """L5: t runs from 0 at the end of the warmup to 1 after 100 of 200 steps; the final rate stays."""
    rates = traced(plan(warmup=warmup, lr_decay=decay, decay_end=end))
    start = 10 * warmup
    expected = [closed_form((step - start) / (100 - start)) for step in range(start, 100)]
    assert rates[start:100] == pytest.approx(expected, rel=1e-12)
    assert rates[99] > 1e-4
    assert set(rates[100:]) == {1e-4}


def test_a_decay_may_arrive_after_the_end_of_training():
    """As mlperf_lr, whose decay counts one step more than training has: decay_end is after 2,513 of 2,512 steps."""
    fields = {"num_train": 100, "scaling": "none", "base_lr": 29.0, "warmup": "706st", "epochs": "2512st"}
    fields |= {"warmup_start": "zero", "warmup_first": "closed", "lr_decay": "polynomial"}
    assert traced(plan(**fields, decay_end="2513st")) == traced(plan(**fields))
    assert traced(plan(**fields, decay_end="2512st"))[-1] < traced(plan(**fields))[-1]


def test_a_factor_for_each_point_of_the_decay():
    """Akiba et al. 2017 at 32,768 images: eta = 12.8; x 0.5 for 40 epochs, x 0.075 for 30, x 0.01 for 15, x 0.001 for 5."""
    fields = {"epochs": 90, "decay_at": [40, 70, 85], "decay_factor": [0.15, 2 / 15, 0.1]}
    rates = traced(plan(scaling="none", base_lr=6.4, lr_decay="step", **fields))
    expected = [12.8 * 0.5] * 400 + [12.8 * 0.075] * 300 + [12.8 * 0.01] * 150 + [12.8 * 0.001] * 50
    assert rates == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("doublings", "rate", "steps"),
    [(0, 4.0, 391), (1, 5.657, 391), (2, 8.0, 391), (3, 11.31, 391), (4, 16.0, 391), (5, 22.63, 391), (6, 32.0, 391)],
)
def test_legw_on_imagenet(doublings, rate, steps):
    """L2, You et al. 2019: 10/64 epochs of warmup at 512 images, times the batch: 391 steps whatever the batch.

    With every image in an epoch (tail short) an epoch rounds up to at most one step more.
    """
    fields = {"grid": f"1x{2**doublings}x512", "tail": "short", "warmup": "0.15625ep", "base_lr": 4.0, "epochs": 90}
    changed = plan(num_train=IMAGENET, **fields, scaling="legw", reference_batch=512, lr_decay="polynomial")
    assert changed.recipe.peak_lr == pytest.approx(rate, rel=1e-3)
    assert steps <= changed.warmup_steps <= steps + 2**doublings / 6.4 + 1
    assert changed.lr(changed.warmup_steps) == changed.recipe.peak_lr


def test_legw_leaves_a_warmup_in_steps_and_multiplies_images():
    fields = {"scaling": "legw", "reference_batch": 25, "grid": "1x8x25"}
    assert plan(**fields, warmup="40st").warmup_steps == 40
    assert plan(**fields, warmup="1000im").warmup_steps == 40  # 40 steps of 25 images, 40 of 200
    assert plan(**fields, warmup="1ep").warmup_steps == 40  # an epoch of 40 steps, 8 of 5
    assert plan(**{**fields, "grid": "1x1x25"}, warmup="1ep").warmup_steps == 40  # L2: identity at its reference


def test_none_as_run_is_per_worker_and_not_none():
    """The poster's figure 7: leaving the scaling out of the constructor changes no rate that is ever used."""
    shipped = recipes.load("poster").recipe
    rates = {
        name: traced(RunPlan(recipes.changed(shipped, {"scaling": name, "warmup": "5ep"}), IMAGENET))
        for name in ("none-as-run", "per-worker", "none")
    }
    assert rates["none-as-run"] == rates["per-worker"]
    assert all(few < many for few, many in zip(rates["none"], rates["none-as-run"], strict=True))  # L7


@given(
    scaling=st.sampled_from(get_args(RuleName)),
    warmup=st.sampled_from(["0", "2.55ep", "37st", "3333im"]),
    decay=st.sampled_from(DECAYS),
    overshoot=st.booleans(),
)
def test_every_rule_is_the_identity_at_its_reference(scaling, warmup, decay, overshoot):
    """L2, at every step: one worker that takes the reference batch trains as if there were no scaling."""
    reference = {"reference_batch": 25} if scaling in ("linear", "sqrt", "legw") else {}
    shared = {"grid": "1x1x25", "warmup": warmup, "lr_decay": decay, "epochs": 5, "warmup_overshoot": overshoot}
    assert traced(plan(**shared, scaling=scaling, **reference)) == traced(plan(**shared, scaling="none"))


class TestAdaScale:
    """Johnson et al. 2020, algorithm 1: 4 workers x 25 images; one worker has 40 steps an epoch, all have 10."""

    def test_the_schedule_counts_steps_of_one_worker(self):
        changed = plan(scaling="adascale", warmup="2.5ep", decay_at=["12ep"])
        one = plan(grid="1x1x25", scaling="none", warmup="2.5ep", decay_at=["12ep"])
        assert (changed.steps_per_epoch, one.steps_per_epoch) == (10, 40)
        assert changed.schedule.trace() == one.schedule.trace()
        assert (changed.length, changed.total_steps, changed.warmup_steps) == (800.0, 800, 100)

    def test_epochs_of_the_schedule_are_those_of_one_worker(self):
        changed = plan(scaling="adascale")
        assert [changed.schedule_epochs_after(step) for step in (0, 20, 40, 800)] == [0.0, 0.5, 1.0, 20.0]
        assert [plan().schedule_epochs_after(step) for step in (5, 200)] == [0.5, 20.0]

    def test_the_rate_is_the_gain_times_the_schedule_at_the_progress(self):
        changed = plan(scaling="adascale", warmup="2.5ep", warmup_start="zero", decay_at=["12ep"])
        assert changed.lr(0, 0.0, 1.0) == pytest.approx(0.1 / 100)
        assert changed.lr(7, 18.999, 2.5) == pytest.approx(2.5 * 0.1 * 19 / 100)  # floor(18.999) is the 19th step
        assert changed.lr(7, 19.0, 2.5) == pytest.approx(2.5 * 0.1 * 20 / 100)
        assert changed.lr(119, 479.9, 4.0) == 0.4
        assert changed.lr(120, 480.0, 4.0) == pytest.approx(0.04)

    def test_at_full_gain_training_is_as_long_as_with_linear_scaling(self):
        """r = W at every step: a W-th of the steps, at W times the rate."""
        changed = plan(scaling="adascale", lr_decay="cosine")
        progress, rates = 0.0, []
        while progress < changed.length:
            rates.append(changed.lr(len(rates), progress, 4.0))
            progress += 4.0
        assert len(rates) == 200 == plan().total_steps
        assert changed.epochs_after(len(rates)) == 20.0
        one = plan(grid="1x1x25", scaling="none", lr_decay="cosine").schedule
        assert rates == [4.0 * one(4 * step) for step in range(200)]

    def test_at_no_gain_it_takes_the_steps_of_one_worker(self):
        changed = plan(scaling="adascale", lr_decay="linear")
        assert [changed.lr(step, float(step), 1.0) for step in range(800)] == changed.schedule.trace()
        assert changed.epochs_after(800) == 80.0
        assert (changed.num_epochs, changed.total_images, changed.num_evaluations) == (80, 80_000, 80)  # at most

    def test_one_worker_trains_as_without_scaling(self):
        """L6: with one worker there is no gain."""
        for decay in DECAYS:
            fields = {"grid": "1x1x25", "warmup": "2.5ep", "lr_decay": decay}
            changed, one = plan(scaling="adascale", **fields), plan(scaling="none", **fields)
            assert [changed.lr(step, float(step), 1.0) for step in range(800)] == traced(one)
            assert (changed.total_steps, changed.length, changed.num_epochs) == (800, 800.0, 20)

    @given(st.lists(st.floats(1.0, 4.0), min_size=80, max_size=80))
    def test_there_are_at_most_as_many_steps_as_of_one_worker(self, gains):
        changed = plan(num_train=1_000, scaling="adascale", epochs="2ep")
        progress, step = 0.0, 0
        while progress < changed.length:
            assert 0 < changed.lr(step, progress, gains[step]) <= gains[step] * 0.1
            progress, step = progress + gains[step], step + 1
        assert 20 <= step <= changed.total_steps == 80
        assert changed.evaluation_due(step, progress)

    @pytest.mark.parametrize(("tail", "steps"), [("drop", 41), ("short", 42), ("pad", 42)])
    def test_the_tail_is_that_of_one_worker(self, tail, steps):
        """1,030 images, 25 a step: 41 steps and 5 images."""
        assert plan(num_train=1_030, scaling="adascale", epochs=1, tail=tail).total_steps == steps

    @pytest.mark.parametrize("unit", ["5ep", "200st", "5000im"])
    def test_lengths_are_those_of_one_worker(self, unit):
        changed = plan(scaling="adascale", epochs=20, warmup=unit, decay_at=[unit])
        assert changed.warmup_steps == 200
        assert changed.schedule.decay_rate(199) == 0.1
        assert changed.schedule.decay_rate(200) == pytest.approx(0.01)
        assert plan(scaling="adascale", epochs=unit).length == 200.0

    def test_images_and_evaluations_are_those_of_all_workers(self):
        changed = plan(scaling="adascale", evaluate_every="2ep", seed=3)
        assert [step for step in range(1, 100) if changed.evaluation_due(step)] == [20, 40, 60, 80]
        assert changed.ids_at(25).tolist() == Stream(3, "order").permutation(1_000, 2)[500:600].tolist()
        assert [changed.evaluation_due(33, progress) for progress in (799.9, 800.0)] == [False, True]

    def test_more_workers_come_in_whole_epochs_of_all_workers(self):
        """The ramp changes which gains are possible, not the schedule."""
        changed = plan(scaling="adascale", worker_ramp="2ep:8", warmup="2.5ep")
        assert [changed.grid_at(step).num_workers for step in (19, 20)] == [4, 8]
        assert [changed.lr(step, 150.5, 3.0) for step in (19, 20)] == [pytest.approx(0.3)] * 2
        assert changed.length == 800.0
