"""The outcome of a run: result.json."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from widestep.errors import StoreError

Status = Literal["running", "complete", "diverged", "failed", "stopped"]


@dataclass(frozen=True)
class RunResult:
    """What a finished run came to; the field names are those of result.json and stay stable.

    `val_accuracy` is that of the final epoch, in [0, 1] (statement N3); the median of the last five and the best are
    recorded beside it. A diverged run has the values of its last good weights and the reason.
    """

    status: Status
    recipe_fingerprint: str
    weights_sha256: str
    global_batch: int
    num_workers: int
    images_per_worker: int
    steps: int
    epochs: float
    train_images_seen: int
    val_images: int
    val_correct: int
    val_accuracy: float
    val_loss: float | None
    median_last5_val_accuracy: float
    best_val_accuracy: float
    seed: int
    mode: str
    images_per_second: float
    wall_seconds: float
    interruptions: int
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, in order."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> "RunResult":
        """Read result.json; raises StoreError when it is damaged."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise StoreError(f"{path} must be a run's result. It is damaged: {error}. Run the recipe again.") from None
