"""A run that diverges stops at that step, says why, and keeps its last good weights (statement W7)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from widestep.data.split import stratified_split
from widestep.plan.randomness import Stream
from widestep.plan.recipe import Recipe
from widestep.train import session
from widestep.train.state import weights_sha256

Make = Callable[..., Any]


def final_weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "checkpoints/final.safetensors")


@pytest.mark.parametrize("base_lr", [1e4, 1e6, 1e12, 1e30])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_too_high_a_rate(small: Make, train_one: Make, tmp_path: Path, base_lr: float, momentum: float) -> None:
    result = train_one(tmp_path / "run", small(base_lr=base_lr, momentum=momentum))
    assert result.status == "diverged"
    assert 1 <= result.steps <= 5
    assert f"at step {result.steps} (epoch 0) with rate {base_lr:.6g}" in result.reason
    weights = final_weights(tmp_path / "run")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    # A run that was to end just before the failing step has the same weights.
    shorter = train_one(tmp_path / "shorter", small(base_lr=base_lr, momentum=momentum, epochs=f"{result.steps}st"))
    assert shorter.status == "complete"
    assert shorter.weights_sha256 == result.weights_sha256 == weights_sha256(weights)
    assert (result.val_correct, result.val_loss) == (shorter.val_correct, shorter.val_loss)


def test_what_a_diverged_run_leaves(small: Make, train_one: Make, tmp_path: Path) -> None:
    result = train_one(tmp_path / "run", small(base_lr=1e30))
    assert (tmp_path / "run/STATUS").read_text() == "diverged\n"
    assert json.loads((tmp_path / "run/result.json").read_text())["reason"] == result.reason
    events = [json.loads(line)["event"] for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert events == ["started", "diverged"]
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(result.steps))
    norms = ", ".join(f"{record['gradient_norm']:.3g}" for record in records)
    assert result.reason.endswith(f"gradient norms before: {norms}")


class WithDamage:
    """The digits with one image that turns into NaN when it is trained on."""

    def __init__(self, source: Any, damaged: int) -> None:
        self._source, self._damaged = source, damaged
        self.facts, self.labels = source.facts, source.labels
        self.split, self.evaluation_images, self.close = source.split, source.evaluation_images, source.close

    def training_images(self, ids: Any, keys: Any) -> torch.Tensor:
        images = self._source.training_images(ids, keys)
        images[torch.from_numpy(np.asarray(ids) == self._damaged), 0, 4, 4] = float("nan")
        return images


@pytest.mark.parametrize(
    ("together", "named"), [(1, "first in worker 2;"), (3, "first in workers 0-2;"), (2, "first in workers 2-3;")]
)
def test_the_worker_with_a_damaged_image_is_named(
    small: Make, train_one: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int, named: str
) -> None:
    """The second image of worker 2 at step 3: it takes positions w, w + W, ... of the step's 32."""
    labels = session.open_source("digits", augment="none", image_size=None, train_images=200, num_threads=0).labels
    train = stratified_split(labels.numpy(), 200, seed=0).train
    damaged = int(train[Stream(0, "order").permutation(200, 0)[3 * 32 + 1 * 4 + 2]])
    opened = session.open_source
    monkeypatch.setattr(session, "open_source", lambda *spec, **options: WithDamage(opened(*spec, **options), damaged))
    result = train_one(tmp_path / "run", small(workers_per_forward=together))
    assert (result.status, result.steps) == ("diverged", 3)
    assert named in result.reason
    monkeypatch.undo()
    shorter = train_one(tmp_path / "shorter", small(workers_per_forward=together, epochs="3st"))
    assert result.weights_sha256 == shorter.weights_sha256


def test_the_best_weights_before_are_kept(small: Make, train_one: Make, tmp_path: Path) -> None:
    """An epoch goes well, then the rate jumps."""
    recipe = small(warmup="6st", warmup_shape="constant", warmup_start=0.05, base_lr=1e30)
    result = train_one(tmp_path / "run", recipe)
    assert (result.status, result.steps) == ("diverged", 7)
    calm: Recipe = small(base_lr=0.05, epochs="6st")
    good = train_one(tmp_path / "good", calm)
    best = load_file(tmp_path / "run/checkpoints/best.safetensors")
    assert weights_sha256(best) == good.weights_sha256
    assert result.best_val_accuracy == good.val_accuracy > result.val_accuracy
