"""Promise: the number of processes changes no byte (the one law; statements W1, W2, W8, D3, D4, D5)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.processes

RECIPES = {
    "twelve workers, short tail, dropout": (
        {
            "grid": "2x6x5",
            "train_images": 500,
            "tail": "short",  # 8 steps of 60 and one of 20: 8 workers have 2 images, 4 have 1
            "epochs": "1.5",
            "workers_per_forward": 1,
            "dropout": 0.2,
            "augment": "shift-flip",
            "optimizer": "nesterov",
            "label_smoothing": 0.1,
            "decay_exempt": "batchnorm+bias",
            "zero_gamma": "true",
            "lr_decay": "cosine",
            "base_lr": 0.01,
            "images_per_evaluation": 100,
        },
        (2, 3, 5),
    ),
    "seven workers in blocks of three, statistics of worker 0": (
        {
            "grid": "7x1x4",
            "train_images": 200,
            "tail": "pad",
            "epochs": "20st",
            "workers_per_forward": 3,
            "batchnorm_running": "worker0",
            "stack": 2,
            "seed": 5,
            "base_lr": 0.02,
        },
        (2, 5),  # three blocks: with five processes two are idle, process 0 among them
    ),
    "another network": (
        {"model": "cifar-resnet20", "grid": "1x3x4", "train_images": 96, "epochs": "8st", "workers_per_forward": 2},
        (2,),
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_processes_do_not_matter(
    trained: Callable[..., Any], trained_here: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    fields, counts = RECIPES[name]
    alone = trained_here(tmp_path / "1", fields)
    assert len(alone.metrics) == alone.outcome["steps"] >= 8
    for processes in counts:
        assert trained(tmp_path / str(processes), fields, processes=processes) == alone, f"{processes} processes"
