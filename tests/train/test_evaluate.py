"""Every validation image counts once, whoever evaluates it (statement D5); other ways of counting on request."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DistributedSampler

from widestep.data.source import open_source
from widestep.data.split import Split, stratified_split
from widestep.models.build import build_model
from widestep.models.stacked import StackedModel
from widestep.plan.recipe import Recipe
from widestep.plan.recipes import changed
from widestep.train.evaluate import Evaluation, _mean_of_batches, evaluate
from widestep.train.session import evaluated_ids
from widestep.workers.world import World

NUM_SLOTS = 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source() -> Any:
    return open_source("digits", augment="none", train_images=960)


@pytest.fixture(scope="module")
def model() -> StackedModel:
    """Three untrained networks with running statistics of their own."""
    made = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=NUM_SLOTS)
    generator = torch.Generator().manual_seed(9)
    for slot in range(NUM_SLOTS):
        made.initialise(slot, slot)
        for view in made.slot_statistics(slot).values():
            view.add_(0.3 * torch.rand(view.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def val_ids(source: Any) -> list[np.ndarray]:
    return [source.split(seed).val for seed in range(NUM_SLOTS)]


@pytest.fixture(scope="module")
def judged(model: StackedModel, source: Any, val_ids: Any) -> list[tuple[list[bool], list[float]]]:
    """Of every slot: which images are right, and their losses, in double precision."""
    exact = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8)).double().eval()
    found = []
    for slot in range(NUM_SLOTS):
        for name, view in (exact.slot_parameters(0) | exact.slot_statistics(0)).items():
            view.copy_((model.slot_parameters(slot) | model.slot_statistics(slot))[name])
        logits = exact(source.evaluation_images(val_ids[slot]).result().double())[:, 0].detach().tolist()
        labels = source.labels[torch.from_numpy(val_ids[slot])].tolist()
        right = [max(range(10), key=row.__getitem__) == label for row, label in zip(logits, labels, strict=True)]
        losses = [
            math.log(math.fsum(math.exp(v - row[label]) for v in row)) for row, label in zip(logits, labels, strict=True)
        ]
        found.append((right, losses))
    return found


def recipe(per_forward: int, **fields: Any) -> Recipe:
    return changed(Recipe(), {"images_per_evaluation": per_forward, **fields})


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


def on_processes(num_processes: int, model: StackedModel, source: Any, ids: Any, chosen: Recipe) -> list[list[Evaluation]]:
    collected: list[list[Tensor]] = []
    for _ in range(2):
        found = [
            evaluate(model, source, ids, chosen, PartOfMany(process, num_processes, collected), CPU)
            for process in range(num_processes)
        ]
    return found


@pytest.mark.parametrize("per_forward", [1000, 837, 279, 100])
def test_counts_equal_a_plain_loop(
    model: StackedModel, source: Any, val_ids: Any, judged: Any, per_forward: int
) -> None:  # D5
    """One image at a time in double precision; 837 images, the last pass of 100 has 37."""
    found = evaluate(model, source, val_ids, recipe(per_forward), World(), CPU)
    for evaluation, (right, losses) in zip(found, judged, strict=True):
        assert (evaluation.correct, evaluation.images) == (sum(right), 837)
        assert evaluation.loss == pytest.approx(math.fsum(losses) / 837, rel=1e-6)
        assert evaluation.accuracy == sum(right) / 837
    assert len({evaluation.correct for evaluation in found}) > 1  # the slots are told apart
    assert model.training


@pytest.mark.parametrize("num_processes", [2, 3, 5, 11])
@pytest.mark.parametrize("evaluation", ["exact", "batch-means"])
def test_processes_change_no_digit(
    model: StackedModel, source: Any, val_ids: Any, num_processes: int, evaluation: str
) -> None:  # D5
    """11 processes for 9 passes leave two idle."""
    chosen = recipe(100, evaluation=evaluation)
    alone = evaluate(model, source, val_ids, chosen, World(), CPU)
    assert on_processes(num_processes, model, source, val_ids, chosen) == [alone] * num_processes


def as_a_sampler_deals(values: list[Any], num_workers: int, per_batch: int) -> float:
    """The mean over processes of the mean over batches of the mean over images, with torch's own distributed sampler."""
    of_processes = []
    for rank in range(num_workers):
        mine = list(DistributedSampler(range(len(values)), num_replicas=num_workers, rank=rank, shuffle=False))
        batches = [mine[start : start + per_batch] for start in range(0, len(mine), per_batch)]
        means = [math.fsum(float(values[place]) for place in batch) / len(batch) for batch in batches]
        of_processes.append(math.fsum(means) / len(means))
    return math.fsum(of_processes) / num_workers


