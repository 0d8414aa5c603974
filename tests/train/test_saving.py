"""Saving in the background: one at a time, told once when it fails, certain when a run stops."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from widestep.errors import DirectoryInUse, EnvironmentFault
from widestep.locks import DirectoryLost
from widestep.plan.cadence import Cadence
from widestep.plan.recipe import Recipe
from widestep.records.run import Run
from widestep.records.saved import saved_steps
from widestep.train import checkpoint, saving
from widestep.train.saving import Copied, Saver, Weights


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    opened = Run(tmp_path / "run", Recipe(seed=3))
    opened.open({})
    opened.open_records({})
    yield opened
    opened.close()


class Training:
    """A saver, what it told, and copies to give it."""

    def __init__(self, run: Run, cadence: str = "1st", keep: int = 2) -> None:
        self.run, self.told, self.acknowledged = run, [], []
        self.saver = Saver(Cadence.parse(cadence), keep, self.told.append)

    def copies(self, step: int) -> Callable[[], list[Copied]]:
        def copy() -> list[Copied]:
            facts = {"recipe": "r", "tally": {"step": step}, "lengths": self.run.record_lengths()}
            best = Weights({"w": torch.full((2,), float(step))}, {})
            tensors = {"w": torch.full((3,), float(step))}
            return [Copied(self.run, step, tensors, facts, best, lambda: self.acknowledged.append(step))]

        return copy

    def begin(self, step: int) -> None:
        self.saver.begin(step, self.copies(step))

    def newest(self) -> int:
        found = checkpoint.newest(self.run.checkpoints)
        return 0 if found is None else found.step


@pytest.fixture
def training(run: Run) -> Training:
    return Training(run)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is written until the event is set."""
    go, real = threading.Event(), checkpoint.save_state

    def wait(*arguments: Any, **options: Any) -> None:
        assert go.wait(20)
        real(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save_state", wait)
    yield go
    go.set()


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`full(n)` lets the next n states find no space."""
    real, left = checkpoint.write, 0

    def write(path: Path, *arguments: Any) -> None:
        nonlocal left
        if path.name.startswith("step") and left > 0:
            left -= 1
            raise EnvironmentFault(f"{path} could not be written: No space left on device (0 bytes are free).")
        real(path, *arguments)

    def refuse(number: int) -> None:
        nonlocal left
        left = number

    monkeypatch.setattr(checkpoint, "write", write)
    return refuse


def test_training_goes_on_while_a_state_is_written(training: Training, held: threading.Event) -> None:
    training.begin(5)
    assert not held.is_set()
    assert (training.newest(), training.saver.saved_step) == (0, None)
    held.set()
    training.saver.wait()
    assert (training.newest(), training.saver.saved_step, training.acknowledged) == (5, 5, [5])
    assert training.saver.longest > 0
    assert torch.equal(checkpoint.read(training.run.checkpoints / "best.safetensors")[0]["w"], torch.full((2,), 5.0))


def test_a_save_takes_until_it_is_done_not_until_somebody_looks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look comes once a step. A step may take a minute, and what stopping takes is told from the longest save."""
    now = 1_000.0
    monkeypatch.setattr(saving.time, "monotonic", lambda: now)
    training = Training(run)
    training.begin(1)
    training.saver._now.thread.join()
    now += 60
    assert training.saver.due(2, 0.0)
    assert (training.saver.saved_step, training.saver.longest) == (1, 0.0)


def test_one_save_at_a_time(training: Training, held: threading.Event) -> None:
    """By steps the next one waits; by time it is not due."""
    timed = Training(training.run, "1s")
    timed.begin(5)
    assert not timed.saver.due(6, 0.1)
    timer = threading.Timer(0.2, held.set)
    timer.start()
    timed.begin(6)
    assert timed.saver.saved_step == 5
    timed.saver.wait()
    assert timed.acknowledged == [5, 6]
    timer.join()


def test_due_by_steps_and_epochs(training: Training) -> None:
    saver = Saver(Cadence.parse("3st"), 2, print)
    assert [step for step in range(1, 10) if saver.due(step, 0.0)] == [3, 6, 9]
    saver = Saver(Cadence.parse("1ep"), 2, print)
    assert [step for step in range(1, 10) if saver.due(step, step / 4)] == [4, 8]


def test_the_first_automatic_save_comes_within_seconds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(saving.time, "monotonic", lambda: now)
    training = Training(run, "auto")
    assert not training.saver.due(1, 0.0)
    now += 2
    assert training.saver.due(2, 0.0)
    training.begin(2)
    training.saver.wait()
    assert not training.saver.due(3, 0.0)
    assert 0 < training.saver.pace.spent < 1
    now += 600
    assert training.saver.due(4, 0.0)


def test_a_state_that_found_no_space_is_told_once_and_tried_again(training: Training, full: Any) -> None:  # row 35
    training.begin(1)
    training.saver.wait()
    full(3)
    for step in (2, 3, 4):
        training.begin(step)
        training.saver.wait()
        assert training.newest() == training.saver.saved_step == 1
    (told,) = training.told
    assert told.startswith("step 2 is not saved: ")
    assert "checkpoints/step-0000002.safetensors could not be written: No space left on device (0 bytes are free)." in told
    assert told.endswith("Training goes on and tries again; step 1 stays saved")
    assert training.acknowledged == [1]
    training.begin(5)
    training.saver.wait()
    assert training.newest() == 5
    assert training.told[1:] == ["saving works again: step 5 is saved"]
    full(1)
    training.begin(6)
    training.saver.wait()
    assert training.told[2].startswith("step 6 is not saved")


def test_records_without_space_are_a_save_that_failed(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:  # row 36
    """A state must never speak of records that are not there."""

    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("widestep.files.os.write", refused)
        training.run.metrics({"step": 0})
        training.begin(1)
        training.saver.wait()
    assert training.saver.saved_step is None
    assert "step 1 is not saved: " in training.told[0]
    assert "metrics.jsonl could not be written" in training.told[0]
    assert training.told[0].endswith("nothing is saved yet")
    training.saver.insist(1, training.copies(1))
    assert training.newest() == 1


def test_a_run_that_stops_insists(training: Training, full: Any) -> None:  # row 38
    full(saving.ATTEMPTS - 1)
    training.saver.insist(3, training.copies(3))
    assert training.newest() == 3


def test_a_run_that_cannot_save_in_the_end_says_so(training: Training, full: Any) -> None:  # row 35
    full(99)
    with pytest.raises(EnvironmentFault, match=r"step-0000003\.safetensors could not be written") as caught:
        training.saver.insist(3, training.copies(3))
    assert caught.value.exit_code == 5
    assert training.newest() == 0


def test_what_is_saved_already_is_not_saved_again(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    training.begin(3)
    training.saver.insist(3, training.copies(3))
    assert training.acknowledged == [3]


@pytest.mark.parametrize("error", [DirectoryLost("gone"), DirectoryInUse("taken over"), KeyboardInterrupt()])
def test_what_can_never_succeed_ends_training(
    training: Training, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:  # rows 54, 56
    def refused(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "save_state", refused)
    training.begin(1)
    with pytest.raises(type(error)):
        training.saver.wait()
    training.begin(2)
    with pytest.raises(type(error)):
        training.saver.insist(2, training.copies(2))


def test_closing_waits_for_a_save_and_hides_no_other_error(training: Training, held: threading.Event) -> None:
    training.begin(1)
    threading.Timer(0.1, held.set).start()
    training.saver.close()
    assert training.newest() == 1


def test_what_is_copied_is_not_what_training_changes() -> None:
    tensor = torch.zeros(3)
    copy = checkpoint.on_host({"w": tensor, "view": torch.zeros(2, 3).T})
    tensor += 1
    assert copy["w"].tolist() == [0, 0, 0]
    assert copy["view"].is_contiguous()


def test_thousands_of_saves_leave_two(run: Run) -> None:  # row 60
    training, last = Training(run), 2_000 if os.environ.get("WIDESTEP_CHAOS") == "long" else 300
    for step in range(1, last + 1):
        training.begin(step)
    training.saver.wait()
    assert saved_steps(run.checkpoints) == [last, last - 1]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        ".saved",
        "best.safetensors",
        f"step-{last - 1:07}.safetensors",
        f"step-{last:07}.safetensors",
    ]
