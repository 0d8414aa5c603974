"""The state of a run: its hash, its running statistics, its optimizer's memory (statements B2, B3, B6)."""

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from widestep.models.build import build_model
from widestep.models.stacked import StackedModel
from widestep.plan.recipe import Recipe
from widestep.plan.recipes import changed
from widestep.plan.runplan import RunPlan
from widestep.train.state import POLICIES, Applied, TrainState, weights_sha256

CHANNELS = {
    **{"bn1": 8, "layer1.0.bn1": 8, "layer1.0.bn2": 8},
    **{"layer2.0.bn1": 16, "layer2.0.bn2": 16, "layer2.0.downsample.1": 16},
}
NUM_CHANNELS = 72


def digits_model(slots: int) -> StackedModel:
    return build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=slots)


def test_hash_of_weights_is_that_of_their_floats_in_name_order() -> None:
    weights = {
        "fc.weight": torch.tensor([[1.5, -2.0], [3e-40, 0.1]]),
        "bn.running_mean": torch.tensor([0.25]),
        "fc.bias": torch.tensor([float("inf"), -0.0]),
    }
    numbers = [0.25, float("inf"), -0.0, 1.5, -2.0, 3e-40, 0.1]
    assert weights_sha256(weights) == hashlib.sha256(struct.pack("<7f", *numbers)).hexdigest()


def test_hash_of_a_view_is_that_of_its_own_numbers() -> None:
    whole = torch.arange(6.0).view(3, 2)
    assert weights_sha256({"w": whole[1:].T}) == hashlib.sha256(struct.pack("<4f", 2, 4, 3, 5)).hexdigest()


def test_one_bit_changes_the_hash() -> None:
    weights = {"w": torch.ones(1000)}
    other = {"w": torch.ones(1000)}
    other["w"][617] = float(np.nextafter(np.float32(1), np.float32(2)))
    assert weights_sha256(weights) != weights_sha256(other)


@pytest.fixture
def state() -> Callable[..., TrainState]:
    def make(slots: int = 1, slot: int = 0, **fields: Any) -> TrainState:
        recipe = changed(Recipe(), {"stack": slots, "seed": slot, **fields})
        return TrainState(digits_model(slots), slot, RunPlan(recipe, num_train=898))

    return make


@pytest.mark.parametrize(("momentum", "num_steps"), [(0.1, 1), (0.1, 44), (0.25, 3), (1.0, 2)])
def test_running_statistics_forget_their_start_at_a_fixed_rate(
    state: Callable[..., TrainState], momentum: float, num_steps: int
) -> None:  # B2
    """After n steps with statistics s: (1 - m)^n of the start and the rest of s; `last` knows s alone."""
    run = state(batchnorm_momentum=momentum)
    assert run.running.shape == (4, 2, NUM_CHANNELS)
    step = torch.arange(run.running.numel(), dtype=torch.float32).view(run.running.shape) / 100
    start = torch.tensor([0.0, 1.0]).view(1, 2, 1).expand_as(step)
    assert run.running.equal(start)
    for _ in range(num_steps):
        run.move_statistics(step)
    left = (1 - momentum) ** num_steps
    expected = left * start + (1 - left) * step
    expected[POLICIES.index("last")] = step[POLICIES.index("last")]
    torch.testing.assert_close(run.running, expected, rtol=2e-6, atol=2e-6)


def test_statistics_are_shown_to_the_layers_that_they_belong_to(state: Callable[..., TrainState]) -> None:
    """In the order of the network, in the slot of the run and in no other, and they become part of its weights."""
    run = state(slots=3, slot=1)
    statistics = torch.arange(2.0 * NUM_CHANNELS).view(2, NUM_CHANNELS)
    run.show(statistics)
    weights, offset = run.weights(), 0
    for name, width in CHANNELS.items():
        assert weights[f"{name}.running_mean"].tolist() == list(range(offset, offset + width))
        assert weights[f"{name}.running_var"].tolist() == list(range(NUM_CHANNELS + offset, NUM_CHANNELS + offset + width))
        offset += width
    for slot in (0, 2):
        others = run._model.slot_statistics(slot)
        assert {name for name, tensor in others.items() if tensor.equal(torch.zeros_like(tensor))} == {
            f"{name}.running_mean" for name in CHANNELS
        }
        assert all(tensor.equal(torch.ones_like(tensor)) for name, tensor in others.items() if name.endswith("var"))


