"""A run that is cut off at the worst moments goes on as if nothing had been (statements R1, R3).

Here the cut is an exception that nothing catches; tests/laws kills real processes.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from widestep.errors import DataError, EnvironmentFault, StoreError, UsageError
from widestep.records.run import Run
from widestep.train import checkpoint, loop, session, step
from widestep.workers.engine import GradientEngine

Make = Callable[..., Any]
FIELDS = {"tail": "short", "dropout": 0.1, "augment": "shift-flip"}  # 2 epochs of 7 steps
FILES = ("metrics.jsonl", "epochs.csv", "ledger.jsonl", "checkpoints/final.safetensors", "checkpoints/best.safetensors")


class Cut(BaseException):
    """The power is gone."""


def content(directory: Path) -> dict[str, bytes]:
    """The files of a run without the times in them."""
    found = {name: (directory / name).read_bytes() for name in FILES}
    found["metrics.jsonl"] = b"".join(line.rpartition(b', "seconds"')[0] for line in found["metrics.jsonl"].splitlines())
    return found


@pytest.fixture
def uninterrupted(small: Make, train_one: Make, tmp_path: Path) -> dict[str, bytes]:
    train_one(tmp_path / "whole", small(**FIELDS), checkpoint_every="5st")
    return content(tmp_path / "whole")


@pytest.fixture
def cut_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the nth call of a function fail; `when` says which calls count."""

    def arrange(owner: Any, name: str, nth: int, when: Callable[..., bool] = lambda *_: True) -> None:
        original, calls = getattr(owner, name), 0

        def cut(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += when(*arguments)
            if calls == nth:
                raise Cut
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, cut)

    return arrange


def is_last(path: Path, *_: object) -> bool:
    return path.name == "last.safetensors"


MOMENTS = {
    "before the first step": (GradientEngine, "gradients", 1),
    "before the first save": (GradientEngine, "gradients", 4),
    "between two saves": (GradientEngine, "gradients", 9),
    "with half a step taken": (step, "update_running_statistics", 12),
    "in the first evaluation": (loop, "evaluate", 1),
    "in the last evaluation": (loop, "evaluate", 2),
    "before the first state is written": (checkpoint, "write", 1, is_last),
    "between the renames of a save": (checkpoint, "write", 2, is_last),
    "before the best weights are written": (checkpoint, "write", 1, lambda path, *_: path.name == "best.safetensors"),
    "with a state written but not in its place": (Path, "replace", 2, lambda path, *_: path.name.startswith(".last")),
    "before the final weights": (checkpoint, "write", 1, lambda path, *_: path.name == "final.safetensors"),
    "before the result": (Run, "finish", 1),
    "between result and status": (Run, "set_status", 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_cut_off_goes_on(
    small: Make,
    train_one: Make,
    uninterrupted: dict[str, bytes],
    cut_at: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    moment: str,
) -> None:  # R1
    cut_at(*MOMENTS[moment])
    with pytest.raises(Cut):
        train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="5st")
    assert (tmp_path / "run/STATUS").read_text() == "running\n"
    monkeypatch.undo()
    result = train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="5st")
    assert content(tmp_path / "run") == uninterrupted
    assert (result.status, result.interruptions, result.train_images_seen) == ("complete", 1, 400)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(14))


def test_a_run_cut_off_again_and_again_goes_on(
    small: Make,
    train_one: Make,
    uninterrupted: dict[str, bytes],
    cut_at: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # R1
    """Three steps a time: with a save every second step, that is a save, and a step that is lost."""
    for _ in range(6):
        cut_at(GradientEngine, "gradients", 4)
        with pytest.raises(Cut):
            train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="2st")
        monkeypatch.undo()
    result = train_one(tmp_path / "run", small(**FIELDS))
    assert content(tmp_path / "run") == uninterrupted
    assert result.interruptions == 6


def test_another_cadence_of_saving_changes_nothing(
    small: Make, train_one: Make, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="1st")
    assert content(tmp_path / "run") == uninterrupted


def test_a_damaged_last_state_costs_steps_but_no_byte(
    small: Make,
    train_one: Make,
    uninterrupted: dict[str, bytes],
    cut_at: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    cut_at(GradientEngine, "gradients", 13)
    with pytest.raises(Cut):
        train_one(tmp_path / "run", small(**FIELDS), checkpoint_every="5st")
    monkeypatch.undo()
    last = tmp_path / "run/checkpoints/last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    train_one(tmp_path / "run", small(**FIELDS))
    assert content(tmp_path / "run") == uninterrupted


def test_a_stack_cut_off_in_a_save_goes_on_run_by_run(
    small: Make, train_runs: Make, train_one: Make, cut_at: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One run has been saved at step 10 and the other at step 5: they cannot share a stack until they meet again."""
    recipes = {tmp_path / name: small(seed=seed, stack=2, **FIELDS) for name, seed in (("a", 0), ("b", 1))}
    whole = {tmp_path / f"whole-{name}": recipe for name, recipe in zip("ab", recipes.values(), strict=True)}
    train_runs(whole)
    cut_at(checkpoint, "write", 4, is_last)
    with pytest.raises(Cut):
        train_runs(recipes, checkpoint_every="5st")
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"continue from the same step. Got steps \[5, 10\]"):
        train_runs(recipes)
    for directory, recipe in recipes.items():
        train_one(directory, recipe)
        assert content(directory) == content(tmp_path / f"whole-{directory.name}")


@pytest.fixture
def begun(small: Make, train_one: Make, cut_at: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run that was cut off after a save."""
    cut_at(GradientEngine, "gradients", 7)
    with pytest.raises(Cut):
        train_one(tmp_path / "run", small(), checkpoint_every="5st")
    monkeypatch.undo()
    return tmp_path / "run"


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
    tensors, facts = checkpoint.read(begun / "checkpoints/last.safetensors")
    checkpoint.write(begun / "checkpoints/last.safetensors", tensors, {**facts, "recipe": "0" * 16})
    with pytest.raises(StoreError, match="belongs to recipe 0000000000000000"):
        train_one(begun, small())


@pytest.mark.parametrize("change", ["missing", "shape", "type"])
def test_a_state_must_fit_the_model(small: Make, train_one: Make, begun: Path, change: str) -> None:
    tensors, facts = checkpoint.read(begun / "checkpoints/last.safetensors")
    weight = tensors.pop("weights/fc.weight")
    if change != "missing":
        tensors["weights/fc.weight"] = weight[1:] if change == "shape" else weight.double()
    checkpoint.write(begun / "checkpoints/last.safetensors", tensors, facts)
    with pytest.raises(StoreError, match=r"fc\.weight is missing or of another shape"):
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
    small: Make, train_one: Make, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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


def test_a_full_disk_hides_no_error(small: Make, train_one: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    first_step = GradientEngine.gradients

    def then_full(engine: GradientEngine, *arguments: Any) -> Any:
        monkeypatch.setattr(os, "fsync", full)
        return first_step(engine, *arguments)

    monkeypatch.setattr(GradientEngine, "gradients", then_full)
    with pytest.raises(EnvironmentFault, match=r"metrics\.jsonl: No space left on device"):
        train_one(tmp_path / "run", small(), checkpoint_every="1st")
