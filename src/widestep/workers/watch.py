"""Watch over processes: who hangs and where, who was killed, and what to say of it."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from widestep.errors import WidestepError, WorkerLost
from widestep.workers.pulse import Pulse

ASK_FOR_STACK = signal.SIGRTMIN + 7
"""A process of ours that gets it writes its Python stack to a file in memory, even while it holds the interpreter's lock."""

_STACK_SECONDS, _STACK_PAUSE_SECONDS = 3.0, 0.03
"""How long to wait for a stack: a busy machine takes its time, one that was written whole is not waited for."""
_LOOK_SECONDS = 0.25
_SLOW_PHASES = ("starting", "saving", "finishing")
_SLOW_FACTOR = 4.0
"""A process may be silent for longer before its first step, when it reads data sets and compiles, and while it writes."""


@dataclass(frozen=True)
class Hang:
    """A process that shows no sign of life.

    Parameters
    ----------
    seconds
        For how long.
    where
        Where it is, in words.
    stack
        Its Python stack as text; empty when it could not be asked.
    """

    process: int
    phase: str
    step: int
    seconds: float
    where: str
    stack: str


@dataclass(frozen=True)
class Ended:
    """A process that ended the attempt.

    Parameters
    ----------
    signal
        Number of the signal that ended it.
    code
        Its exit code.
    sentence
        What it said.
    step
        Steps that were taken.
    """

    process: int
    signal: int | None = None
    code: int = 0
    sentence: str = ""
    step: int = 0
    hang: Hang | None = None
    out_of_memory: bool = False

    @property
    def from_outside(self) -> bool:
        """Whether somebody killed it."""
        return self.signal in (signal.SIGKILL, signal.SIGTERM) and not self.out_of_memory

    def words(self, num_processes: int) -> str:
        """Say in a clause what happened."""
        who = f"process {self.process} of {num_processes}"
        if self.hang is not None:
            found = self.hang
            return (
                f"{who} showed no sign of life for {found.seconds:.0f} s while {found.phase} at step {found.step:,} "
                f"({found.where}) and was ended"
            )
        if self.signal is not None:
            if self.out_of_memory:
                return f"{who} was killed at step {self.step:,} because memory ran out ({memory_limit()})"
            return f"{who} was ended by {signal.Signals(self.signal).name} at step {self.step:,}"
        if self.sentence:
            return f"{who} failed at step {self.step:,} with {self.sentence}"
        return f"{who} ended with exit code {self.code} at step {self.step:,}, before training was over"

    def error(self, num_processes: int, restarts: int) -> WidestepError:
        """Return the error that ends the job when restarts do not help."""
        words = self.words(num_processes)
        advice = "the same command continues from the last checkpoint"
        if self.out_of_memory:
            advice = "compute fewer images at once (--images-per-forward, --workers-per-forward) or give it more memory"
        tried = f" {restarts} restart(s) did not help:" if restarts else ""
        failure: WidestepError = WorkerLost(f"All processes of a job must live.{tried} {words}; {advice}.")
        if self.hang is None and self.signal is None and self.code:
            failure.exit_code = self.code
        return failure


