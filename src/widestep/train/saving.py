"""Saving while training goes on: the loop copies its state on the host, one thread at a time writes it.

A save that fails is told once, counts as not made, and is tried again when the next one is due; training goes on. Only what
can never succeed - the directory was moved, or another job has taken it over - ends the run. A run that ends or stops
insists.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, TypeVar

from torch import Tensor

from widestep.errors import EnvironmentFault
from widestep.locks import DirectoryLost
from widestep.plan.cadence import Cadence, Pace
from widestep.records.run import Run
from widestep.train import checkpoint

Value = TypeVar("Value")
ATTEMPTS = 3
PAUSE_SECONDS = 0.3
"""Between attempts at what has no later time to be tried again."""


@dataclass(frozen=True)
class Weights:
    """The best weights so far, to be written beside the state that speaks of them."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Copied:
    """One run's state on the host, which training no longer changes, and its record files written up to it."""

    run: Run
    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    best: Weights | None
    acknowledge: Callable[[], None]
    """Called once all of it is saved for certain, by the thread that trains."""

    def write(self, keep: int) -> None:
        """Write records, best weights and the state, in this order: each may speak of what comes before it."""
        run = self.run
        run.sync_records()
        if self.best is not None:
            checkpoint.write(run.checkpoints / "best.safetensors", self.best.tensors, self.best.facts, run.fence)
        checkpoint.save_state(run.checkpoints, self.step, self.tensors, self.facts, keep=keep, fence=run.fence)


@dataclass
class _Save:
    """One save under way."""

    step: int
    copies: Sequence[Copied]
    began: float
    blocked: float
    """Seconds for which training waited."""
    computed: float = 0.0
    """Seconds of the processor that the thread took away from training."""
    ended: float = 0.0
    failure: BaseException | None = None
    thread: Thread | None = field(default=None, repr=False)

    def work(self, keep: int) -> None:
        try:
            for copy in self.copies:
                copy.write(keep)
        except BaseException as error:  # noqa: BLE001 - told to the main thread, which decides
            self.failure = error
        self.computed = time.thread_time()
        self.ended = time.monotonic()


class Saver:
    """Saves the runs of a session on process 0.

    Parameters
    ----------
    cadence
        How often.
    keep
        How many states to keep.
    told
        Is told what the user should know.

    Attributes
    ----------
    longest
        Seconds of the longest save so far, from the copy to the certainty.
    saved_step
        The newest step that was saved for certain, or None.
    """

    def __init__(self, cadence: Cadence, keep: int, told: Callable[[str], None]) -> None:
        self.longest = 0.0
        self.saved_step: int | None = None
        self.pace = Pace()
        self._cadence, self._keep, self._told = cadence, keep, told
        self._began = self._last = time.monotonic()
        self._now: _Save | None = None
        self._failing = False

    def due(self, step: int, epochs: float) -> bool:
        """Say whether to save after `step` steps, which are `epochs` epochs; by time never while one is under way."""
        self._hear()
        now = time.monotonic()
        if self._cadence.unit == "auto":
            return self._now is None and self.pace.due(now - self._began)
        if self._cadence.unit == "s" and self._now is not None:
            return False
        return self._cadence.due(step, epochs, now - self._last)

    def begin(self, step: int, copy: Callable[[], Sequence[Copied]]) -> None:
        """Copy the states and write them while training goes on; waits for a save that is still under way.

        Parameters
        ----------
        copy
            Returns the states; raises EnvironmentFault when their records cannot be written.
        """
        began = self._last = time.monotonic()
        self.wait()
        try:
            copies, failure = copy(), None
        except EnvironmentFault as error:
            copies, failure = [], error
        self._now = save = _Save(step, copies, began, time.monotonic() - began, failure=failure)
        if failure is None:
            save.thread = Thread(target=save.work, args=(self._keep,), name="widestep-saving", daemon=True)
            save.thread.start()

    def wait(self) -> None:
        """Wait for the save under way and take note of its outcome."""
        self._joined()
        self._hear()

    def insist(self, step: int, copy: Callable[[], Sequence[Copied]]) -> None:
        """Save now and be certain.

        Raises
        ------
        EnvironmentFault
            When it fails again and again.
        """

        def attempt() -> None:
            self.begin(step, copy)
            failure = self._joined()
            self._hear()
            if failure is not None:
                raise failure

        self.wait()
        if self.saved_step != step:
            insist(attempt)

    def _joined(self) -> BaseException | None:
        save = self._now
        if save is not None and save.thread is not None:
            save.thread.join()
        return None if save is None else save.failure

    def close(self) -> None:
        """Let a save under way come to its end, whatever that is: training ends for another reason."""
        self._joined()
        with contextlib.suppress(EnvironmentFault):
            self._hear()

    def _hear(self) -> None:
        """Take note of a save that is over."""
        save = self._now
        if save is None or (save.thread is not None and save.thread.is_alive()):
            return
        self._now, now = None, time.monotonic()
        self.pace.count(now - self._began, save.blocked + save.computed)
        if save.failure is None:
            self.longest = max(self.longest, save.ended - save.began)
            self.saved_step = save.step
            for copy in save.copies:
                copy.acknowledge()
            if self._failing:
                self._told(f"saving works again: step {save.step:,} is saved")
            self._failing = False
        else:
            self._failed(save, save.failure)

    def _failed(self, save: _Save, failure: BaseException) -> None:
        if isinstance(failure, DirectoryLost) or not isinstance(failure, EnvironmentFault):
            raise failure
        if not self._failing:
            kept = "nothing is saved yet" if self.saved_step is None else f"step {self.saved_step:,} stays saved"
            self._told(f"step {save.step:,} is not saved: {failure} Training goes on and tries again; {kept}")
        self._failing = True


def insist(action: Callable[[], Value]) -> Value:
    """Do what cannot be tried again later, a few times if need be; raises EnvironmentFault when it fails each time."""
    for _ in range(ATTEMPTS - 1):
        try:
            return action()
        except DirectoryLost:
            raise
        except EnvironmentFault:
            time.sleep(PAUSE_SECONDS)
    return action()
