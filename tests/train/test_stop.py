"""Training that must be over in time is: by a clock that stands still but for what the test says takes long."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from widestep.cli.console import SilentWatcher
from widestep.errors import Stopped
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe
from widestep.records.run import Run
from widestep.train import checkpoint, loop, saving
from widestep.train.loop import train
from widestep.train.stop import Deadline, StopRequest
from widestep.workers.engine import GradientEngine
from widestep.workers.world import World

pytestmark = pytest.mark.usefixtures("quiet_torch")


@dataclass
class Clock:
    """A step, a save and an evaluation take this many seconds, all else takes none."""

    step: float = 0.0
    save: float = 0.0
    evaluation: float = 0.0
    now: float = 1_000.0

    def monotonic(self) -> float:
        return self.now


class AtOnce:
    """A thread that has done its work once it is started: how much of a save another thread does cannot be foreseen."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], **_: Any) -> None:
        self.start = lambda: target(*args)

    def is_alive(self) -> bool:
        return False

    def join(self) -> None: ...


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    def lengthen(owner: Any, name: str, duration: str) -> None:
        real = getattr(owner, name)

        def longer(*arguments: Any, **options: Any) -> Any:
            clock.now += getattr(clock, duration)
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, longer)

    lengthen(GradientEngine, "gradients", "step")
    lengthen(checkpoint, "save_state", "save")
    lengthen(loop, "evaluate", "evaluation")
    monkeypatch.setattr(saving, "Thread", AtOnce)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


def stopped(recipe: Recipe, directory: Path, limit: float) -> int:
    """Train under a time limit; return the step after which it stopped, with everything saved."""
    run = Run(directory, recipe)
    execution = Execution(tensorboard=False, loader_threads=0, device="cpu", checkpoint_every="2st")
    with pytest.raises(Stopped, match="Stopped by the time limit after step"):
        train([run], execution, World(), SilentWatcher(), StopRequest(Deadline.of(limit)))
    (*_, newest) = sorted(run.checkpoints.glob("step-*"))
    return int(newest.stem.partition("-")[2])


def test_the_margin_by_hand(small: Callable[..., Recipe], tmp_path: Path, clock: Clock) -> None:
    """Two more steps and two saves must fit, and 3 s to spare: at step n, 2n + 3 + 2 x 2 >= 40 from n = 17 on."""
    clock.step = 2.0
    assert stopped(small(epochs="20"), tmp_path / "run", 40.0) == 17


@pytest.mark.parametrize("limit", [30.0, 61.5, 100.0])
@pytest.mark.parametrize("seconds", [(3, 0, 0), (1, 4, 0), (1, 0, 8), (0.1, 2, 5)])
def test_it_is_over_in_time_and_not_long_before(
    small: Callable[..., Recipe], tmp_path: Path, clock: Clock, seconds: tuple[float, ...], limit: float
) -> None:
    """Whatever is slow. A state is saved every second step, an evaluation comes every sixth.

    What may come between two looks at the clock is a step, a save and an evaluation. A step that waited for the save before
    it counts as that much longer.
    """
    clock.step, clock.save, clock.evaluation = seconds
    began = clock.now
    stopped(small(epochs="400", evaluate_every="1ep"), tmp_path / "run", limit)
    early = began + limit - clock.now
    margin = 3 + 2 * (clock.step + clock.save + clock.save) + clock.evaluation
    assert 0 <= early <= margin + clock.step + clock.save + clock.evaluation


def test_without_a_limit_the_end_of_the_job_counts(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """SLURM names it in seconds since 1970, by another clock than the one that measures."""
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1700000060")
    deadline = Deadline.of(None)
    assert deadline == Deadline(1_060.0, "the end of the job")
    assert Deadline.of(5.0) == Deadline(1_005.0, "the time limit")
    stop = StopRequest(deadline)
    assert (stop.due(59.5), stop.reason) == (False, None)
    assert (stop.due(60.0), stop.reason) == (True, "the end of the job")
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert Deadline.of(None) is None


def test_who_was_not_asked_says_why_the_others_stop(clock: Clock) -> None:
    """It had 40 s more by its own clock, or the other process got a signal."""
    stop = StopRequest(Deadline(clock.now + 100.0, "the time limit"))
    assert (stop.due(60.0), stop.reason) == (False, None)
    assert stop.reason_of_others(60.0) == "the time limit"
    assert stop.reason_of_others(30.0) == "a signal to another process"
    assert StopRequest().reason_of_others(60.0) == "a signal to another process"
