"""One optimizer step, and the records of a short run (statements W1, W5, L1, B2)."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from widestep.data.source import open_source
from widestep.models.build import build_model
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.train.batches import Batches
from widestep.train.state import TrainState
from widestep.train.step import take_step
from widestep.workers.engine import GradientEngine
from widestep.workers.placement import Placement
from widestep.workers.world import World

CPU = torch.device("cpu")


class Ready:
    """A run in place before its first step."""

    def __init__(self, recipe: Recipe) -> None:
        self.source = open_source("digits", augment="none", image_size=None, train_images=200, num_threads=0)
        self.plan = RunPlan(recipe, 200)
        self.model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8))
        self.state = TrainState(self.model, 0, self.plan)
        self.batches = Batches(self.source, [self.plan], CPU)
        placement = Placement(recipe.grid.num_workers, recipe.workers_per_forward, 1)
        self.engine = GradientEngine(self.model, World(), placement)

    def step(self, number: int) -> Any:
        (record,), stopping = take_step(self.model, [self.state], self.engine, self.batches, number)
        assert record.taken
        assert not stopping
        return record


@pytest.mark.parametrize("grid", ["1x1x32", "2x2x8", "1x16x2"])
def test_decay_is_added_once_to_the_averaged_gradient(small: Callable[..., Recipe], grid: str) -> None:  # W5
    run = Ready(small(grid=grid, momentum=0.0, weight_decay=0.3, base_lr=0.05))
    before = torch.cat([view.flatten().clone() for view in run.state.parameters.values()]).double().detach()
    gradient = run.engine.gradients(run.batches.at(0), 32).gradients[0].double()
    run.step(0)
    after = torch.cat([view.flatten() for view in run.state.parameters.values()]).double().detach()
    torch.testing.assert_close(after, before - 0.05 * (gradient + 0.3 * before), rtol=0, atol=3e-7)


@pytest.mark.parametrize(("grid", "together"), [("1x4x8", 1), ("1x4x8", 4), ("1x1x32", 1)])
def test_running_statistics_move_once_a_step(small: Callable[..., Recipe], grid: str, together: int) -> None:  # B2
    """The start keeps .9 of its weight, not .9 to the power of the number of workers or of forward passes."""
    run = Ready(small(grid=grid, workers_per_forward=together))
    batch = run.engine.gradients(run.batches.at(0), 32).batch_statistics[0]
    run.step(0)
    width = run.model.bn1.running_mean.numel()
    statistics = run.state.statistics
    torch.testing.assert_close(statistics["bn1.running_mean"], 0.1 * batch[:width], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(statistics["bn1.running_var"], 0.9 + 0.1 * batch[width : 2 * width], rtol=1e-6, atol=1e-7)


def test_the_tally_counts_images(small: Callable[..., Recipe]) -> None:
    run = Ready(small(tail="short"))
    losses = [run.step(number).statistics for number in range(7)]
    assert [found.num_images for found in losses] == [32] * 6 + [8]
    tally = run.state.tally
    assert (tally.step, tally.images_seen, tally.epoch_images) == (7, 200, 200)
    assert tally.epoch_loss == pytest.approx(sum(found.loss * found.num_images for found in losses))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_of_a_short_run(small: Callable[..., Recipe], train_one: Callable[..., Any], tmp_path: Path) -> None:
    recipe = small(
        tail="short",
        epochs="2.5",
        base_lr=0.02,
        scaling="per-worker",
        warmup="5st",
        lr_decay="step",
        decay_at="7st,12st",
        weight_decay=0.001,
        decay_exempt="batchnorm",
    )
    result = train_one(tmp_path / "run", recipe)
    metrics, ledger = lines(tmp_path / "run/metrics.jsonl"), lines(tmp_path / "run/ledger.jsonl")
    # 2.5 epochs of 7 steps, rounded up; the rate rises from .02 to .08 in 5 steps and falls by 10 after 7 and 12 (L1)
    rates = [0.032, 0.044, 0.056, 0.068, 0.08, 0.08, 0.08] + [0.008] * 5 + [0.0008] * 6
    assert [record["step"] for record in metrics] == list(range(18))
    assert [record["epoch"] for record in metrics] == [0] * 7 + [1] * 7 + [2] * 4
    assert [record["lr"] for record in metrics] == pytest.approx(rates, rel=1e-12)
    assert [record["images"] for record in metrics] == ([32] * 6 + [8]) * 2 + [32] * 4
    assert [[group["lr"] for group in entry["groups"]] for entry in ledger] == [[r["lr"]] * 2 for r in metrics]
    assert {tuple(group["weight_decay"] for group in entry["groups"]) for entry in ledger} == {(0.001, 0.0)}
    rows = list(csv.DictReader((tmp_path / "run/epochs.csv").read_text().splitlines()))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "7"), ("2", "14"), ("3", "18")]
    for row, (first, last) in zip(rows, ((0, 7), (7, 14), (14, 18)), strict=True):
        part = metrics[first:last]
        mean = sum(record["loss"] * record["images"] for record in part) / sum(record["images"] for record in part)
        assert float(row["train_loss"]) == pytest.approx(mean, rel=1e-12)  # W1
        assert float(row["lr"]) == part[-1]["lr"]
    assert (result.status, result.steps, result.train_images_seen) == ("complete", 18, 528)
    assert result.epochs == pytest.approx(18 / 7)
    accuracies = [float(row["val_accuracy"]) for row in rows]
    assert result.val_accuracy == accuracies[-1]  # N3
    assert result.median_last5_val_accuracy == sorted(accuracies)[1]
    assert result.best_val_accuracy == max(accuracies)
    assert (result.val_images, result.val_correct) == (1597, round(accuracies[-1] * 1597))


def test_evaluations_between_epochs(small: Callable[..., Recipe], train_one: Callable[..., Any], tmp_path: Path) -> None:
    """They change no weight, and the training loss beside each is that of the images since the one before."""
    usual = train_one(tmp_path / "usual", small(tail="short"))
    result = train_one(tmp_path / "often", small(tail="short", evaluate_every="4st"))
    assert result.weights_sha256 == usual.weights_sha256
    metrics = lines(tmp_path / "often/metrics.jsonl")
    rows = list(csv.DictReader((tmp_path / "often/epochs.csv").read_text().splitlines()))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8"), ("2", "12"), ("2", "14")]
    for row, (first, last) in zip(rows, ((0, 4), (4, 8), (8, 12), (12, 14)), strict=True):
        part = metrics[first:last]
        mean = sum(record["loss"] * record["images"] for record in part) / sum(record["images"] for record in part)
        assert float(row["train_loss"]) == pytest.approx(mean, rel=1e-12)


def test_final_weights_are_those_of_the_result(
    small: Callable[..., Recipe], train_one: Callable[..., Any], tmp_path: Path
) -> None:
    """Hashed here from the file alone: little-endian float32 in name order."""
    from hashlib import sha256

    result = train_one(tmp_path / "run", small())
    weights = load_file(tmp_path / "run/checkpoints/final.safetensors")
    digest = sha256(b"".join(weights[name].numpy().astype("<f4").tobytes() for name in sorted(weights)))
    assert digest.hexdigest() == result.weights_sha256
    assert "fc.weight" in weights
    assert all(np.isfinite(tensor.numpy()).all() for tensor in weights.values())
