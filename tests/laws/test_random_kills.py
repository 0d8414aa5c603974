"""Promise: kill -9 at any step, as often as you like, with other processes each time: the same bytes (R1, R2)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running_jobs import is_free, steps_saved

pytestmark = pytest.mark.processes

FIELDS = {
    "model": f"{Path(__file__).with_name('own_model.py')}:Net",
    "grid": "1x4x5",
    "worker_ramp": "3ep:7",
    "train_images": 230,
    "tail": "short",
    "epochs": "16",
    "scaling": "adascale",
    "reference_batch": "none",
    "optimizer": "lars-tf",
    "base_lr": 0.5,
    "workers_per_forward": 1,
    "evaluate_every": "4ep",
    "val_images": 200,
    "images_per_evaluation": 200,
}
EXECUTION = {"checkpoint_every": "7st", "tensorboard": "false"}


def test_kills_at_random_steps_with_other_processes_each_time(
    program: Any, options: Any, until: Any, power_cut: Any, trained_here: Callable[..., Any], tmp_path: Path
) -> None:
    """Four lives: 1, 2 or 3 processes until a step that nobody chose, then the rest in one."""
    expected = trained_here(tmp_path / "whole", FIELDS)
    rng, directory, schedule = np.random.default_rng(), tmp_path / "run", []
    for _ in range(4):
        processes, step = int(rng.choice([1, 2, 3])), steps_saved(directory) + int(rng.integers(1, 40))
        schedule.append((processes, step))
        child = program.start(
            "train", *options({**FIELDS, **EXECUTION, "out": directory}), "--processes", processes, heard=False
        )
        try:
            until(lambda step=step, child=child: steps_saved(directory) >= step or child.poll() is not None, "it gets there")
        finally:
            power_cut(child)
        until(lambda: is_free(directory), "the processes of the killed job die too")
    assert trained_here(directory, {**FIELDS, **EXECUTION}) == expected, f"after kills at {schedule}"
    events = [json.loads(line)["event"] for line in (directory / "history.jsonl").read_text().splitlines()]
    assert events[:3] == ["started", "resumed", "resumed"]
