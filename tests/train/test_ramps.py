"""Runs whose workers become more while they train: images, rates, ends of epochs, and going on (statements L1, R1)."""

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from widestep.workers.engine import GradientEngine

Make = Callable[..., Any]
FIELDS = {"grid": "1x2x8", "worker_ramp": "1ep:4,2ep:12", "epochs": "3", "scaling": "per-worker", "base_lr": 0.01}
"""200 images: 12 steps of 16, then 6 of 32, then 2 of 96."""
SIZES = [16] * 12 + [32] * 6 + [96] * 2


def test_the_records_of_a_ramp(small: Make, train_one: Make, lines: Make, digits: Any, tmp_path: Path) -> None:
    """The rate is that of the workers at hand: .02, .04 and .12; it falls by 10 after 15 steps, in the second epoch."""
    recipe = small(**FIELDS, lr_decay="step", decay_at="15st", clip_norm=100.0)
    result = train_one(tmp_path / "run", recipe)
    metrics, ledger = lines(tmp_path / "run/metrics.jsonl"), lines(tmp_path / "run/ledger.jsonl")
    assert [record["epoch"] for record in metrics] == [0] * 12 + [1] * 6 + [2] * 2
    assert [record["images"] for record in metrics] == [entry["images"] for entry in ledger] == SIZES
    rates = [0.02] * 12 + [0.04] * 3 + [0.004] * 3 + [0.012] * 2
    assert [record["lr"] for record in metrics] == pytest.approx(rates, rel=1e-12)
    assert [entry["groups"][0]["lr"] for entry in ledger] == [record["lr"] for record in metrics]
    assert [entry["gradient_scale"] for entry in ledger] == [1 / size for size in SIZES]
    assert {entry["batchnorm_images"] for entry in ledger} == {8}
    ids = [
        digits.epoch(epoch)[start : start + size]
        for epoch, size in enumerate((16, 32, 96))
        for start in range(0, 200 - size + 1, size)
    ]
    expected = [hashlib.sha256(np.array(step, "<i8").tobytes()).hexdigest()[:16] for step in ids]
    assert [entry["image_ids"] for entry in ledger] == expected
    rows = list(csv.DictReader((tmp_path / "run/epochs.csv").read_text().splitlines()))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "12"), ("2", "18"), ("3", "20")]
    for row, (first, last) in zip(rows, ((0, 12), (12, 18), (18, 20)), strict=True):
        mean = sum(record["loss"] for record in metrics[first:last]) / (last - first)
        assert float(row["train_loss"]) == pytest.approx(mean, rel=1e-12)
    assert (result.steps, result.epochs, result.train_images_seen) == (20, 3.0, 192 * 3)


def test_a_sync_ramp_normalises_more_and_more_images(
    small: Make, train_one: Make, lines: Make, tmp_path: Path
) -> None:  # B1
    train_one(tmp_path / "run", small(**FIELDS, batchnorm="sync"))
    assert [entry["batchnorm_images"] for entry in lines(tmp_path / "run/ledger.jsonl")] == SIZES


@pytest.mark.parametrize("scaling", ["per-worker", "adascale"])
def test_a_ramp_cut_off_goes_on(
    small: Make, train_one: Make, content: Make, cuts: Any, tmp_path: Path, scaling: str
) -> None:  # R1
    """Saved before workers join and cut off after; saved where they join; and in a later stage."""
    fields = {"dropout": 0.2, "augment": "shift-flip", "workers_per_forward": 4, "tail": "short"}
    recipe = small(**{**FIELDS, **fields, "scaling": scaling, "epochs": "2", "worker_ramp": "1ep:4"})
    train_one(tmp_path / "whole", recipe)  # 13 steps of up to 16 images, then some of up to 32
    saves_and_cuts = (("6st", 8), ("6st", 9), ("1ep", 3))  # saved after 6, 12 and 13 steps; cut off after 7, 14 and 14
    for every, nth in saves_and_cuts:
        cuts.at(GradientEngine, "gradients", nth)
        with pytest.raises(cuts.Cut):
            train_one(tmp_path / "run", recipe, checkpoint_every=every)
        cuts.mend()
    assert train_one(tmp_path / "run", recipe).interruptions == 3
    assert content(tmp_path / "run") == content(tmp_path / "whole")
