"""Promise: W virtual workers in one process are W real processes under a launcher, byte for byte (statement W4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.processes

FIELDS = {"grid": "1x3x8", "train_images": 240, "epochs": "2", "workers_per_forward": 1, "dropout": 0.1}


def test_three_workers_under_torchrun(
    program: Any, trained_here: Callable[..., Any], kept: Callable[..., Any], options: Any, tmp_path: Path
) -> None:
    words = options({**FIELDS, "out": tmp_path / "real"})
    launch = ("--standalone", "--nproc-per-node", 3, "-m", "widestep", "train", *words)
    found = program(*launch, module="torch.distributed.run")
    assert found.code == 0, found.stderr
    assert "3 process(es)" in (tmp_path / "real/log.txt").read_text()
    assert kept(tmp_path / "real") == trained_here(tmp_path / "virtual", FIELDS)
    assert found.stdout.count("complete ") == 1  # one process speaks for all


def test_a_fault_under_torchrun_is_told_once(program: Any, tmp_path: Path) -> None:
    """Every process fails; the launcher passes on that it was not for nothing."""
    launch = ("--standalone", "--nproc-per-node", 2, "-m", "widestep", "train", "--train-images", "none")
    words = ("--data", f"folder:{tmp_path / 'none'}", "--out", tmp_path / "run")
    found = program(*launch, *words, module="torch.distributed.run")
    assert found.code != 0
    assert found.stderr.count("widestep: A folder data set must be an existing folder.") == 1
