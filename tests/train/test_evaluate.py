"""Every validation image counts once, whoever evaluates it (statement D5)."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from widestep.data.source import open_source
from widestep.models.build import build_model
from widestep.models.initialise import initialise
from widestep.models.stacked import StackedModel
from widestep.train.evaluate import Evaluation, evaluate
from widestep.workers.world import World

NUM_SLOTS = 3


@pytest.fixture(scope="module")
def source() -> Any:
    return open_source("digits", augment="none", image_size=None, train_images=960, num_threads=0)


@pytest.fixture(scope="module")
def model() -> StackedModel:
    """Three untrained networks with running statistics of their own."""
    made = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=NUM_SLOTS)
    generator = torch.Generator().manual_seed(9)
    for slot in range(NUM_SLOTS):
        initialise(made, slot, generator)
        for view in made.slot_statistics(slot).values():
            view.add_(0.3 * torch.rand(view.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def val_ids(source: Any) -> list[np.ndarray]:
    return [source.split(seed).val for seed in range(NUM_SLOTS)]


class PartOfMany(World):
    """One of several processes that take turns: `merged` collects in the first round and adds up in the second."""

    def __init__(self, process: int, num_processes: int, collected: list[list[Tensor]]) -> None:
        super().__init__()
        self.process, self.num_processes = process, num_processes
        self._collected, self._calls = collected, 0

    def merged(self, values: Tensor) -> Tensor:
        self._calls += 1
        if self._calls > len(self._collected):
            self._collected.append([])
        parts = self._collected[self._calls - 1]
        if len(parts) < self.num_processes:
            parts.append(values.clone())
        return sum(parts[1:], parts[0])


def on_processes(num_processes: int, model: StackedModel, source: Any, ids: Any, per_forward: int) -> list[list[Evaluation]]:
    collected: list[list[Tensor]] = []
    for _ in range(2):
        found = [
            evaluate(model, source, ids, per_forward, PartOfMany(process, num_processes, collected), torch.device("cpu"))
            for process in range(num_processes)
        ]
    return found


@pytest.mark.parametrize("per_forward", [1000, 837, 279, 100])
def test_counts_equal_a_plain_loop(model: StackedModel, source: Any, val_ids: Any, per_forward: int) -> None:  # D5
    """One image at a time in double precision; 837 images, the last pass of 100 has 37."""
    found = evaluate(model, source, val_ids, per_forward, World(), torch.device("cpu"))
    exact = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8)).double().eval()
    for slot, evaluation in enumerate(found):
        for name, view in (exact.slot_parameters(0) | exact.slot_statistics(0)).items():
            view.copy_((model.slot_parameters(slot) | model.slot_statistics(slot))[name])
        logits = exact(source.evaluation_images(val_ids[slot]).double())[:, 0].detach()
        labels = source.labels[torch.from_numpy(val_ids[slot])]
        right, losses = 0, []
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            right += max(range(10), key=row.__getitem__) == label
            losses.append(math.log(math.fsum(math.exp(value - row[label]) for value in row)))
        assert (evaluation.correct, evaluation.images) == (right, 837)
        assert evaluation.loss == pytest.approx(math.fsum(losses) / 837, rel=1e-6)
        assert evaluation.accuracy == right / 837
    assert len({evaluation.correct for evaluation in found}) > 1  # the slots are told apart
    assert model.training


@pytest.mark.parametrize("num_processes", [2, 3, 5, 11])
def test_processes_change_no_digit(model: StackedModel, source: Any, val_ids: Any, num_processes: int) -> None:  # D5
    """11 processes for 9 passes leave two idle."""
    alone = evaluate(model, source, val_ids, 100, World(), torch.device("cpu"))
    assert on_processes(num_processes, model, source, val_ids, 100) == [alone] * num_processes


def test_a_loss_that_is_no_number_is_none() -> None:
    assert Evaluation(1, 4, math.inf).finite_loss is None
    assert Evaluation(1, 4, math.nan).finite_loss is None
    assert Evaluation(1, 4, 2.5).finite_loss == 2.5
