"""Our own launcher, with programs that start in milliseconds in the place of training."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from widestep.errors import Stopped, WorkerLost
from widestep.workers import launcher
from widestep.workers.launcher import FORWARDED, run_processes

Started = Callable[[str], list[str]]


@pytest.fixture
def instead_of_widestep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Let every process run a few lines of Python, which find their number in `me` and a folder in `out`."""

    def arrange(body: str) -> None:
        program = tmp_path / "program"
        start = f"#!{sys.executable} -IS\nimport os, pathlib, signal, sys, time\n"
        known = f"me = int(os.environ['RANK']); out = pathlib.Path({str(tmp_path)!r})\n"
        program.write_text(start + known + body)
        program.chmod(0o700)
        monkeypatch.setattr(launcher.sys, "executable", str(program))

    return arrange


def test_all_end_well(instead_of_widestep: Any, tmp_path: Path) -> None:
    """Every process knows its place, gets the arguments, and process 0 holds the socket at which they meet."""
    instead_of_widestep(
        "names = 'WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR'.split()\n"
        "facts = [os.environ[name] for name in names] + sys.argv[1:]\n"
        "import _socket\n"
        "if me == 0:\n"
        "    held = _socket.socket(fileno=int(os.environ['WIDESTEP_LISTEN']))\n"
        "    facts.append(str(held.getsockname() == ('127.0.0.1', int(os.environ['MASTER_PORT']))))\n"
        "(out / str(me)).write_text(' '.join(facts))\n"
    )
    assert run_processes(["train", "--seed", "1"], 3) == 0
    said = [(tmp_path / str(process)).read_text() for process in range(3)]
    assert said == [
        "3 0 3 127.0.0.1 -m widestep train --seed 1 True",
        "3 1 3 127.0.0.1 -m widestep train --seed 1",
        "3 2 3 127.0.0.1 -m widestep train --seed 1",
    ]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([3, 3, 3], 3), ([0, 0, 6], 6), ([8, 3, 8], 3), ([8, 8, 75], 75), ([8, 8, 8], 8)],
)
def test_the_code_of_the_process_that_failed_by_itself(instead_of_widestep: Any, codes: list[int], expected: int) -> None:
    """8 says that another process was lost."""
    instead_of_widestep(f"sys.exit({codes}[me])")
    assert run_processes([], 3) == expected


def test_a_killed_process_is_named(instead_of_widestep: Any) -> None:
    instead_of_widestep("if me == 1: os.kill(os.getpid(), signal.SIGKILL)\nsys.exit(8)")
    with pytest.raises(WorkerLost, match="Process 1 of 3 was ended by SIGKILL"):
        run_processes([], 3)


def test_the_others_end_when_one_fails(instead_of_widestep: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Even one that does not listen to SIGTERM."""
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.2)
    instead_of_widestep(
        "(out / str(me)).write_text(str(os.getpid()))\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while not all((out / str(other)).exists() for other in (0, 1)): time.sleep(0.01)\n"
        "if me == 0: time.sleep(100)\n"
        "sys.exit(5)\n"
    )
    assert run_processes([], 2) == 5
    for process in range(2):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / str(process)).read_text()), 0)


def send_when(true: Callable[[], bool], number: int) -> threading.Thread:
    """Send a signal to this process as soon as something holds."""

    def wait() -> None:
        deadline = time.monotonic() + 20
        while not true() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("number", FORWARDED)
def test_signals_are_passed_on(instead_of_widestep: Any, tmp_path: Path, number: int) -> None:
    before = [signal.getsignal(one) for one in FORWARDED]
    instead_of_widestep(
        "def stop(number, frame):\n"
        "    (out / f'got{me}').write_text(str(number))\n"
        "    sys.exit(75)\n"
        f"signal.signal({int(number)}, stop)\n"
        "(out / f'ready{me}').touch()\n"
        "time.sleep(100)\n"
    )
    sender = send_when(lambda: all((tmp_path / f"ready{process}").exists() for process in range(2)), number)
    assert run_processes([], 2) == 75
    sender.join()
    assert [(tmp_path / f"got{process}").read_text() for process in range(2)] == [str(int(number))] * 2
    assert [signal.getsignal(one) for one in FORWARDED] == before


def test_a_signal_before_training_begins_is_a_stop(instead_of_widestep: Any, tmp_path: Path) -> None:
    """While it still imports its libraries, a process does not handle signals yet and is ended by the first."""
    instead_of_widestep("(out / f'ready{me}').touch()\ntime.sleep(100)\n")
    sender = send_when(lambda: all((tmp_path / f"ready{process}").exists() for process in range(2)), signal.SIGTERM)
    with pytest.raises(Stopped, match="Stopped by SIGTERM before training began"):
        run_processes([], 2)
    sender.join()
