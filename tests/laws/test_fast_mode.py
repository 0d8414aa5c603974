"""Promise: fast mode computes the same mathematics to rounding, says that it is fast, and claims nothing more (W3)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FIELDS = {
    "grid": "1x5x4",
    "train_images": 210,
    "tail": "short",  # 10 steps of 20 images, and one of 10
    "epochs": "1",
    "workers_per_forward": 2,
    "dropout": 0.1,
    "base_lr": 0.01,
    "scaling": "none",
    "images_per_evaluation": 400,
}


def losses(run: Any) -> list[float]:
    return [record["loss"] for record in run.metrics]


@pytest.mark.processes
@pytest.mark.parametrize(("processes", "compression", "near"), [(1, "none", 1e-5), (2, "none", 1e-5), (2, "fp16", 1e-2)])
def test_fast_mode_is_near_reproducible_mode(
    trained: Callable[..., Any],
    trained_here: Callable[..., Any],
    tmp_path: Path,
    processes: int,
    compression: str,
    near: float,
) -> None:
    exact = trained_here(tmp_path / "exact", FIELDS)
    train = trained_here if processes == 1 else trained
    fast = train(tmp_path / "fast", {**FIELDS, "mode": "fast", "compression": compression}, processes=processes)
    assert losses(fast) == pytest.approx(losses(exact), rel=near)
    assert (fast.outcome["mode"], exact.outcome["mode"]) == ("fast", "reproducible")
    assert [record["lr"] for record in fast.metrics] == [record["lr"] for record in exact.metrics]
