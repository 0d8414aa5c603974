"""A run that diverges stops at that step, says why, and keeps its last good weights (statement W7)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from widestep.data.loading import Computed, Images
from widestep.models.build import build_model
from widestep.plan.randomness import Stream
from widestep.plan.recipe import Recipe
from widestep.records.run import open_existing
from widestep.train import session
from widestep.train.assess import assess
from widestep.train.state import weights_sha256

Make = Callable[..., Any]


def final_weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "checkpoints/final.safetensors")


@pytest.mark.parametrize(("base_lr", "momentum"), [(1e4, 0.9), (1e6, 0.0), (1e12, 0.9), (1e30, 0.0)])
def test_too_high_a_rate(small: Make, train_one: Make, tmp_path: Path, base_lr: float, momentum: float) -> None:
    fields = {"base_lr": base_lr, "momentum": momentum, "batchnorm_recompute": "never"}
    result = train_one(tmp_path / "run", small(**fields))
    assert result.status == "diverged"
    assert 1 <= result.steps <= 5
    assert f"at step {result.steps} (epoch 0) with rate {base_lr:.6g}" in result.reason
    weights = final_weights(tmp_path / "run")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    # A run that was to end just before the failing step has the same weights.
    shorter = train_one(tmp_path / "shorter", small(**fields, epochs=f"{result.steps}st"))
    assert shorter.status == ("complete" if shorter.val_loss is not None else "diverged")
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
    """The digits with one image that is multiplied by something when it is trained on."""

    def __init__(self, source: Any, damaged: int, factor: float) -> None:
        self._source, self._damaged, self._factor = source, damaged, factor
        self.facts, self.labels = source.facts, source.labels
        self.split, self.evaluation_images, self.close = source.split, source.evaluation_images, source.close

    def training_images(self, ids: Any, keys: Any) -> Images:
        images = self._source.training_images(ids, keys).result()
        images[torch.from_numpy(np.asarray(ids) == self._damaged)] *= self._factor
        return Computed(lambda: images)


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Let an image be damaged in the runs to come."""
    opened = session.open_recipe_data

    def arrange(image: int, factor: float) -> None:
        monkeypatch.setattr(
            session, "open_recipe_data", lambda *spec, **options: WithDamage(opened(*spec, **options), image, factor)
        )

    return arrange


@pytest.mark.parametrize(
    ("together", "named"), [(1, "first in worker 2;"), (3, "first in workers 0-2;"), (2, "first in workers 2-3;")]
)
@pytest.mark.parametrize("factor", [float("nan"), 1e19], ids=["loss", "variance"])
def test_the_worker_with_a_damaged_image_is_named(
    small: Make, train_one: Make, digits: Any, damage: Make, tmp_path: Path, together: int, named: str, factor: float
) -> None:
    """The second image of worker 2 at step 3: it takes positions w, w + W, ... of the step's 32."""
    damage(digits.step(3)[1 * 4 + 2], factor)
    recipe = small(workers_per_forward=together, batchnorm_recompute="never")
    result = train_one(tmp_path / "run", recipe)
    assert (result.status, result.steps) == ("diverged", 3)
    assert named in result.reason
    assert ("a batch-norm statistic not finite" in result.reason) == (factor == 1e19)
    shorter = train_one(tmp_path / "shorter", small(**{**recipe.values(), "epochs": "3st"}))
    assert result.weights_sha256 == shorter.weights_sha256


@pytest.mark.parametrize(
    ("policy", "followed"), [("mean", "mean"), ("pooled", "pooled"), ("last", "last"), ("precise", "mean")]
)
def test_a_diverged_run_is_judged_with_its_running_statistics(
    small: Make,
    train_one: Make,
    plain: Make,
    digits: Any,
    held: Make,
    damage: Make,
    tmp_path: Path,
    policy: str,
    followed: str,
) -> None:  # B3, W7
    """Nothing is computed anew at weights that may be on their way to infinity: after three steps the start still weighs."""
    damage(digits.step(3)[0], float("nan"))
    result = train_one(tmp_path / "run", small(base_lr=0.3, batchnorm_running=policy))
    assert (result.status, result.steps) == ("diverged", 3)
    same = small(base_lr=0.3, batchnorm_running=followed, batchnorm_recompute="never", epochs="3st")
    assert train_one(tmp_path / "shorter", same).weights_sha256 == result.weights_sha256
    weights = final_weights(tmp_path / "run")
    right, losses = plain(weights).judged(digits.validation(300), held(weights))
    assert (result.val_correct, result.val_images) == (sum(right), 300)
    assert result.val_loss == pytest.approx(sum(losses) / 300, rel=1e-5)
    run = open_existing(tmp_path / "run")
    assert assess(run, run.checkpoints / "final.safetensors")["val_correct"] == result.val_correct  # D5


def test_a_run_that_fails_at_once_has_its_first_weights(
    small: Make, train_one: Make, digits: Any, damage: Make, tmp_path: Path
) -> None:
    """Nothing was trained: the initial weights and statistics, no norms before, no record of a step."""
    damage(digits.step(0)[0], float("nan"))
    result = train_one(tmp_path / "run", small(scaling="adascale", workers_per_forward=1))
    assert (result.status, result.steps, result.train_images_seen) == ("diverged", 0, 0)
    assert result.reason.endswith("with rate 0.1, first in worker 0; gradient norms before: none")
    made = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8))
    made.initialise(0, Stream(0, "init").key())
    for name, tensor in {**made.slot_parameters(0), **made.slot_statistics(0)}.items():
        assert final_weights(tmp_path / "run")[name].equal(tensor)
    assert (tmp_path / "run/metrics.jsonl").read_text() == ""


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
