"""A run that is cut off at the worst moments goes on as if nothing had been (statements R1, R3).

Here the cut is an exception that nothing catches; tests/laws kills real processes.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from widestep.errors import DataError, StoreError, UsageError
from widestep.records.run import Run
from widestep.train import checkpoint, loop, normalisation, session
from widestep.train.state import TrainState
from widestep.workers.engine import GradientEngine

Make = Callable[..., Any]
FIELDS = {"tail": "short", "dropout": 0.1, "augment": "shift-flip"}  # 2 epochs of 7 steps


@pytest.fixture(scope="module")
def uninterrupted(small: Make, train_one: Make, content: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("resume") / "whole"
    train_one(directory, small(**FIELDS), checkpoint_every="5st")
    return content(directory)


def is_state(path: Path, *_: object) -> bool:
    return path.name.startswith("step-")


def is_unfinished_state(path: Path, *_: object) -> bool:
    return path.name.startswith(".step-")


MOMENTS = {
    "before the first step": (GradientEngine, "gradients", 1),
    "before the first save": (GradientEngine, "gradients", 4),
    "between two saves": (GradientEngine, "gradients", 9),
    "with half a step taken": (TrainState, "move_statistics", 12),
    "while statistics are computed anew": (normalisation, "precise_statistics", 2),
    "in the first evaluation": (loop, "evaluate", 1),
    "in the last evaluation": (loop, "evaluate", 2),
    "before the first state is written": (checkpoint, "write", 1, is_state),
    "before the second state is written": (checkpoint, "write", 2, is_state),
    "before the best weights are written": (checkpoint, "write", 1, lambda path, *_: path.name == "best.safetensors"),
    "with a state written but not in its place": (os, "replace", 2, is_unfinished_state),
    "before the final weights": (checkpoint, "write", 1, lambda path, *_: path.name == "final.safetensors"),
    "before the result": (Run, "finish", 1),
    "between result and status": (Run, "set_status", 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_cut_off_goes_on(
    small: Make,
    train_one: Make,
    uninterrupted: dict[str, bytes],
    content: Make,
    cuts: Any,
    tmp_path: Path,
    moment: str,
) -> None:  # R1
    cuts.at(*MOMENTS[moment])
    with pytest.raises(cuts.Cut):
        train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="5st")
    assert (tmp_path / "run/STATUS").read_text() == "running\n"
    cuts.mend()
    result = train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="5st")
    assert content(tmp_path / "run") == uninterrupted
    assert (result.status, result.interruptions, result.train_images_seen) == ("complete", 1, 400)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(14))


def test_a_run_cut_off_again_and_again_goes_on(
    small: Make,
    train_one: Make,
    uninterrupted: dict[str, bytes],
    content: Make,
    cuts: Any,
    tmp_path: Path,
) -> None:  # R1
    """Three steps a time: with a save every second step, that is a save, and a step that is lost."""
    for _ in range(6):
        cuts.at(GradientEngine, "gradients", 4)
        with pytest.raises(cuts.Cut):
            train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="2st")
        cuts.mend()
    result = train_one(tmp_path / "run", small(**FIELDS))
    assert content(tmp_path / "run") == uninterrupted
    assert result.interruptions == 6


def test_another_cadence_of_saving_changes_nothing(
    small: Make, train_one: Make, content: Make, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="1st")
    assert content(tmp_path / "run") == uninterrupted


def test_a_damaged_last_state_costs_steps_but_no_byte(
    small: Make,
    train_one: Make,
    uninterrupted: dict[str, bytes],
    content: Make,
    cuts: Any,
    tmp_path: Path,
) -> None:
    cuts.at(GradientEngine, "gradients", 13)
    with pytest.raises(cuts.Cut):
        train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="5st")
    cuts.mend()
    last = tmp_path / "run/checkpoints/step-0000010.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    train_one(tmp_path / "run", small(**FIELDS))
    assert content(tmp_path / "run") == uninterrupted


def test_a_stack_cut_off_in_a_save_goes_on_run_by_run(
    small: Make, train_runs: Make, train_one: Make, content: Make, cuts: Any, tmp_path: Path
) -> None:
    """One run has been saved at step 10 and the other at step 5: they cannot share a stack until they meet again."""
    recipes = {tmp_path / name: small(seed=seed, stack=2, **FIELDS) for name, seed in (("a", 0), ("b", 1))}
    whole = {tmp_path / f"whole-{name}": recipe for name, recipe in zip("ab", recipes.values(), strict=True)}
    train_runs(whole)
    cuts.at(checkpoint, "write", 4, is_state)
    with pytest.raises(cuts.Cut):
        train_runs(recipes, checkpoint_every="5st")
    cuts.mend()
    with pytest.raises(UsageError, match=r"continue from the same step. Got steps \[5, 10\]"):
        train_runs(recipes)
    for directory, recipe in recipes.items():
        train_one(directory, recipe)
        assert content(directory) == content(tmp_path / f"whole-{directory.name}")


@pytest.fixture(scope="module")
def saved(small: Make, train_one: Make, cutting: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was cut off after a save."""
    directory = tmp_path_factory.mktemp("begun") / "run"
    with cutting() as cuts:
        cuts.at(GradientEngine, "gradients", 7)
        with pytest.raises(cuts.Cut):
            train_one(directory, small(), checkpoint_every="5st")
    return directory