@pytest.mark.parametrize(
    ("grid", "num_images", "per_batch"),
    [
        ("1x4x8", 837, 64),  # 210 each, three repeated: batches of 64, 64, 64 and 18
        ("2x3x8", 837, 100),  # 140 each
        ("1x1x8", 837, 256),  # nothing repeated, a last batch of 69
        ("1x4x8", 836, 209),  # nothing repeated, whole batches: the mean itself
        ("5x2x8", 7, 1),  # fewer images than workers
        ("5x4x8", 7, 4),  # so few that they are repeated more than once
        ("1x5x8", 11, 2),
    ],
)
def test_means_of_batches_are_those_of_a_distributed_sampler(
    model: StackedModel, source: Any, val_ids: Any, judged: Any, grid: str, num_images: int, per_batch: int
) -> None:
    chosen = recipe(per_batch, grid=grid, evaluation="batch-means")
    found = evaluate(model, source, [ids[:num_images] for ids in val_ids], chosen, World(), CPU)
    for evaluation, (right, losses) in zip(found, judged, strict=True):
        assert (evaluation.correct, evaluation.images) == (sum(right[:num_images]), num_images)  # as exact as ever
        expected = as_a_sampler_deals(right[:num_images], chosen.grid.num_workers, per_batch)
        assert evaluation.accuracy == pytest.approx(expected, rel=1e-12)
        expected = as_a_sampler_deals(losses[:num_images], chosen.grid.num_workers, per_batch)
        assert evaluation.loss == pytest.approx(expected, rel=1e-6)
        if num_images == 836:
            assert evaluation.accuracy == pytest.approx(sum(right[:836]) / 836, rel=1e-12)
        if num_images == 837:
            assert evaluation.accuracy != sum(right) / 837


def test_means_of_batches_by_hand() -> None:
    """Five images: one worker has the first, third and fifth, the other the second, fourth and again the first.

    In batches of two the first has (1 + 0) / 2 and 1, the other (0 + 1) / 2 and 1.
    """
    assert _mean_of_batches(torch.tensor([1.0, 0, 0, 1, 1]), 2, 2) == 0.75
    assert as_a_sampler_deals([1, 0, 0, 1, 1], 2, 2) == 0.75


@pytest.mark.parametrize(
    ("num_held", "wanted", "expected"),
    [
        (10, 3, [0, 3, 6]),
        (10, 4, [0, 2, 5, 7]),
        (10, 10, list(range(10))),
        (10, 99, list(range(10))),
        (10, None, list(range(10))),
        (7, 1, [0]),
        (5, 4, [0, 1, 2, 3]),
    ],
)
def test_fewer_validation_images_are_spread_evenly(num_held: int, wanted: int | None, expected: list[int]) -> None:
    class Holding:
        def split(self, seed: int) -> Split:
            return Split(np.arange(3), 100 * seed + np.arange(num_held))

    found = evaluated_ids(Holding(), Recipe(seed=2, val_images=wanted))  # type: ignore[arg-type]
    assert found.tolist() == [200 + place for place in expected]


def test_the_spread_images_are_those_of_the_seed(source: Any) -> None:
    held = stratified_split(source.labels.numpy(), 960, 5).val
    found = evaluated_ids(source, Recipe(seed=5, train_images=960, val_images=30))
    assert found.tolist() == [held[837 * number // 30] for number in range(30)]
    assert len(set(source.labels[torch.from_numpy(found)].tolist())) > 5  # not those of a class or two


OWN = """
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 36, num_classes)

    def forward(self, images):
        return self.fc(F.relu(self.bn(self.conv(images))).flatten(1))
"""


def test_bfloat16_is_torchs_autocast(source: Any, tmp_path: Path) -> None:
    """A user's own module, evaluated by torch alone: the same integers; the loss is taken in float32."""
    (tmp_path / "net.py").write_text(OWN)
    adapted = build_model(f"{tmp_path / 'net.py'}:Net", num_classes=10, image_shape=(1, 8, 8))
    adapted.initialise(0, 7)
    space: dict[str, Any] = {}
    exec(OWN, space)
    theirs = space["Net"](10, (1, 8, 8)).eval()
    theirs.load_state_dict({**adapted.slot_parameters(0), **adapted.slot_statistics(0)}, strict=False)
    ids = source.split(0).val
    images, labels = source.evaluation_images(ids).result(), source.labels[torch.from_numpy(ids)]
    with torch.no_grad():
        exact = theirs(images)
        with torch.autocast("cpu", torch.bfloat16):
            logits = theirs(images)
    assert logits.dtype == torch.bfloat16
    for precision, expected in (("bf16", logits.float()), ("fp32", exact)):
        (found,) = evaluate(adapted, source, [ids], recipe(837, precision=precision), World(), CPU)
        assert found.correct == int((expected.argmax(1) == labels).sum())
        assert found.loss == pytest.approx(F.cross_entropy(expected, labels).item(), rel=1e-6)
    assert (logits - exact).abs().max() > 1e-3  # bfloat16 has 8 bits


def test_a_loss_that_is_no_number_is_none() -> None:
    assert Evaluation(1, 4, math.inf, 0.25).finite_loss is None
    assert Evaluation(1, 4, math.nan, 0.25).finite_loss is None
    assert Evaluation(1, 4, 2.5, 0.25).finite_loss == 2.5
