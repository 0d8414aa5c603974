"""A study whose runs left everything that a certificate rests on: weights, ledger, history, and accuracies of our choice."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from widestep.plan.recipe import Recipe
from widestep.plan.recipes import to_toml as recipe_toml
from widestep.plan.runplan import RunPlan
from widestep.records.result import RunResult
from widestep.records.run import EPOCH_COLUMNS
from widestep.study.study import Cell, Study, parse, to_toml
from widestep.train import checkpoint
from widestep.train.state import weights_sha256

VAL_IMAGES = 1000
TEXT = """
name = "careful"
title = "Is a warmup needed?"
recipe = "digits"
seeds = [3, 1, 4, 15, 9, 2, 6, 5]
margin = 0.5

[set]
epochs = "4ep"
decay_at = ["3ep"]

[arms.warm]
axes = { warmup = ["0ep", "1ep", "2ep"] }

[arms.rate]
axes = { base_lr = [0.02, 0.05], warmup = ["0ep", "1ep"] }

[arms.alone]
set = { momentum = 0.5 }
"""
ENVIRONMENT = {
    "widestep": "0.1.0",
    "source": "00112233aabbccdd",
    "torch": "2.13.0",
    "device": "cpu",
    "instructions": "AVX512",
    "processor": "Fake CPU",
    "host": "secret-host-name",
    "processes": 2,
    "data": "digits",
    "data_fingerprint": "87ff0c9e",
    "model_fingerprint": "shipped",
}
Correct = Callable[[Cell, int], int]


def careful_study() -> Study:
    """Three arms, eight seeds."""
    return parse(TEXT)


def write_careful_study(directory: Path, correct: Correct, study: Study | None = None) -> Path:
    """Write the study with `correct(cell, seed)` right images of 1,000 for every run."""
    study = study or careful_study()
    directory.mkdir(parents=True)
    (directory / "study.toml").write_text(to_toml(study))
    for arm in study.arms:
        for cell in study.cells(arm):
            for seed in study.seeds:
                place = directory / "trials" / cell.fingerprint(seed)
                if not place.exists():
                    write_careful_run(place, cell.recipe.model_copy(update={"seed": seed}), correct(cell, seed))
    return directory


def write_careful_run(place: Path, recipe: Recipe, correct: int) -> None:
    """Write one run: its weights are a function of its fingerprint."""
    (place / "checkpoints").mkdir(parents=True)
    plan = RunPlan(recipe, 898)
    drawn = torch.Generator().manual_seed(int(hashlib.sha256(recipe.fingerprint.encode()).hexdigest()[:8], 16))
    weights = {"w": torch.randn(3, 2, generator=drawn), "bias": torch.randn(4, generator=drawn)}
    digest, steps = weights_sha256(weights), plan.total_steps
    facts = {"recipe": recipe.fingerprint, "step": steps, "sha256_of_weights": digest}
    facts |= {"val_correct": correct, "val_images": VAL_IMAGES}
    checkpoint.write(place / "checkpoints" / "final.safetensors", weights, facts)
    share = correct / VAL_IMAGES
    result = RunResult(
        status="complete",
        recipe_fingerprint=recipe.fingerprint,
        weights_sha256=digest,
        global_batch=recipe.grid.global_batch,
        num_workers=recipe.grid.num_workers,
        images_per_worker=recipe.grid.images_per_worker,
        steps=steps,
        epochs=plan.total_steps / plan.steps_per_epoch,
        train_images_seen=plan.total_images,
        val_images=VAL_IMAGES,
        val_correct=correct,
        val_accuracy=share,
        val_loss=0.1,
        median_last5_val_accuracy=share,
        best_val_accuracy=share,
        seed=recipe.seed,
        mode="reproducible",
        images_per_second=1000.0,
        wall_seconds=90.0,
        interruptions=0,
    )
    row = [plan.num_epochs, steps, 0.01, 0.5, 0.1, correct, VAL_IMAGES, share]
    (place / "recipe.toml").write_text(recipe_toml(recipe))
    (place / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (place / "epochs.csv").write_text(",".join(EPOCH_COLUMNS) + "\n" + ",".join(map(repr, row)) + "\n")
    (place / "ledger.jsonl").write_text("".join(ledger_line(plan, step) for step in range(steps)))
    (place / "history.jsonl").write_text(json.dumps({"event": "complete", "time": "", "process": 1, "step": steps}) + "\n")
    (place / "result.json").write_text(json.dumps(asdict(result)))
    (place / "STATUS").write_text("complete\n")


def ledger_line(plan: RunPlan, step: int) -> str:
    """What the optimizer would have been told at a step."""
    momentum = plan.recipe.momentum
    group = {"name": "decayed", "lr": plan.lr(step), "weight_decay": 5e-05, "momentum": momentum, "nesterov": False}
    group["num_tensors"] = 2
    record = {"step": step, "groups": [group], "images": 32, "gradient_scale": 0.03125, "clip": None, "gain": None}
    return json.dumps(record | {"batchnorm_images": 8, "image_ids": f"{plan.recipe.seed:016x}"}) + "\n"
