"""Short runs on the digits, trained within the test's process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from widestep.cli.console import SilentWatcher
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe
from widestep.plan.recipes import changed
from widestep.records.result import RunResult
from widestep.records.run import Run
from widestep.train.loop import train
from widestep.workers.world import World

SMALL = {
    "grid": "1x4x8",
    "train_images": 200,
    "epochs": "2",
    "scaling": "none",
    "base_lr": 0.1,
    "warmup": "0",
    "lr_decay": "constant",
    "images_per_evaluation": 500,
}


@pytest.fixture(scope="session")
def small() -> Callable[..., Recipe]:
    """A recipe of 4 workers and 2 epochs of 6 steps, with some fields changed."""

    def make(**fields: Any) -> Recipe:
        return changed(Recipe(), {**SMALL, **fields})

    return make


@pytest.fixture
def train_runs(quiet_torch: None) -> Callable[..., list[RunResult]]:
    """Train runs, given as directory -> recipe, side by side."""

    def execute(runs: dict[Path, Recipe], **execution: Any) -> list[RunResult]:
        opened = [Run(directory, recipe) for directory, recipe in runs.items()]
        chosen = Execution(tensorboard=False, loader_threads=0, device="cpu", **execution)
        return train(opened, chosen, World(), SilentWatcher())

    return execute


@pytest.fixture
def train_one(train_runs: Callable[..., list[RunResult]]) -> Callable[..., RunResult]:
    """Train one run."""
    return lambda directory, recipe, **execution: train_runs({directory: recipe}, **execution)[0]
