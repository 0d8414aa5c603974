"""The state of a run: its hash, its running statistics, its optimizer's memory (statements B2, B3)."""

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
from widestep.plan.runplan import RunPlan
from widestep.train.state import TrainState, update_running_statistics, weights_sha256


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


@pytest.mark.parametrize(("momentum", "num_steps"), [(0.1, 1), (0.1, 44), (0.25, 3), (1.0, 2)])
def test_running_statistics_forget_their_start_at_a_fixed_rate(momentum: float, num_steps: int) -> None:  # B2
    """After n steps with statistics s: (1 - m)^n of the start and the rest of s."""
    model = digits_model(slots=1)
    width = sum(2 * norm.weight.numel() for norm in model.batch_norms())
    batch = torch.arange(width, dtype=torch.float32)[None] / 100
    for _ in range(num_steps):
        update_running_statistics(model, batch, momentum, [0])
    left, offset = (1 - momentum) ** num_steps, 0
    for norm in model.batch_norms():
        for running, start in ((norm.running_mean, 0.0), (norm.running_var, 1.0)):
            expected = left * start + (1 - left) * batch[0, offset : offset + len(running)]
            torch.testing.assert_close(running, expected, rtol=2e-6, atol=2e-6)
            offset += len(running)
    assert offset == width


@pytest.mark.parametrize("taken", [[0, 1, 2], [1], [0, 2], []])
def test_only_slots_that_took_the_step_move_their_statistics(taken: list[int]) -> None:
    """And to the same bits, whoever moves with them."""
    model, alone = digits_model(slots=3), [digits_model(slots=1) for _ in range(3)]
    width = sum(2 * norm.weight.numel() for norm in alone[0].batch_norms())
    batch = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        update_running_statistics(model, batch, 0.1, taken)
        for slot in taken:
            update_running_statistics(alone[slot], batch[slot : slot + 1], 0.1, [0])
    for slot in range(3):
        expected = alone[slot].slot_statistics(0)
        assert all(view.equal(expected[name]) for name, view in model.slot_statistics(slot).items())


@pytest.fixture
def state() -> Callable[..., TrainState]:
    def make(slots: int = 1, slot: int = 0, **fields: Any) -> TrainState:
        recipe = Recipe(stack=slots, seed=slot, **fields)
        return TrainState(digits_model(slots), slot, RunPlan(recipe, num_train=898))

    return make


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
    run.apply(gradient, 0.5)
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
        first.apply(gradient, 0.1)
    for name, view in second.weights().items():
        view.copy_(first.weights()[name])
    saved = {name: tensor.clone() for name, tensor in first.optimizer_tensors().items()}
    assert sorted(saved) == sorted(f"{name}:momentum_buffer" for name in first.parameters)
    second.restore_optimizer(saved)
    for gradient in gradients[2:]:
        first.apply(gradient, 0.2)
        second.apply(gradient, 0.2)
    assert weights_sha256(first.weights()) == weights_sha256(second.weights())


def test_a_frozen_run_keeps_its_weights_and_clears_its_slot(state: Callable[..., TrainState]) -> None:  # W7
    run = state(slots=2, slot=1)
    before = weights_sha256(run.weights())
    run.freeze("too fast")
    assert (run.failure, run.finished) == ("too fast", True)
    assert weights_sha256(run.weights()) == before
    assert not any(view.any() for view in run._model.slot_parameters(1).values())


def test_the_best_weights_are_a_copy(state: Callable[..., TrainState]) -> None:
    run = state()
    before = weights_sha256(run.weights())
    run.keep_best()
    run.apply(torch.ones_like(run.gradient), 1.0)
    assert run.best is not None
    assert weights_sha256(run.best) == before != weights_sha256(run.weights())
