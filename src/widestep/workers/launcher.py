"""Start the processes of a job on this machine, watch over them, and start them again when one is lost.

The launcher imports what training needs once and then forks: a process is at its first step a fraction of a second after
another one was lost. It computes nothing and starts no thread and no GPU itself, so a copy of it may.
"""

import contextlib
import faulthandler
import gc
import json
import mmap
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

from widestep.errors import Stopped, WidestepError
from widestep.records.machine import require_loopback
from widestep.workers import pulse, watch
from widestep.workers.children import Child, Outcome
from widestep.workers.launched import LOOPBACK, Launch, die_with
from widestep.workers.pulse import Pulse
from widestep.workers.watch import Hang, Watch

Body = Callable[[Launch, Pulse], int]
"""What every process does: it is told its place and where to show that it is alive, and returns its exit code."""

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_BLOCKED = (*STOPPING, signal.SIGTSTP)
_GRACE_SECONDS = 10.0
_MOMENT_SECONDS = 2.0
_POLL_SECONDS = 0.02
_KILLS_FOR_A_CRASH = 4
"""Being killed from outside says less about a program than crashing: so many of them count as one."""


def run_processes(
    body: Body,
    num_processes: int,
    *,
    restarts: int = 3,
    hang_seconds: float = 300.0,
    say: Callable[[str], None],
    tidy: Callable[[], None] = lambda: None,
) -> int:
    """Run `body` in forked processes until the job has ended, and return its exit code.

    The processes meet at a socket that is bound to the loopback address before they start, so no port can be taken in
    between and nothing listens to the network; every attempt has a new one. Signals are passed on. When a process dies,
    raises an error that nobody explains, or hangs, the others are ended and all start again.

    Parameters
    ----------
    restarts
        How many crashes in a row may leave training no further than before; being ended by SIGKILL, as by a user or a
        batch system, is excused four times as often, unless memory had run out.
    hang_seconds
        How long a process may show no sign of life.
    say
        Takes a line for the user.
    tidy
        Takes down what a process shows on the terminal and cannot take down itself: it was stopped, or it is lost.

    Raises
    ------
    WorkerLost
        When processes were lost and the restarts are used up.
    Stopped
        When a signal was passed on that a process died of, because it had not begun yet.
    WidestepError
        The reason that a process gave, with its exit code.
    """
    if num_processes > 1:
        require_loopback()
    gc.collect()
    gc.freeze()  # what is here already is never looked through again: copies share its memory
    job = _Job(body, num_processes, hang_seconds, tidy)
    previous = {number: signal.signal(number, job.pass_on) for number in STOPPING}
    previous[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, job.pause)
    crashes, kills, furthest, because = 0, 0, -1, ""
    attempt = 0
    try:
        while True:
            ended = job.attempt(attempt, because)
            if ended.code is not None:
                return ended.code
            if job.stopping:
                raise Stopped(
                    f"Stopped by {job.stopping[0].name} before everything could be saved; the same command goes on from the "
                    "last checkpoint."
                )
            if ended.step > furthest:
                crashes, kills, furthest = 0, 0, ended.step
            kills += ended.from_outside
            crashes += not ended.from_outside
            if crashes > restarts or kills > restarts * _KILLS_FOR_A_CRASH:
                raise ended.error(num_processes, attempt)
            attempt, because = attempt + 1, ended.words(num_processes)
            say(f"restart    {because}; going on from the last checkpoint")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass
