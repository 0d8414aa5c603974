"""Two runs side by side, from files written by hand: the first differing step, quantity and tensor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from widestep.errors import StoreError
from widestep.plan.recipe import Recipe
from widestep.records.compare import compare
from widestep.records.run import Run

Make = Callable[..., Run]
WEIGHTS = {"fc.weight": np.array([1.0, 2.0], np.float32), "bn.weight": np.array([3.0], np.float32)}


def lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def metrics(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": 0,
        "lr": 0.1,
        "loss": 2.0 - step,
        "images": 8,
        "gradient_norm": 1.0,
        "seconds": step * 0.1,
    } | changes


def ledger(step: int, **changes: Any) -> dict[str, Any]:
    groups = [{"name": "decayed", "lr": 0.1, "weight_decay": 1e-4, "num_tensors": 2}]
    return {"step": step, "groups": groups, "images": 8, "gradient_scale": 1 / 8, "image_ids": f"{step:016x}"} | changes


def digests(step: int, **changes: dict[str, str]) -> dict[str, Any]:
    return {"step": step, "gradients": {"conv": "a", "fc": "b"}, "weights": {"conv": "c", "fc": "d"}} | changes


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A run of three steps, some records replaced by step."""
    number = 0

    def write(
        *, steps: range = range(3), weights: dict[str, np.ndarray] | None = WEIGHTS, traced: bool = False, **changed: Any
    ) -> Run:
        nonlocal number
        number += 1
        directory = tmp_path / str(number)
        (directory / "checkpoints").mkdir(parents=True)
        for name, record in (("metrics", metrics), ("ledger", ledger), ("digests", digests)):
            if name != "digests" or traced:
                found = [record(step, **changed.get(name, {}).get(step, {})) for step in steps]
                lines(directory / f"{name}.jsonl", found)
        if weights is not None:
            save_file(weights, directory / "checkpoints/final.safetensors")
        return Run(directory, Recipe())

    return write


def test_equal_runs(make: Make) -> None:
    """The time a step took is no part of it."""
    found = compare(make(), make(metrics={1: {"seconds": 99.0}}))
    assert found.equal
    assert (found.num_steps, found.last_equal_step, found.same_weights, found.difference) == (3, 2, True, None)


def test_the_first_step_that_differs(make: Make) -> None:
    found = compare(make(), make(metrics={1: {"loss": 0.99}, 2: {"lr": 0.2, "loss": 7.0}}))
    assert not found.equal
    assert (found.num_steps, found.last_equal_step, found.same_weights) == (3, 0, True)
    assert found.difference is not None
    assert (found.difference.step, found.difference.what, found.difference.tensors) == (1, ("loss",), ())
    assert found.difference.describe() == "first difference at step 1: loss"


def test_what_came_first_in_the_step_is_named_first(make: Make) -> None:
    found = compare(make(), make(metrics={0: {"loss": 3.0}}, ledger={0: {"image_ids": "f" * 16}}))
    assert found.last_equal_step is None
    assert found.difference is not None
    assert found.difference.what == ("the images", "loss")


@pytest.mark.parametrize(
    ("changed", "kind", "tensors"),
    [
        ({"gradients": {"conv": "x", "fc": "y"}, "weights": {"conv": "z", "fc": "d"}}, "gradient", ("conv", "fc")),
        ({"gradients": {"conv": "a", "fc": "y"}}, "gradient", ("fc",)),
        ({"weights": {"conv": "c", "fc": "z"}}, "weight", ("fc",)),
    ],
)
def test_the_first_tensor(make: Make, changed: dict[str, Any], kind: str, tensors: tuple[str, ...]) -> None:
    other = {**WEIGHTS, "fc.weight": np.array([1.0, 2.5], np.float32)}
    found = compare(make(traced=True), make(traced=True, digests={2: changed}, weights=other))
    assert found.difference is not None
    assert (found.last_equal_step, found.difference.step) == (1, 2)
    assert (found.difference.kind, found.difference.tensors, found.difference.largest) == (kind, tensors, 0.5)
    more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    assert found.difference.describe() == (
        f"first difference at step 2; first tensor: {kind} {tensors[0]}{more}; final weights differ by at most 0.5"
    )


def test_only_the_final_weights_differ(make: Make) -> None:
    """By one bit; -0.0 is not the bytes of 0.0 either."""
    near = np.nextafter(np.float32(2), np.float32(3))
    found = compare(make(), make(weights={**WEIGHTS, "fc.weight": np.array([1.0, near], np.float32)}))
    assert (found.last_equal_step, found.same_weights) == (2, False)
    assert found.difference is not None
    assert (found.difference.step, found.difference.kind, found.difference.tensors) == (None, "final weight", ("fc.weight",))
    zero = [{"fc.weight": np.array([value], np.float32)} for value in (0.0, -0.0)]
    signs = compare(make(weights=zero[0]), make(weights=zero[1]))
    assert not signs.same_weights
    assert signs.difference is not None
    assert signs.difference.largest == 0.0


def test_other_shapes_and_names_differ(make: Make) -> None:
    found = compare(make(), make(weights={"fc.weight": np.ones((2, 1), np.float32)}))
    assert found.difference is not None
    assert found.difference.tensors == ("bn.weight", "fc.weight")


def test_runs_under_way_are_compared_as_far_as_they_are(make: Make) -> None:
    found = compare(make(), make(steps=range(2), weights=None))
    assert (found.equal, found.num_steps, found.last_equal_step, found.same_weights) == (True, 2, 1, None)
    nothing = compare(make(), make(steps=range(5, 7), weights=None))
    assert (nothing.equal, nothing.num_steps, nothing.last_equal_step) == (True, 0, None)


def test_what_only_one_recorded_is_not_compared(make: Make) -> None:
    assert compare(make(traced=True), make()).equal


def test_damaged_weights_are_told(make: Make) -> None:
    run = make()
    (run.checkpoints / "final.safetensors").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="damaged"):
        compare(make(), run)
