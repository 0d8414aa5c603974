"""Statement L4: the rate at every step of the recipe `poster` is that of the published Horovod example, written out here."""

import itertools

import numpy as np
import pytest

from widestep.plan import recipes
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan

NUM_TRAIN = 1_281_167
BASE = 0.0125
NODES = (4, 10, 20, 30, 40)
STEPS_PADDED = {4: 418, 10: 167, 20: 84, 30: 56, 40: 42}  # D2
STEPS_DROPPED = {4: 417, 10: 166, 20: 83, 30: 55, 40: 41}
WARMUPS = (0, 5, 10, 20)


def horovod(epoch: int, batch: int, num_batches: int, num_workers: int, num_warmup_epochs: float) -> float:
    """lr(e, i) = base * (((e + (i + 1) / L) * (W - 1)) / Wu + 1); later base * W * 0.1**k after epochs 30, 60 and 80."""
    if epoch < num_warmup_epochs:
        done = epoch + (batch + 1) / num_batches
        return BASE * ((done * (num_workers - 1)) / num_warmup_epochs + 1)
    return BASE * num_workers * 0.1 ** sum(epoch >= boundary for boundary in (30, 60, 80))


def poster(nodes: int, warmup: str | float, tail: str, **fields: str) -> Recipe:
    given = {"grid": f"{nodes}x6x128", "warmup": str(warmup), "tail": tail, **fields}
    return recipes.changed(recipes.load("poster").recipe, given)


@pytest.mark.parametrize("tail", ["pad", "drop"])
@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("nodes", NODES)
def test_the_rate_at_every_step(nodes, warmup, tail):
    plan = RunPlan(poster(nodes, warmup, tail), NUM_TRAIN)
    num_batches = (STEPS_PADDED if tail == "pad" else STEPS_DROPPED)[nodes]
    assert plan.steps_per_epoch == num_batches
    published = [horovod(e, i, num_batches, 6 * nodes, warmup) for e, i in itertools.product(range(90), range(num_batches))]
    np.testing.assert_allclose(plan.schedule.trace(), published, rtol=1e-13, atol=0)  # L4


@pytest.mark.parametrize(
    ("nodes", "warmup", "num_batches", "first", "peak"),
    [
        (40, 10, 42, 0.019613, 3.0),  # L4: 0.0125 x (1/420 x 239 + 1)
        (10, 5, 167, 0.013383, 0.75),  # L4: 0.0125 x (1/835 x 59 + 1)
        (10, 10, 167, 0.012942, 0.75),  # L4: 0.0125 x (1/1670 x 59 + 1)
    ],
)
def test_by_hand(nodes, warmup, num_batches, first, peak):
    schedule = RunPlan(poster(nodes, warmup, "pad"), NUM_TRAIN).schedule
    last = warmup * num_batches - 1
    assert round(schedule(0), 6) == first
    assert schedule(last) == schedule(last + 1) == peak
    assert schedule(last - 1) < peak


@pytest.mark.parametrize("warmup", [0.1, 0.5, 2.5, 7.3, 12.75])
@pytest.mark.parametrize("nodes", NODES)
def test_a_fractional_warmup_never_passes_the_peak(nodes, warmup):
    """The published formula does: in its epoch 2 of 2.5 it comes to 1.199 x the peak."""
    schedule = RunPlan(poster(nodes, warmup, "pad"), NUM_TRAIN).schedule
    rates = schedule.trace(0, 15 * STEPS_PADDED[nodes])
    assert max(rates) == schedule.decay_rate(0) == pytest.approx(BASE * 6 * nodes)  # L4: never above the peak
    assert rates[schedule.warmup_steps - 1] == max(rates)
    assert rates == sorted(rates)


def test_what_the_published_formula_does_with_a_fractional_warmup():
    assert round(max(horovod(2, i, 42, 240, 2.5) for i in range(42)) / 3.0, 3) == 1.199  # L4


@pytest.mark.parametrize("scaling", ["per-worker", "none-as-run"])
@pytest.mark.parametrize("warmup", [*WARMUPS, 0.1, 0.5, 2.5, 7.3, 12.75, 30.5])
@pytest.mark.parametrize("nodes", [4, 40])
def test_overshooting_is_the_published_formula_at_every_step(nodes, warmup, scaling):
    """L4; 30.5 epochs of warmup go on past the first decay point, which then comes at epoch 31."""
    plan = RunPlan(poster(nodes, warmup, "pad", warmup_overshoot="true", scaling=scaling), NUM_TRAIN)
    num_batches = STEPS_PADDED[nodes]
    published = [horovod(e, i, num_batches, 6 * nodes, warmup) for e, i in itertools.product(range(90), range(num_batches))]
    rates = [plan.lr(step) for step in range(plan.total_steps)]
    np.testing.assert_allclose(rates, published, rtol=1e-13, atol=0)


def test_overshooting_by_hand():
    """L4: 0.0125 x (3/2.5 x 239 + 1) = 0.0125 x 287.8 at the end of epoch 2, and 3.0 from epoch 3 on."""
    plan = RunPlan(poster(40, 2.5, "pad", warmup_overshoot="true"), NUM_TRAIN)
    assert plan.warmup_steps == 3 * 42
    assert plan.lr(125) == pytest.approx(3.5975, rel=1e-14)
    assert round(plan.lr(125) / 3.0, 3) == 1.199
    assert plan.lr(126) == 3.0


@pytest.mark.parametrize(
    ("warmup", "top", "end"),
    [
        ("105st", 126 / 105, 126),  # 2.5 epochs of 42 steps
        ("3225600im", 126 / 105, 126),
        ("126st", 1.0, 126),  # three whole epochs: nothing to overshoot
        ("1st", 42.0, 42),
        ("0", 0.0, 0),
    ],
)
def test_overshooting_in_other_units(warmup, top, end):
    plan = RunPlan(poster(40, warmup, "pad", warmup_overshoot="true"), NUM_TRAIN)
    assert plan.warmup_steps == end
    if end:
        assert plan.lr(end - 1) == pytest.approx(BASE + (3.0 - BASE) * top, rel=1e-13)
    assert plan.lr(end) == 3.0
