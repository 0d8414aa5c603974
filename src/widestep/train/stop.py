"""Stopping early: a signal or a deadline sets a flag, and the step's reduction carries it to all processes."""

import signal
import time
from dataclasses import dataclass
from types import FrameType
from typing import Self

from widestep.workers.launched import seconds_of_job

_STARTS_APART_SECONDS = 30.0
"""By which processes of a job may begin one after another, and their time limits end."""
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Deadline:
    """When the command has to be over.

    Parameters
    ----------
    time
        On the monotonic clock.
    why
        For the message.
    """

    time: float
    why: str

    @classmethod
    def of(cls, time_limit: float | None) -> Self | None:
        """Return the deadline that the user set in seconds from now, or the end of a scheduler's job, or None."""
        if time_limit is not None:
            return cls(time.monotonic() + time_limit, "the time limit")
        seconds = seconds_of_job()
        return None if seconds is None else cls(time.monotonic() + seconds, "the end of the job")

    def near(self, margin: float) -> bool:
        """Say whether fewer than `margin` seconds are left."""
        return time.monotonic() + margin >= self.time


class StopRequest:
    """Remembers the first reason to stop this process.

    Parameters
    ----------
    deadline
        When the command has to be over.
    impatient
        A second Ctrl-C stops at once. Launchers of others may send the first one twice.
    """

    def __init__(self, deadline: Deadline | None = None, *, impatient: bool = True) -> None:
        self.signal: signal.Signals | None = None
        self._deadline = deadline
        self._impatient = impatient
        self._late = False

    def install(self) -> None:
        """Handle the signals of people, schedulers and launchers from now on (main thread only)."""
        for number in HANDLED:
            signal.signal(number, self._latch)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def _latch(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
        elif number == signal.SIGINT and self._impatient:
            raise KeyboardInterrupt

    def due(self, margin: float) -> bool:
        """Say whether it is time to stop, when that takes up to `margin` seconds."""
        self._late = self._late or (self._deadline is not None and self._deadline.near(margin))
        return self.signal is not None or self._late

    @property
    def reason(self) -> str | None:
        """Why this process stops; None when it was not asked to."""
        if self.signal is not None:
            return self.signal.name
        return self._deadline.why if self._late and self._deadline is not None else None

    def reason_of_others(self, margin: float) -> str:
        """Return why all stop when this process was not asked to; `margin` is what it gave to `due`.

        Another one got a signal, or came to the deadline a little earlier: it began earlier, or is slower.
        """
        if self._deadline is not None and self._deadline.near(2 * margin + _STARTS_APART_SECONDS):
            return self._deadline.why
        return "a signal to another process"
