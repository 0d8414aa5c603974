"""Study and run directories as training would leave them, with accuracies that the test decides."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest

from widestep.plan.recipe import Recipe
from widestep.plan.recipes import to_toml as recipe_toml
from widestep.plan.runplan import RunPlan
from widestep.records.result import RunResult
from widestep.records.run import EPOCH_COLUMNS
from widestep.study.study import Cell, Study, to_toml

VAL_IMAGES = 837
ENVIRONMENT = {"widestep": "0.1.0", "torch": "2.13.0", "processor": "Fake CPU", "host": "secret-host-name"}


@dataclass(frozen=True)
class Planned:
    """What a fake run comes to: the number of right validation images at the end, and the status."""

    val_correct: int
    status: str = "complete"


def write_run(directory: Path, recipe: Recipe, planned: Planned, rng: np.random.Generator, num_train: int = 960) -> None:
    directory.mkdir(parents=True)
    plan = RunPlan(recipe, num_train)
    epochs = np.arange(1, plan.num_epochs + 1)
    share = np.clip(1 - 0.9 * np.exp(-epochs / 4.0) + rng.normal(0, 0.01, len(epochs)) * np.exp(-epochs / 15), 0.1, 1)
    correct = np.clip(np.rint(share * planned.val_correct).astype(int), 0, VAL_IMAGES)
    correct[-1] = planned.val_correct
    lines = [",".join(EPOCH_COLUMNS)]
    for epoch, right in zip(epochs.tolist(), correct.tolist(), strict=True):
        step = min(epoch * plan.steps_per_epoch, plan.total_steps)
        row = [epoch, step, plan.schedule(step - 1), 1 / epoch, 1 / epoch, right, VAL_IMAGES, right / VAL_IMAGES]
        lines.append(",".join(repr(value) for value in row))
    result = RunResult(
        status=planned.status,
        recipe_fingerprint=recipe.fingerprint,
        weights_sha256="0" * 64,
        global_batch=recipe.grid.global_batch,
        num_workers=recipe.grid.num_workers,
        images_per_worker=recipe.grid.images_per_worker,
        steps=plan.total_steps,
        epochs=plan.total_steps / plan.steps_per_epoch,
        train_images_seen=plan.total_images,
        val_images=VAL_IMAGES,
        val_correct=planned.val_correct,
        val_accuracy=planned.val_correct / VAL_IMAGES,
        val_loss=0.1,
        median_last5_val_accuracy=float(np.median(correct[-5:])) / VAL_IMAGES,
        best_val_accuracy=int(correct.max()) / VAL_IMAGES,
        seed=recipe.seed,
        mode="reproducible",
        images_per_second=1000.0,
        wall_seconds=1.5,
        interruptions=0,
        reason="the loss is not finite at step 12" if planned.status == "diverged" else None,
    )
    (directory / "recipe.toml").write_text(recipe_toml(recipe))
    (directory / "epochs.csv").write_text("\n".join(lines) + "\n")
    (directory / "result.json").write_text(json.dumps(asdict(result)))
    (directory / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (directory / "STATUS").write_text(planned.status + "\n")


Outcome = Callable[[Cell, int, np.random.Generator], Planned | None]


def write_study(directory: Path, study: Study, outcome: Outcome) -> Path:
    """Write a study directory; `outcome(cell, seed, rng)` plans each trial, None leaves it to the next arm or out."""
    rng = np.random.default_rng(7)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "study.toml").write_text(to_toml(study))
    written = set()
    for arm in study.arms:
        for cell in study.cells(arm):
            for seed in study.seeds:
                name = cell.fingerprint(seed)
                planned = outcome(cell, seed, rng) if name not in written else None
                if planned is not None:
                    written.add(name)
                    recipe = cell.recipe.model_copy(update={"seed": seed})
                    write_run(directory / "trials" / name, recipe, planned, rng)
    return directory


@pytest.fixture(scope="session")
def fakes():
    """The writers above, for tests (modules of a test directory are not importable)."""

    class Fakes:
        planned = Planned
        run = staticmethod(write_run)
        study = staticmethod(write_study)
        val_images = VAL_IMAGES

    return Fakes


STUDY = """
name = "small"
title = "A small study"
recipe = "digits"
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8]
margin = 0.5

[arms.batch]
label = "Three batches"
axes = { grid = ["4x1x8", "10x1x8", "40x1x8"] }

[arms.warm-10]
label = "Warmup at 10 workers"
set = { grid = "10x1x8" }
axes = { warmup = ["0ep", "2ep", "4ep", "8ep"] }

[arms.warm-40]
label = "Warmup at 40 workers"
set = { grid = "40x1x8" }
axes = { warmup = ["0ep", "2ep", "12st", "8ep"] }

[arms.rule]
set = { grid = "40x1x8", warmup = "3ep" }
axes = { scaling = ["linear", "sqrt", "none"] }

[claims.a]
text = "Accuracy falls with the batch."
test = "falls"
arms = ["batch"]
axis = "grid"

[claims.b]
text = "No warmup is worst."
test = "worst"
arms = ["warm-40"]
axis = "warmup"

[claims.c]
text = "Too long a warmup is worse."
test = "too-long"
arms = ["warm-40"]
axis = "warmup"

[claims.d]
text = "The best warmup grows."
test = "optimum-grows"
arms = ["warm-10", "warm-40"]
axis = "warmup"

[claims.e]
text = "Linear and none are equal."
test = "equivalent"
arms = ["rule"]
axis = "scaling"
between = ["linear", "none"]

[[figures]]
number = 1
kind = "layout"
arm = "batch"
title = "Workers"

[[figures]]
number = 2
kind = "curves"
arm = "batch"
title = "By epoch"

[[figures]]
number = 3
kind = "zoomed"
arm = "warm-40"
title = "By epoch, zoomed in"

[[figures]]
number = 4
kind = "final"
arm = "warm-40"
title = "Final accuracy"

[[figures]]
number = 5
kind = "final"
arm = "rule"
title = "Scaling"
"""


@pytest.fixture(scope="session")
def small_text():
    return STUDY
