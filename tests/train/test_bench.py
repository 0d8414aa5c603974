"""What `bench` says of a run's time is what a clock and a slow part of it make true."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from widestep.data import digits_source
from widestep.data.loading import Computed, Images
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe
from widestep.train import bench
from widestep.workers.launched import Launch
from widestep.workers.pulse import Pulse

pytestmark = pytest.mark.usefixtures("quiet_torch")


class Clock:
    """A clock that stands still unless somebody spends time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    return clock


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Callable[[float, float], None]:
    """Let every image take so many seconds to load, and every step to compute."""

    def arrange(seconds_to_load: float, seconds_to_compute: float) -> None:
        load, compute = digits_source.DigitsSource.training_images, bench.gradients_of

        def slowly_loaded(self: Any, ids: Any, keys: Any) -> Images:
            def images() -> Tensor:
                clock.now += seconds_to_load * len(ids)
                return load(self, ids, keys).result()

            return Computed(images)

        def slowly_computed(*arguments: Any) -> Any:
            clock.now += seconds_to_compute
            return compute(*arguments)

        monkeypatch.setattr(digits_source.DigitsSource, "training_images", slowly_loaded)
        monkeypatch.setattr(bench, "gradients_of", slowly_computed)

    return arrange


def measured(seconds: float, **fields: Any) -> bench.TrainingSpeed:
    return bench.measure(Recipe(train_images=960, **fields), Execution(device="cpu"), Launch("nobody"), Pulse(), seconds)


@pytest.mark.parametrize(("load", "compute"), [(0.25, 8.0), (0.25, 24.0), (2.0**-10, 2.0)])
def test_shares_are_those_of_a_known_run(slow: Callable[[float, float], None], load: float, compute: float) -> None:
    """32 images a step: loading takes 32 times `load`."""
    slow(load, compute)
    step = 32 * load + compute
    found = measured(seconds=15 * step)
    assert (found.global_batch, found.steps) == (32, 5)  # a third of the time
    assert found.seconds_per_step == pytest.approx(step)
    assert found.images_per_second == pytest.approx(32 / step)
    assert found.data_share == pytest.approx(32 * load / step)
    assert found.compute_share == pytest.approx(compute / step)
    assert found.reduction_share == 0
    assert found.loading_images_per_second == pytest.approx(1 / load)


def test_a_measurement_outlasts_a_short_training(slow: Callable[[float, float], None]) -> None:
    slow(2.0**-20, 1.0)
    assert measured(seconds=300.0, epochs="3st", warmup="0").steps == 100


def test_nothing_of_the_recipe_is_left_out(slow: Callable[[float, float], None]) -> None:
    """AdaScale, a stack, a short tail, dropout: whatever trains can be measured."""
    slow(2.0**-20, 1.0)
    found = measured(seconds=30.0, tail="short", dropout=0.2, stack=2, scaling="adascale", optimizer="lars-tf")
    assert found.steps == 10
    assert torch.get_num_threads() == 1
