"""What a run writes down: metrics, epochs, the ledger of what was applied, and digests (statements W1, L1, N3, W6, D1)."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from widestep.train import checkpoint
from widestep.train.accounts import digests, ledger_entry
from widestep.workers.engine import GradientEngine

Make = Callable[..., Any]


def epochs_of(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "epochs.csv").read_text().splitlines()))


def test_records_of_a_short_run(small: Make, train_one: Make, lines: Make, tmp_path: Path) -> None:
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
        val_images=None,
    )
    result = train_one(tmp_path / "run", recipe)
    metrics, ledger = lines(tmp_path / "run/metrics.jsonl"), lines(tmp_path / "run/ledger.jsonl")
    # 2.5 epochs of 7 steps, rounded up; the rate rises from .02 to .08 in 5 steps and falls by 10 after 7 and 12 (L1)
    rates = [0.032, 0.044, 0.056, 0.068, 0.08, 0.08, 0.08] + [0.008] * 5 + [0.0008] * 6
    assert [record["step"] for record in metrics] == [entry["step"] for entry in ledger] == list(range(18))
    assert [record["epoch"] for record in metrics] == [0] * 7 + [1] * 7 + [2] * 4
    assert [record["lr"] for record in metrics] == pytest.approx(rates, rel=1e-12)
    assert [record["images"] for record in metrics] == ([32] * 6 + [8]) * 2 + [32] * 4
    assert [entry["images"] for entry in ledger] == [record["images"] for record in metrics]
    assert [entry["gradient_scale"] for entry in ledger] == [1 / record["images"] for record in metrics]
    assert [[group["lr"] for group in entry["groups"]] for entry in ledger] == [[r["lr"]] * 2 for r in metrics]
    assert {tuple(group["weight_decay"] for group in entry["groups"]) for entry in ledger} == {(0.001, 0.0)}
    assert {(entry["clip"], entry["gain"]) for entry in ledger} == {(None, None)}
    assert not {"gain", "progress", "worker_gradient_norm"} & set(metrics[0])
    rows = epochs_of(tmp_path / "run")
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


def test_evaluations_between_epochs(small: Make, train_one: Make, lines: Make, tmp_path: Path) -> None:
    """The training loss beside each is that of the images since the one before."""
    train_one(tmp_path / "run", small(tail="short", evaluate_every="4st"))
    metrics, rows = lines(tmp_path / "run/metrics.jsonl"), epochs_of(tmp_path / "run")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8"), ("2", "12"), ("2", "14")]
    for row, (first, last) in zip(rows, ((0, 4), (4, 8), (8, 12), (12, 14)), strict=True):
        part = metrics[first:last]
        mean = sum(record["loss"] * record["images"] for record in part) / sum(record["images"] for record in part)
        assert float(row["train_loss"]) == pytest.approx(mean, rel=1e-12)


def test_fewer_records_at_wish(small: Make, train_one: Make, lines: Make, tmp_path: Path) -> None:
    """Every fourth step, the last of every epoch (of 7) and the last of all; no byte of the weights changes."""
    recipe = small(tail="short", epochs="17st")
    often = train_one(tmp_path / "often", recipe)
    seldom = train_one(tmp_path / "seldom", recipe, log_every=4, digests=True)
    for name in ("metrics", "ledger", "digests"):
        assert [entry["step"] for entry in lines(tmp_path / f"seldom/{name}.jsonl")] == [3, 6, 7, 11, 13, 15, 16]
    assert seldom.weights_sha256 == often.weights_sha256
    assert not (tmp_path / "often/digests.jsonl").exists()


def test_final_weights_are_those_of_the_result(small: Make, train_one: Make, tmp_path: Path) -> None:
    """Hashed here from the file alone: little-endian float32 in name order."""
    result = train_one(tmp_path / "run", small())
    weights = load_file(tmp_path / "run/checkpoints/final.safetensors")
    digest = hashlib.sha256(b"".join(weights[name].numpy().astype("<f4").tobytes() for name in sorted(weights)))
    assert digest.hexdigest() == result.weights_sha256
    assert "fc.weight" in weights
    assert all(np.isfinite(tensor.numpy()).all() for tensor in weights.values())


def test_the_ledger_of_a_clipped_run(small: Make, train_one: Make, lines: Make, tmp_path: Path) -> None:  # W6
    """What multiplied the sum over all images: 1/n, and the limit over the norm where that was longer."""
    train_one(tmp_path / "run", small(tail="short", clip_norm=1.0, base_lr=0.3))
    metrics, ledger = lines(tmp_path / "run/metrics.jsonl"), lines(tmp_path / "run/ledger.jsonl")
    factors = [min(1.0, 1.0 / record["gradient_norm"]) for record in metrics]
    assert 1 <= sum(factor < 1 for factor in factors) < 14
    assert [entry["clip"] for entry in ledger] == pytest.approx(factors, rel=1e-12)
    expected = [factor / record["images"] for factor, record in zip(factors, metrics, strict=True)]
    assert [entry["gradient_scale"] for entry in ledger] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("grid", "batchnorm", "expected"),
    [
        ("1x4x8", "local", [8] * 6 + [2]),  # the last step has 8 images, 2 a worker
        ("1x4x8", "group:2", [16] * 6 + [4]),
        ("1x4x8", "sync", [32] * 6 + [8]),
        ("1x12x8", "local", [8, 8, 1]),  # 8 images for 12 workers
        ("1x12x8", "group:6", [48, 48, 6]),  # the first group has 6 of them, the other 2
        ("1x1x64", "sync", [64, 64, 64, 8]),
    ],
)
def test_the_ledger_says_how_many_images_are_normalised_together(
    ready: Make, grid: str, batchnorm: str, expected: list[int]
) -> None:  # B1
    run = ready(grid=grid, batchnorm=batchnorm, tail="short", base_lr=1e-3)
    entries = [ledger_entry(run.step(number), run.batches) for number in range(len(expected))]
    assert [entry["batchnorm_images"] for entry in entries] == expected


def test_the_ledger_names_the_images(
    small: Make, train_one: Make, train_runs: Make, lines: Make, digits: Any, tmp_path: Path
) -> None:  # D1
    """The same for equal seeds, whatever the workers of an equal batch, the rate or the companions; others for another."""
    train_one(tmp_path / "a", small(seed=5))
    train_one(tmp_path / "b", small(seed=5, grid="2x1x16", base_lr=0.01, augment="shift-flip"))
    train_runs({tmp_path / "c": small(seed=5, stack=2), tmp_path / "d": small(seed=8, stack=2)})
    named = {name: [entry["image_ids"] for entry in lines(tmp_path / name / "ledger.jsonl")] for name in "abcd"}
    expected = {
        seed: [hashlib.sha256(np.array(digits.step(n, seed=seed), "<i8").tobytes()).hexdigest()[:16] for n in range(12)]
        for seed in (5, 8)
    }
    assert named == {"a": expected[5], "b": expected[5], "c": expected[5], "d": expected[8]}
    assert len({*expected[5], *expected[8]}) == 24


def test_digests_are_those_of_the_tensors(small: Make, train_one: Make, lines: Make, tmp_path: Path) -> None:
    """The last line against the files: SHA-256 of the numbers of every tensor, as they lie in memory."""
    train_one(tmp_path / "run", small(), digests=True, checkpoint_every="11st")
    found = lines(tmp_path / "run/digests.jsonl")
    assert [entry["step"] for entry in found] == list(range(12))

    def hashed(tensor: torch.Tensor) -> str:
        return hashlib.sha256(tensor.numpy().astype("<f4").tobytes()).hexdigest()[:12]

    weights = load_file(tmp_path / "run/checkpoints/final.safetensors")
    parameters = {name: hashed(tensor) for name, tensor in weights.items() if "running" not in name}
    assert found[-1]["weights"] == parameters
    assert found[-1]["gradients"].keys() == parameters.keys()
    saved = load_file(tmp_path / "run/checkpoints/step-0000011.safetensors")
    assert found[10]["statistics"] == {"batch-norm statistics": hashed(saved["running"])}
    assert found[10]["weights"] == {name: hashed(saved[f"weights/{name}"]) for name in parameters}
    # with momentum m the velocity is v' = m v + g + wd w: the first velocity holds the first gradient
    train_one(tmp_path / "first", small(weight_decay=0.0, momentum=0.5, epochs="2st"), digests=True, checkpoint_every="1st")
    velocity = load_file(tmp_path / "first/checkpoints/step-0000001.safetensors")
    (first, _) = lines(tmp_path / "first/digests.jsonl")
    for name in parameters:
        assert first["gradients"][name] == hashed(velocity[f"optimizer/{name}:momentum_buffer"])


def flipped(tensor: torch.Tensor, place: int) -> None:
    """Change the lowest bit of one number."""
    tensor.detach().view(-1).view(torch.int32)[place] ^= 1


def test_one_bit_changes_one_digest(ready: Make) -> None:
    run = ready()
    record = run.step(0)
    before = digests(record)
    assert before == digests(record)
    touched = {
        ("weights", "layer2.0.conv1.weight"): run.state.parameters["layer2.0.conv1.weight"],
        ("weights", "fc.bias"): run.state.parameters["fc.bias"],
        ("gradients", "bn1.weight"): run.state.trained["bn1.weight"].grad,
        ("statistics", "batch-norm statistics"): run.state.running,
    }
    for (kind, name), tensor in touched.items():
        flipped(tensor, tensor.numel() - 1)
        after = digests(record)
        different = {
            (part, label)
            for part in ("weights", "gradients", "statistics")
            for label in before[part]
            if after[part][label] != before[part][label]
        }
        assert different == {(kind, name)}
        flipped(tensor, tensor.numel() - 1)
        assert digests(record) == before


def test_a_bit_that_differs_shows_from_its_step_on(
    small: Make, train_one: Make, lines: Make, cuts: Any, tmp_path: Path
) -> None:
    """The lowest bit of one weight, flipped in the state after three of six steps."""
    recipe = small(epochs="6st")
    train_one(tmp_path / "whole", recipe, digests=True)
    cuts.at(GradientEngine, "gradients", 5)
    with pytest.raises(cuts.Cut):
        train_one(tmp_path / "run", recipe, digests=True, checkpoint_every="3st")
    cuts.mend()
    last = tmp_path / "run/checkpoints/step-0000003.safetensors"
    tensors, facts = checkpoint.read(last)
    flipped(tensors["weights/layer1.0.conv1.weight"], 17)
    checkpoint.write(last, tensors, facts)
    train_one(tmp_path / "run", recipe, digests=True)
    whole, run = (lines(tmp_path / name / "digests.jsonl") for name in ("whole", "run"))
    assert whole[:3] == run[:3]
    for ours, theirs in zip(whole[3:], run[3:], strict=True):
        assert ours["weights"]["layer1.0.conv1.weight"] != theirs["weights"]["layer1.0.conv1.weight"]


def test_digests_begin_where_they_are_asked_for(
    small: Make, train_one: Make, lines: Make, cuts: Any, tmp_path: Path
) -> None:
    """A run that goes on with digests has those of the steps to come, and its weights are the same."""
    cuts.at(GradientEngine, "gradients", 9)
    with pytest.raises(cuts.Cut):
        train_one(tmp_path / "run", small(), checkpoint_every="4st")
    cuts.mend()
    resumed = train_one(tmp_path / "run", small(), digests=True)
    assert [entry["step"] for entry in lines(tmp_path / "run/digests.jsonl")] == [8, 9, 10, 11]
    whole = train_one(tmp_path / "whole", small(), digests=True)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert lines(tmp_path / "whole/digests.jsonl")[8:] == lines(tmp_path / "run/digests.jsonl")
    assert json.loads((tmp_path / "run/result.json").read_text())["steps"] == 12
