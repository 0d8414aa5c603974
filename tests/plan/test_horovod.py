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


def poster(nodes: int, warmup: str | float, tail: str) -> Recipe:
    return recipes.changed(recipes.load("poster").recipe, {"grid": f"{nodes}x6x128", "warmup": str(warmup), "tail": tail})


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