@pytest.fixture
def begun(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def test_a_run_does_not_go_on_with_other_data(
    small: Make, train_one: Make, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = session.describe_environment
    monkeypatch.setattr(session, "describe_environment", lambda *facts: {**describe(*facts), "data_fingerprint": "other"})
    with pytest.raises(DataError, match="files of digits have changed"):
        train_one(begun, small())


def test_a_run_goes_on_in_another_environment_but_says_so(
    small: Make, train_one: Make, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = session.describe_environment
    monkeypatch.setattr(session, "describe_environment", lambda *facts: {**describe(*facts), "torch": "9.9"})
    assert train_one(begun, small()).status == "complete"
    assert "-> 9.9); from here on bytes may differ" in (begun / "log.txt").read_text()


def test_a_state_of_another_recipe_is_refused(small: Make, train_one: Make, begun: Path) -> None:
    tensors, facts = checkpoint.read(begun / "checkpoints/step-0000005.safetensors")
    checkpoint.write(begun / "checkpoints/step-0000005.safetensors", tensors, {**facts, "recipe": "0" * 16})
    with pytest.raises(StoreError, match="belongs to recipe 0000000000000000"):
        train_one(begun, small())


@pytest.mark.parametrize("change", ["missing", "shape", "type"])
@pytest.mark.parametrize("name", ["weights/fc.weight", "weights/bn1.running_var", "running"])
def test_a_state_must_fit_the_model(small: Make, train_one: Make, begun: Path, name: str, change: str) -> None:
    """Parameters, the statistics of evaluation, and the running statistics under all policies."""
    tensors, facts = checkpoint.read(begun / "checkpoints/step-0000005.safetensors")
    tensor = tensors.pop(name)
    if change != "missing":
        tensors[name] = tensor[1:] if change == "shape" else tensor.double()
    checkpoint.write(begun / "checkpoints/step-0000005.safetensors", tensors, facts)
    with pytest.raises(StoreError, match=rf"{name} is missing or of another shape"):
        train_one(begun, small())


def test_damaged_states_do_not_begin_again(small: Make, train_one: Make, begun: Path) -> None:
    for path in (begun / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(StoreError, match="use --fresh"):
        train_one(begun, small())
    assert (begun / "STATUS").read_text() == "failed\n"
    assert "use --fresh" in json.loads((begun / "history.jsonl").read_text().splitlines()[-1])["reason"]
    assert train_one(begun.with_name("other"), small()).status == "complete"


def test_a_run_whose_data_fails_says_so_and_goes_on_later(
    small: Make,
    train_one: Make,
    content: Make,
    uninterrupted: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def failing(*_: object) -> None:
        raise DataError("An image is gone.")

    monkeypatch.setattr(loop, "evaluate", failing)
    with pytest.raises(DataError, match="An image is gone"):
        train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="5st")
    assert (tmp_path / "run/STATUS").read_text() == "failed\n"
    assert "failed: An image is gone." in (tmp_path / "run/log.txt").read_text()
    monkeypatch.undo()
    assert train_one(tmp_path / "run", small(**FIELDS)).interruptions == 1
    assert content(tmp_path / "run") == uninterrupted