def test_initial_weights_depend_on_the_seed_alone(state: Callable[..., TrainState]) -> None:
    alone, stacked, other = state(), state(slots=3), state(slots=3, slot=2)
    assert weights_sha256(alone.weights()) == weights_sha256(stacked.weights())
    assert weights_sha256(alone.weights()) != weights_sha256(other.weights())


def test_zero_gamma_starts_residuals_at_zero(state: Callable[..., TrainState]) -> None:  # B6
    weights = state(zero_gamma=True).weights()
    assert [
        name for name, tensor in weights.items() if tensor.dim() == 1 and not tensor.any() and name.endswith("weight")
    ] == [
        "layer1.0.bn2.weight",
        "layer2.0.bn2.weight",
    ]


def test_a_step_writes_into_the_slot_of_the_model_and_nowhere_else(state: Callable[..., TrainState]) -> None:
    run = state(slots=3, slot=1, momentum=0.0, weight_decay=0.0)
    before = [{name: view.clone() for name, view in run._model.slot_parameters(slot).items()} for slot in range(3)]
    gradient = torch.randn(run.gradient.shape, generator=torch.Generator().manual_seed(1))
    run.apply(gradient, Applied(lr=0.5))
    offset = 0
    for name, view in run._model.slot_parameters(1).items():
        piece = gradient[offset : offset + view.numel()].view(view.shape)
        torch.testing.assert_close(view, before[1][name] - 0.5 * piece, rtol=0, atol=1e-6)
        offset += view.numel()
    for slot in (0, 2):
        assert all(view.equal(before[slot][name]) for name, view in run._model.slot_parameters(slot).items())


def test_the_optimizers_memory_goes_from_one_state_to_another(state: Callable[..., TrainState]) -> None:
    first, second = state(), state()
    gradients = torch.randn(4, len(first.gradient), generator=torch.Generator().manual_seed(2))
    assert first.optimizer_tensors() == {}
    for gradient in gradients[:2]:
        first.apply(gradient, Applied(0.1))
    for name, view in second.weights().items():
        view.copy_(first.weights()[name])
    saved = {name: tensor.clone() for name, tensor in first.optimizer_tensors().items()}
    assert sorted(saved) == sorted(f"{name}:momentum_buffer" for name in first.parameters)
    second.restore_optimizer(saved)
    for gradient in gradients[2:]:
        first.apply(gradient, Applied(0.2))
        second.apply(gradient, Applied(0.2))
    assert weights_sha256(first.weights()) == weights_sha256(second.weights())


def test_a_frozen_run_keeps_its_weights_and_clears_its_slot(state: Callable[..., TrainState]) -> None:  # W7
    run, model = (made := state(slots=2, slot=1)), made._model
    before = weights_sha256(run.weights())
    run.freeze()
    assert not any(view.any() for view in model.slot_parameters(1).values())
    for view in (model.slot_parameters(1) | model.slot_statistics(1)).values():
        view.fill_(5.0)
    assert weights_sha256(run.weights()) == before


@pytest.mark.parametrize(
    ("step", "progress", "ended"), [(0, 0.0, False), (5, 9.5, False), (9, 10.0, True), (5, 10.2, True), (10, 9.9, True)]
)
def test_a_run_ends_by_its_progress(state: Callable[..., TrainState], step: int, progress: float, ended: bool) -> None:
    """Ten steps of one worker: they end when so much progress is made, and after ten steps at the latest."""
    run = state(scaling="adascale", epochs="10st", warmup="0")
    run.tally.step, run.tally.progress = step, progress
    assert (run.ended, run.finished) == (ended, ended)
    run.failure = "too fast"
    assert (run.ended, run.finished) == (ended, True)


def test_the_best_weights_are_a_copy(state: Callable[..., TrainState]) -> None:
    run = state()
    before = weights_sha256(run.weights())
    run.keep_best()
    run.apply(torch.ones_like(run.gradient), Applied(1.0))
    assert run.best is not None
    assert weights_sha256(run.best) == before != weights_sha256(run.weights())
