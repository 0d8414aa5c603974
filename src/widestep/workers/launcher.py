"""Start the processes of a job on this machine and see them through: the launcher itself never imports torch."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from widestep.errors import Stopped, WorkerLost
from widestep.workers.launched import child_environment

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_GRACE_SECONDS = 10.0


def run_processes(arguments: Sequence[str], num_processes: int) -> int:
    """Run `python -m widestep ARGUMENTS` in several processes and return the exit code of the job.

    The processes meet at a socket that is bound to the loopback address before they start, so no port can be taken in
    between and nothing listens to the network. Signals are passed on. When one process fails the others are ended.

    Returns
    -------
    0 when all ended well, otherwise the exit code of a process that failed by itself: losing another one comes after that.

    Raises
    ------
    WorkerLost
        When a process was killed by a signal.
    Stopped
        When that signal was one we passed on, and the process had not begun yet.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(num_processes)
        listener.set_inheritable(True)
        port, descriptor = listener.getsockname()[1], listener.fileno()
        children: list[subprocess.Popen[bytes]] = []
        forwarded: set[int] = set()
        previous = {number: signal.signal(number, _forwarding(children, forwarded)) for number in FORWARDED}
        try:
            for process in range(num_processes):
                child = subprocess.Popen(
                    [sys.executable, "-m", "widestep", *arguments],
                    env={**os.environ, **child_environment(process, num_processes, port, descriptor)},
                    pass_fds=(descriptor,) if process == 0 else (),
                    start_new_session=True,
                )
                children.append(child)
                for number in tuple(forwarded):  # a signal that came while processes were being started
                    child.send_signal(number)
            listener.close()
            return _see_through(children, forwarded)
        finally:
            _end(children)
            for number, handler in previous.items():
                signal.signal(number, handler)


def _forwarding(children: Sequence["subprocess.Popen[bytes]"], forwarded: set[int]) -> "signal._HANDLER":
    def forward(number: int, _frame: FrameType | None) -> None:
        forwarded.add(number)
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    return forward


def _see_through(children: Sequence["subprocess.Popen[bytes]"], forwarded: set[int]) -> int:
    while not any(child.poll() for child in children):
        if all(child.poll() == 0 for child in children):
            return 0
        time.sleep(0.02)
    _let_finish(children)
    failed = [(process, child.returncode) for process, child in enumerate(children) if child.returncode]
    process, code = next((one for one in failed if one[1] != WorkerLost.exit_code), failed[0])
    if code > 0:
        return code
    name = signal.Signals(-code).name
    if -code in forwarded:
        raise Stopped(f"Stopped by {name} before training began; the same command goes on from the last checkpoint.")
    raise WorkerLost(
        f"All processes of a job must live. Process {process} of {len(children)} was ended by {name}; the same command "
        "continues from the last checkpoint."
    )


def _let_finish(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Give processes that fail for the same reason a moment to say so."""
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline and any(child.poll() is None for child in children):
        time.sleep(0.02)


def _end(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
