"""Two runs side by side: identical up to which step, and what differs first. Reads plain files, without torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from widestep.errors import StoreError
from widestep.lines import read_json_lines
from widestep.records.run import Run

_OF_METRICS = ("lr", "loss", "gradient_norm", "gain", "worker_gradient_norm")
_OF_LEDGER = ("image_ids", "images", "groups", "gradient_scale", "batchnorm_images")
_WORDS = {"image_ids": "the images", "groups": "what the optimizer applied", "gradient_norm": "the gradient's norm"}


@dataclass(frozen=True)
class Difference:
    """The first difference of two runs.

    Parameters
    ----------
    step
        The first recorded step in which they differ; None when only the final weights differ.
    what
        The quantities that differ there, the earliest in the order of computation first.
    tensors
        Names of the tensors that differ, in the order of the model: those of that step when both runs wrote digests, else
        final weights.
    kind
        What the tensors are: `gradient`, `weight`, `statistic`, or `final weight`.
    largest
        Largest absolute difference of the final weights; None when a run has none.
    """

    step: int | None
    what: tuple[str, ...]
    tensors: tuple[str, ...]
    kind: str
    largest: float | None

    def describe(self) -> str:
        """Say it in one line."""
        at = "only the final weights differ" if self.step is None else f"first difference at step {self.step}"
        said = f": {', '.join(self.what)}" if self.what else ""
        if self.tensors:
            others = f" and {len(self.tensors) - 1} more" if len(self.tensors) > 1 else ""
            said += f"; first tensor: {self.kind} {self.tensors[0]}{others}"
        if self.largest is not None:
            said += f"; final weights differ by at most {self.largest:.3g}"
        return at + said


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common.

    Parameters
    ----------
    num_steps
        Steps that both recorded.
    last_equal_step
        The last recorded step up to which everything is the same; None when the first one differs already.
    same_weights
        Whether the final weights are the same bytes; None when a run has none yet.
    difference
        None when nothing differs.
    """

    num_steps: int
    last_equal_step: int | None
    same_weights: bool | None
    difference: Difference | None

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.difference is None


def compare(first: Run, second: Run) -> Comparison:
    """Compare two runs step by step, in the steps that both have recorded, and their final weights byte by byte.

    Raises
    ------
    StoreError
        When a record or the final weights of a run are damaged.
    """
    steps = list(_shared_steps(first, second))
    at = next((step for step, a, b in steps if a != b), None)
    weights = [_final_weights(run) for run in (first, second)]
    differing, largest = _differing_weights(*weights) if all(weights) else ((), None)
    same = None if not all(weights) else not differing
    before = [step for step, _, _ in steps if at is None or step < at]
    if at is None and not differing:
        return Comparison(len(steps), before[-1] if before else None, same, None)
    a, b = next(((a, b) for step, a, b in steps if step == at), ({}, {}))
    what = tuple(_WORDS.get(name, name) for name in (*_OF_LEDGER, *_OF_METRICS) if a.get(name) != b.get(name))
    kind, tensors = _differing_tensors(a, b)
    if not tensors:
        kind, tensors = "final weight", differing
    return Comparison(len(steps), before[-1] if before else None, same, Difference(at, what, tensors, kind, largest))


def _shared_steps(first: Run, second: Run) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Yield the steps that both runs recorded, in order, each with the records of both."""
    a, b = _records(first), _records(second)
    for step in sorted(a.keys() & b.keys()):
        shared = a[step].keys() & b[step].keys()
        yield step, {name: a[step][name] for name in shared}, {name: b[step][name] for name in shared}


def _records(run: Run) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for name, wanted in (
        ("metrics.jsonl", _OF_METRICS),
        ("ledger.jsonl", _OF_LEDGER),
        ("digests.jsonl", ("gradients", "weights", "statistics")),
    ):
        path = run.directory / name
        for record in read_json_lines(path) if path.exists() else ():
            held = {key: value for key, value in record.items() if key in wanted}
            found.setdefault(record["step"], {}).update(held)
    return found


def _differing_tensors(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the first kind of tensor that differs in a step, and the names of those that do."""
    for kind in ("gradients", "weights", "statistics"):
        if kind in a and kind in b:
            names = tuple(name for name in a[kind] if a[kind][name] != b[kind].get(name))
            if names:
                return kind.removesuffix("s"), names
    return "", ()


def _final_weights(run: Run) -> dict[str, np.ndarray[Any, Any]] | None:
    path = run.checkpoints / "final.safetensors"
    if not path.exists():
        return None
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"A checkpoint must be whole. {path} is damaged: {error}.") from None


def _differing_weights(
    a: Mapping[str, np.ndarray[Any, Any]] | None, b: Mapping[str, np.ndarray[Any, Any]] | None
) -> tuple[tuple[str, ...], float | None]:
    assert a is not None
    assert b is not None
    names, largest = [], 0.0
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b or a[name].shape != b[name].shape:
            names.append(name)
        elif a[name].tobytes() != b[name].tobytes():
            names.append(name)
            away = np.abs(a[name].astype(np.float64) - b[name].astype(np.float64))
            largest = max(largest, float(away.max())) if np.isfinite(away).all() else float("inf")
    return tuple(names), largest if names else None
