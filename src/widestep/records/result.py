"""The outcome of a run: result.json."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from widestep.errors import StoreError
from widestep.records.reading import read_record

_LARGEST = 2**63
_MOST_SAID = 3
_SHARES = ("val_accuracy", "median_last5_val_accuracy", "best_val_accuracy")
Status = Literal["running", "complete", "diverged", "failed", "stopped"]


@dataclass(frozen=True)
class RunResult:
    """What a finished run came to; the field names are those of result.json and stay stable.

    `val_accuracy` is that of the final epoch, in [0, 1] (statement N3); the median of the last five and the best are
    recorded beside it. A diverged run has the values of its last good weights and the reason.
    `damaged_images` counts those that others took the place of, or that evaluation left out (where the recipe skips them).
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
    damaged_images: int = 0
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, in order."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> "RunResult":
        """Read result.json; raises StoreError when it is absent or damaged."""
        values = read_record(path, "a run's result")
        wrong = ["it is absent"] if values is None else _faults(values)
        if wrong:
            said = f"{'; '.join(wrong[:_MOST_SAID])}{' and more' if wrong[_MOST_SAID:] else ''}"
            raise StoreError(f"{path} must be a run's result. It is damaged: {said}. Run the recipe again.")
        return cls(**(values or {}))


def _faults(values: Mapping[str, Any]) -> list[str]:
    """Say what of a record is no result: names, types, and numbers that no run can come to."""
    kinds = get_type_hints(RunResult)
    needed = [one.name for one in fields(RunResult) if one.default is MISSING]
    found = [f"{name} is missing" for name in needed if name not in values]
    found += [f"{name!r:.80} is no part of it" for name in values if name not in kinds]
    for name, value in values.items():
        allowed = _allowed(kinds.get(name, object))
        plain = type(value) is int and float in allowed
        if object not in allowed and type(value) not in allowed and not plain:
            found.append(f"{name} is {value!r:.80}" if not isinstance(value, int) else f"{name} is no such number")
        elif isinstance(value, (int, float)) and not 0 <= value < (math.inf if name == "val_loss" else _LARGEST):
            found.append(f"{name} is not a finite number of at least 0")
        elif name in _SHARES and isinstance(value, (int, float)) and value > 1:
            found.append(f"{name} is not at most 1")
    if values.get("status") not in get_args(Status) and "status is missing" not in found:
        found.append("status is unknown")
    return found


def _allowed(kind: Any) -> tuple[Any, ...]:
    """Return the types that a value of a field may have."""
    if get_origin(kind) is Literal:
        return (str,)
    return get_args(kind) or (kind,)
