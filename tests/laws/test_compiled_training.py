"""Promise: compiled passes keep every promise of reproducible mode, but are another recipe than those that are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.processes

FIELDS = {
    "grid": "1x3x8",
    "train_images": 96,
    "epochs": "40st",
    "base_lr": 0.01,
    "workers_per_forward": 1,
    "memory_format": "channels_last",
    "batchnorm_recompute": "never",
    "images_per_evaluation": 400,
}
COMPILED = {**FIELDS, "compile": "default"}


def test_compiled_training_is_exact(
    program: Any, options: Any, until: Any, power_cut: Any, trained: Callable[..., Any], tmp_path: Path
) -> None:
    """On one process, on two, and killed on two and resumed on one: the same bytes, near those without compilation."""
    alone = trained(tmp_path / "1", COMPILED)
    assert trained(tmp_path / "2", COMPILED, processes=2) == alone
    directory = tmp_path / "killed"
    words = options({**COMPILED, "checkpoint_every": "1st", "out": directory})
    child = program.start("train", *words, "--processes", 2, heard=False)
    metrics = directory / "metrics.jsonl"
    try:
        until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 1, "a step is saved")
    finally:
        power_cut(child)
    assert (directory / "STATUS").read_text() == "running\n", "the run was over before it could be killed"
    assert trained(directory, COMPILED, checkpoint_every="1st") == alone
    assert alone.steps == list(range(40))
    eager = trained(tmp_path / "eager", FIELDS)
    losses = [[record["loss"] for record in run.metrics] for run in (alone, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
