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
    "AdaScale, LARS, a ramp, clipping, norms of workers in blocks of two, precise statistics": (
        {
            "grid": "1x6x4",
            "worker_ramp": "1ep:10",
            "train_images": 200,
            "tail": "short",
            "epochs": "3",
            "workers_per_forward": 2,
            "scaling": "adascale",
            "reference_batch": "none",
            "optimizer": "lars-nus",
            "base_lr": 0.5,
            "warmup": "30st",
            "clip_norm": 2.0,
            "batchnorm_running": "precise",
            "batchnorm_images": 50,
        },
        (2, 4),
    ),
    "groups of two workers, AdamW, bfloat16, pooled statistics": (
        {
            "grid": "1x8x3",
            "batchnorm": "group:2",
            "train_images": 250,
            "tail": "short",
            "epochs": "1",
            "optimizer": "adamw",
            "base_lr": 1e-3,
            "scaling": "none",
            "precision": "bf16",
            "dropout": 0.1,
            "batchnorm_running": "pooled",
            "batchnorm_recompute": "never",
        },
        (3,),
    ),
    "one batch normalisation for all, LAMB, mean of batches": (
        {
            "grid": "1x6x4",
            "batchnorm": "sync",
            "train_images": 250,
            "epochs": "8st",
            "optimizer": "lamb",
            "base_lr": 1e-3,
            "scaling": "none",
            "batchnorm_running": "last",
            "evaluation": "batch-means",
            "images_per_evaluation": 60,
        },
        (2,),
    ),
    "a model of the user's own": (
        {
            "model": f"{Path(__file__).with_name('own_model.py')}:Net",
            "grid": "1x6x5",
            "train_images": 255,  # 15 in the last step: three workers have three, three have two
            "tail": "short",
            "epochs": "1",
            "workers_per_forward": 2,
            "augment": "shift-flip",
            "base_lr": 0.01,
        },
        (2, 3),
    ),
    "one that answers in double precision": (
        {
            "model": f"{Path(__file__).with_name('own_model.py')}:Doubles",
            "grid": "1x4x5",
            "train_images": 120,
            "epochs": "2",
            "workers_per_forward": 1,
            "base_lr": 0.01,
        },
        (2, 4),
    ),
    "another network": (
        {"model": "cifar-resnet20", "grid": "1x3x4", "train_images": 96, "epochs": "8st", "workers_per_forward": 2},
        (2,),
    ),
    "channels last, bfloat16, images of a worker in several passes, AdaScale, dropout": (
        {
            "model": "cifar-resnet20",  # channels last by itself
            "grid": "1x3x7",
            "train_images": 94,
            "tail": "short",  # 10 images in the last step: workers have 4, 3 and 3, passes 3 at most
            "epochs": "30st",
            "workers_per_forward": 1,
            "images_per_forward": 3,
            "precision": "bf16",
            "dropout": 0.1,
            "scaling": "adascale",
            "reference_batch": "none",
            "optimizer": "lars-tf",
        },
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