class Watch:
    """Finds the process that everybody waits for.

    Time in which this process did not run itself, because the whole job was suspended, does not count.

    Parameters
    ----------
    seconds
        How long a process may show no sign of life.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._looked = time.monotonic()
        self._seen: dict[int, tuple[float, float]] = {}
        """process -> its newest sign of life, and how long we have watched it show none since."""

    def look(self, living: Sequence[tuple[int, int, Pulse, int]]) -> Hang | None:
        """Look at the processes that live, each as (pid, number, pulse, file for its stack), and name one that hangs."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS or not living:
            return None
        watched, self._looked = min(now - self._looked, 2 * _LOOK_SECONDS), now
        for _, process, pulse, _ in living:
            last, silent = self._seen.get(process, (pulse.last, 0.0))
            self._seen[process] = (pulse.last, silent + watched if pulse.last == last else 0.0)
        stopped = {process for pid, process, _, _ in living if is_stopped(pid)}
        if not all(self._silent(process) >= self._limit(pulse, process in stopped) for _, process, pulse, _ in living):
            return self._alone(living, stopped)
        return self._hang(min(living, key=lambda one: _suspicion(one[2], one[1] in stopped)))

    def _alone(self, living: Sequence[tuple[int, int, Pulse, int]], stopped: set[int]) -> Hang | None:
        """Name a process that hangs though others show signs of life: it is not waiting for them."""
        for one in living:
            _, process, pulse, _ = one
            waits = pulse.phase == "exchanging" and process not in stopped
            if not waits and self._silent(process) >= self._limit(pulse, process in stopped):
                return self._hang(one)
        return None

    def _silent(self, process: int) -> float:
        return self._seen[process][1]

    def _limit(self, pulse: Pulse, stopped: bool) -> float:
        return self._seconds * (_SLOW_FACTOR if pulse.phase in _SLOW_PHASES and not stopped else 1.0)

    def _hang(self, one: tuple[int, int, Pulse, int]) -> Hang:
        pid, process, pulse, stack_file = one
        where, stack = "stopped by a signal", ""
        if not is_stopped(pid):
            stack = _stack_of(pid, stack_file)
            where = _innermost(stack)
        return Hang(process, pulse.phase, pulse.step, self._silent(process), where, stack)


def _suspicion(pulse: Pulse, stopped: bool) -> tuple[bool, bool, int]:
    """Order processes that are all silent: the stopped one, then one that is not waiting, then the one that is behind."""
    return (not stopped, pulse.phase == "exchanging", pulse.num_meetings)


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped by a signal or a debugger (Linux)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] in ("T", "t")


def _stack_of(pid: int, stack_file: int) -> str:
    """Ask a process for its Python stack, which it writes piece by piece."""
    os.ftruncate(stack_file, 0)
    os.kill(pid, ASK_FOR_STACK)
    deadline = time.monotonic() + _STACK_SECONDS
    before, stack = "", ""
    while time.monotonic() < deadline and not (stack == before and stack.endswith("\n") and _main_thread(stack)):
        time.sleep(_STACK_PAUSE_SECONDS)
        before, stack = stack, os.pread(stack_file, 1 << 16, 0).decode(errors="replace")
    return stack


def _main_thread(stack: str) -> list[str]:
    """Return the frames of the main thread, the innermost first, as faulthandler wrote them; none before it has."""
    lines = stack.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("Current thread")]
    begin = starts[-1] if starts else next((n for n in reversed(range(len(lines))) if lines[n].startswith("Thread")), None)
    return [] if begin is None else lines[begin + 1 :]


def _innermost(stack: str) -> str:
    """Return where the main thread is: its innermost frame."""
    frames = _main_thread(stack)
    return (
        "at " + " ".join(frames[0].replace('File "', "").replace('"', "").split())
        if frames
        else "its stack could not be read"
    )


def num_out_of_memory() -> int:
    """Return how many processes of this one's control group were killed because memory ran out, so far (Linux; else 0)."""
    total = 0
    for path in _memory_files("memory.events", "memory.oom_control"):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(" ")
            total += int(value) if name == "oom_kill" else 0
    return total


def memory_limit() -> str:
    """Say in words how much memory this process's control group may use."""
    for path in _memory_files("memory.max", "memory.limit_in_bytes"):
        text = path.read_text(encoding="utf-8").strip()
        if text.isdecimal() and int(text) < 1 << 60:
            return f"limit {int(text) / (1 << 30):.1f} GiB"
    return "no limit is set"


def _memory_files(*names: str) -> list[Path]:
    """Return the readable files of these names in this process's control group, of version 2 or 1."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")):
            own = root / group.lstrip("/")
            directory = own if own.is_dir() else root  # within a container the group's own path is not always there
            found += [directory / name for name in names if os.access(directory / name, os.R_OK)]
    return list(dict.fromkeys(found))
