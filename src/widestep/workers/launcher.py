"""Start the processes of a job on this machine and see them through: the launcher itself never imports torch."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from widestep.errors import WorkerLost
from widestep.workers.launched import child_environment

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_GRACE_SECONDS = 10.0


def run_processes(arguments: Sequence[str], num_processes: int) -> int:
    """Run `python -m widestep ARGUMENTS` in several processes and return the exit code of the job.

    The processes meet at a socket that is bound to the loopback address before they start, so no port can be taken in
    between and nothing listens to the network. Signals are passed on. When one process fails the others are ended.

    Returns
    -------
    0 when all ended well, otherwise the exit code of the process that failed first.

    Raises
    ------
    WorkerLost
        When a process was killed by a signal.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(num_processes)
        listener.set_inheritable(True)
        port, descriptor = listener.getsockname()[1], listener.fileno()
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "widestep", *arguments],
                env={**os.environ, **child_environment(process, num_processes, port, descriptor)},
                pass_fds=(descriptor,) if process == 0 else (),
                start_new_session=True,
            )
            for process in range(num_processes)
        ]
    previous = {number: signal.signal(number, _forwarding(children)) for number in FORWARDED}
    try:
        return _see_through(children)
    finally:
        _end(children)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _forwarding(children: Sequence["subprocess.Popen[bytes]"]) -> "signal._HANDLER":
    def forward(number: int, _frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    return forward


def _see_through(children: Sequence["subprocess.Popen[bytes]"]) -> int:
    while True:
        for process, child in enumerate(children):
            code = child.poll()
            if code:
                _let_finish(children)
                if code < 0:
                    raise WorkerLost(
                        f"All processes of a job must live. Process {process} of {len(children)} was ended by "
                        f"{signal.Signals(-code).name}; the same command continues from the last checkpoint."
                    )
                return code
        if all(child.poll() == 0 for child in children):
            return 0
        time.sleep(0.02)


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
