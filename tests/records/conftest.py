from collections.abc import Callable

import pytest

from widestep.records.result import RunResult


@pytest.fixture
def result() -> Callable[..., RunResult]:
    """A result of digits; fields may be given by name."""

    def make(**fields: object) -> RunResult:
        values = {
            "status": "complete",
            "recipe_fingerprint": "0123456789abcdef",
            "weights_sha256": "ab" * 32,
            "global_batch": 32,
            "num_workers": 4,
            "images_per_worker": 8,
            "steps": 1_080,
            "epochs": 36.0,
            "train_images_seen": 34_560,
            "val_images": 837,
            "val_correct": 827,
            "val_accuracy": 827 / 837,
            "val_loss": 0.1 + 0.2,
            "median_last5_val_accuracy": 826 / 837,
            "best_val_accuracy": 829 / 837,
            "seed": 3,
            "mode": "reproducible",
            "images_per_second": 30_000.5,
            "wall_seconds": 1.25,
            "interruptions": 0,
        }
        return RunResult(**{**values, **fields})

    return make