class _Job:
    body: Body
    num_processes: int
    hang_seconds: float
    tidy: Callable[[], None]
    children: list[Child] = field(default_factory=list)
    stopping: list[signal.Signals] = field(default_factory=list)
    """Signals that were passed on, in order."""

    def pass_on(self, number: int, _frame: FrameType | None) -> None:
        self.stopping.append(signal.Signals(number))
        for child in self.children:
            child.send(number)

    def pause(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: stop the processes, which are in sessions of their own, and this one; go on together."""
        for child in self.children:
            child.send(signal.SIGSTOP)
        self.tidy()
        os.kill(os.getpid(), signal.SIGSTOP)
        for child in self.children:
            child.send(signal.SIGCONT)

    def attempt(self, attempt: int, because: str) -> Outcome:
        """Start all processes and see them through."""
        memory = mmap.mmap(-1, self.num_processes * pulse.NUM_BYTES)
        killed_before = watch.num_out_of_memory()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((LOOPBACK, 0))
            listener.listen(self.num_processes)
            try:
                self._start(listener, memory, attempt, because)
                listener.close()
                hang = self._see_through()
            finally:
                self._end()
                if any(not child.last_words() for child in self.children):
                    self.tidy()
        out_of_memory = watch.num_out_of_memory() > killed_before
        try:
            return Outcome.of(self.children, hang, out_of_memory=out_of_memory)
        finally:
            for child in self.children:
                child.close()
            self.children = []

    def _start(self, listener: socket.socket, memory: mmap.mmap, attempt: int, because: str) -> None:
        size = pulse.NUM_BYTES
        for process in range(self.num_processes):
            own = Pulse(memoryview(memory)[process * size : (process + 1) * size], memoryview(memory))
            told, stack = os.memfd_create("told"), os.memfd_create("stack")
            port, descriptor = listener.getsockname()[1], listener.fileno() if process == 0 else None
            launch = Launch("widestep", process, self.num_processes, process, LOOPBACK, port, descriptor, attempt, because)
            sys.stdout.flush()
            sys.stderr.flush()
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)  # until the copy has handlers of its own
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                if descriptor is None:
                    listener.close()
                _live(self.body, launch, own, told, stack, parent)
            self.children.append(Child(pid, process, own, told, stack))
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)  # a signal that came in between reaches this child, too

    def _see_through(self) -> Hang | None:
        """Wait until all have ended, or one has failed or hangs."""
        observer = Watch(self.hang_seconds)
        while any(child.code is None for child in self.children):
            for child in self.children:
                child.look()
            failed = [child for child in self.children if child.failed]
            if failed and not self.stopping and any(child.is_cause for child in failed):
                return None
            if failed:
                self._let_finish(_GRACE_SECONDS if self.stopping else _MOMENT_SECONDS)
                return None
            living = [(child.pid, child.process, child.pulse, child.stack) for child in self.children if child.code is None]
            if (hang := observer.look(living)) is not None:
                self.children[hang.process].send(signal.SIGKILL)
                return hang
            time.sleep(_POLL_SECONDS)
        return None

    def _let_finish(self, seconds: float) -> None:
        """Give processes that end for the same reason a moment to say so."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(child.code is None for child in self.children):
            for child in self.children:
                child.look()
            time.sleep(_POLL_SECONDS)

    def _end(self) -> None:
        """End what still lives: nothing it could do counts any more, and what it saved is whole."""
        for child in self.children:
            child.look()
            child.ended_by_us = child.code is None
            child.send(signal.SIGKILL)
        for child in self.children:
            while child.code is None:
                child.look()
                time.sleep(_POLL_SECONDS / 10)


def hear_signals() -> None:
    """Let signals end this process of `run_processes`: for a body that has nothing to save."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)


def _live(body: Body, launch: Launch, own: Pulse, told: int, stack: int, parent: int) -> None:
    """Be a process of the job, from the fork to the end; never returns."""
    code, sentence = 1, ""
    try:
        os.setsid()
        die_with(parent)
        faulthandler.register(watch.ASK_FOR_STACK, file=stack, all_threads=True)
        for number in _BLOCKED:
            signal.signal(number, signal.SIG_DFL)
        code = body(launch, own)
    except WidestepError as error:
        code, sentence = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, sentence = Stopped.exit_code, "Stopped at once. What was saved is whole; the same command goes on from there."
    except BaseException as error:  # noqa: BLE001
        frame = traceback.extract_tb(error.__traceback__)[-1]
        sentence = f"{type(error).__name__}: {error} ({os.path.basename(frame.filename)}, line {frame.lineno})"
    finally:
        os.pwrite(told, json.dumps({"code": code, "sentence": sentence}).encode(), 0)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                stream.flush()
        os._exit(code)
