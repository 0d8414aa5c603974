"""The processes that our launcher has started: how they end, and which of them the job ended by."""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from widestep.errors import WidestepError, WorkerLost
from widestep.workers.pulse import Pulse
from widestep.workers.watch import Ended, Hang


@dataclass
class Child:
    """A process that was started."""

    pid: int
    process: int
    pulse: Pulse
    told: int
    """File in memory in which it says how it ended."""
    stack: int
    """File in memory into which it writes where it is, when it is asked."""
    code: int | None = None
    """Its exit code, or minus the number of the signal that ended it; None while it lives."""
    ended_by_us: bool = False

    def look(self) -> None:
        """Find out whether it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)

    def send(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def last_words(self) -> dict[str, str | int]:
        """Return what it said; nothing when it could not, as after a kill."""
        text = os.pread(self.told, 1 << 20, 0)
        found: dict[str, str | int] = json.loads(text) if text else {}
        return found

    @property
    def failed(self) -> bool:
        """Whether it ended in any way but the usual one."""
        return self.code is not None and (self.code != 0 or not self.last_words())

    @property
    def is_cause(self) -> bool:
        """Whether it died or raised an error that nobody explains: no other process knows better why the job ends."""
        return not self.last_words() or self.code == 1

    def close(self) -> None:
        """Let go of its files."""
        os.close(self.told)
        os.close(self.stack)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Parameters
    ----------
    code
        The exit code of the job; None when it may start again.
    """

    code: int | None
    step: int = 0
    cause: Ended | None = None

    @classmethod
    def of(cls, children: Sequence[Child], hang: Hang | None, *, out_of_memory: bool) -> "Outcome":
        """Tell what ended an attempt: the first that says more than that it lost another one.

        Raises
        ------
        WidestepError
            What a process explained, which starting again would not mend.
        """
        step = max(child.pulse.step for child in children)
        if hang is not None:
            return cls(None, step, Ended(hang.process, hang=hang, step=step))
        said = {child.process: child.last_words() for child in children}
        if all(child.code == 0 and said[child.process] for child in children):
            return cls(0)
        died = any(child.failed and not said[child.process] and not child.ended_by_us for child in children)
        for child in children if not died else ():  # what the others say of it is that they have lost it
            words = said[child.process]
            code = int(words.get("code", 0))
            if code not in (0, 1, WorkerLost.exit_code) and (words.get("sentence") or code == 4):
                if not words.get("sentence"):  # a result, not an error
                    return cls(code)
                failure = WidestepError(str(words["sentence"]))
                failure.exit_code = code
                raise failure
        return cls(None, step, _first_cause(children, said, step, out_of_memory=out_of_memory))

    @property
    def from_outside(self) -> bool:
        """Whether somebody killed a process."""
        return self.cause is not None and self.cause.from_outside

    def words(self, num_processes: int) -> str:
        """Say in a clause what happened."""
        assert self.cause is not None
        return self.cause.words(num_processes)

    def error(self, num_processes: int, restarts: int) -> WidestepError:
        """Return the error that ends the job."""
        assert self.cause is not None
        return self.cause.error(num_processes, restarts)


def _first_cause(
    children: Sequence[Child], said: dict[int, dict[str, str | int]], step: int, *, out_of_memory: bool
) -> Ended:
    """Find the process that failed by itself: those that were ended by us, or lost another, come last."""

    def rank(child: Child) -> int:
        if child.ended_by_us:
            return 4
        code = said[child.process].get("code")
        return {None: 0, 1: 1, WorkerLost.exit_code: 3}.get(code, 2)  # type: ignore[arg-type]

    child = min(children, key=rank)
    words = said[child.process]
    return Ended(
        child.process,
        signal=-child.code if child.code is not None and child.code < 0 else None,
        code=child.code or 0,
        sentence=str(words.get("sentence", "")),
        step=step,
        out_of_memory=out_of_memory,
    )
