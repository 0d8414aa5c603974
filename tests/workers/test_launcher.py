"""Our own launcher, with a few lines in the place of training."""

import faulthandler
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from widestep.errors import DataError, EnvironmentFault, Stopped, StoreError, WidestepError, WorkerLost
from widestep.workers import launcher
from widestep.workers.launched import Launch
from widestep.workers.launcher import STOPPING, run_processes
from widestep.workers.pulse import Pulse

pytestmark = pytest.mark.processes
Body = Callable[[Launch, Pulse], int]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(said: list[str]) -> Callable[..., int]:
    """Run a body in processes, with patience for half a second."""

    def start(body: Body, num_processes: int, **options: Any) -> int:
        return run_processes(body, num_processes, **{"hang_seconds": 60.0, "say": said.append, **options})

    return start


def unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def kill_itself(number: int) -> None:
    faulthandler.disable()
    unblock()
    os.kill(os.getpid(), number)
    time.sleep(100)


def count(file: Path) -> int:
    """How often this was called, over all attempts."""
    with file.open("a") as out:
        out.write(".")
    return len(file.read_text())


def test_all_end_well(run: Any, tmp_path: Path) -> None:
    """Every process knows its place, and process 0 holds a socket of the loopback interface at which they meet."""

    def body(launch: Launch, pulse: Pulse) -> int:
        facts = [launch.launcher, launch.num_processes, launch.local_process, launch.address, launch.attempt]
        if launch.process == 0:
            assert launch.listen_descriptor is not None
            held = socket.socket(fileno=launch.listen_descriptor)
            facts.append(held.getsockname() == ("127.0.0.1", launch.port))
        (tmp_path / str(launch.process)).write_text(" ".join(map(str, facts)))
        return 0

    assert run(body, 3) == 0
    told = [(tmp_path / str(process)).read_text() for process in range(3)]
    assert told == ["widestep 3 0 127.0.0.1 0 True", "widestep 3 1 127.0.0.1 0", "widestep 3 2 127.0.0.1 0"]


def test_a_diverged_run_has_its_code(run: Any) -> None:
    assert run(lambda launch, pulse: 4, 2) == 4


def test_the_first_reason_is_told_and_nothing_is_tried_again(run: Any, said: list[str]) -> None:
    """A process that has lost another one, or ends with its code, says less than the one that failed by itself."""

    def body(launch: Launch, pulse: Pulse) -> int:
        if launch.process == 1:
            raise DataError("cats/7.jpg is no image.")
        time.sleep(0.05)
        raise WorkerLost("Process 0 lost another one.")

    with pytest.raises(WidestepError, match=r"^cats/7.jpg is no image\.$") as caught:
        run(body, 3)
    assert caught.value.exit_code == 3
    assert said == []


def test_a_death_says_more_than_what_others_say_of_it(run: Any, said: list[str]) -> None:
    """As while they meet, where the others can only tell that it does not work."""

    def body(launch: Launch, pulse: Pulse) -> int:
        if launch.attempt == 0 and launch.process == 1:
            kill_itself(signal.SIGKILL)
        if launch.attempt == 0:
            raise EnvironmentFault("All 2 processes must meet.")
        return 0

    assert run(body, 2) == 0
    assert said == ["restart    process 1 of 2 was ended by SIGKILL at step 0; going on from the last checkpoint"]


def test_a_killed_process_is_started_again_with_all_others(run: Any, said: list[str], tmp_path: Path) -> None:  # row 1
    def body(launch: Launch, pulse: Pulse) -> int:
        pulse.beat("computing", 840 + launch.process)
        if launch.process == 2 and launch.attempt == 0:
            kill_itself(signal.SIGKILL)
        if launch.attempt == 0:
            time.sleep(100)
        (tmp_path / f"{launch.process} {launch.attempt} {launch.because}").touch()
        return 0

    assert run(body, 3) == 0
    because = "process 2 of 3 was ended by SIGKILL at step 842"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{process} 1 {because}" for process in range(3)]
    assert said == [f"restart    {because}; going on from the last checkpoint"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (partial(kill_itself, signal.SIGSEGV), "was ended by SIGSEGV at step 7"),
        (lambda: os._exit(1), "ended with exit code 1 at step 7, before training was over"),
        (lambda: os._exit(0), "ended with exit code 0 at step 7, before training was over"),
        (lambda: sys.exit(0), "failed at step 7 with SystemExit: 0 (test_launcher.py, line "),
        (lambda: 1 / 0, "failed at step 7 with ZeroDivisionError: division by zero (test_launcher.py, line "),
    ],
    ids=["segfault", "exit 1", "exit 0", "sys.exit", "raise"],
)
def test_any_other_end_is_a_loss(run: Any, said: list[str], how: Any, words: str) -> None:  # row 12
    def body(launch: Launch, pulse: Pulse) -> int:
        pulse.beat("computing", 7)
        if launch.process == 1 and launch.attempt == 0:
            how()
        if launch.attempt == 0:
            time.sleep(100)
        return 0

    assert run(body, 2) == 0
    assert len(said) == 1
    assert said[0].startswith(f"restart    process 1 of 2 {words}")
    assert said[0].endswith("; going on from the last checkpoint")


def test_a_crash_at_the_same_step_comes_to_an_end(run: Any, said: list[str], tmp_path: Path) -> None:  # row 13
    def body(launch: Launch, pulse: Pulse) -> int:
        count(tmp_path / "attempts")
        pulse.beat("computing", 5)
        raise ZeroDivisionError("by zero")

    with pytest.raises(
        WorkerLost, match=r"3 restart\(s\) did not help: process 0 of 1 failed at step 5 with Zero"
    ) as caught:
        run(body, 1)
    assert caught.value.exit_code == 1  # that of the cause
    assert (tmp_path / "attempts").read_text() == "...."
    assert len(said) == 3


def test_progress_renews_the_restarts(run: Any, said: list[str], tmp_path: Path) -> None:
    """Ten crashes, each two steps further than the one before."""

    def body(launch: Launch, pulse: Pulse) -> int:
        pulse.beat("computing", 2 * launch.attempt)
        if launch.attempt < 10:
            kill_itself(signal.SIGABRT)
        return 0

    assert run(body, 1, restarts=1) == 0
    assert len(said) == 10


@pytest.mark.parametrize(("number", "attempts"), [(signal.SIGKILL, 9), (signal.SIGABRT, 3)])
def test_kills_are_excused_more_often_than_crashes(run: Any, tmp_path: Path, number: int, attempts: int) -> None:
    def body(launch: Launch, pulse: Pulse) -> int:
        count(tmp_path / "attempts")
        kill_itself(number)
        return 0

    with pytest.raises(WorkerLost) as caught:
        run(body, 1, restarts=2)
    assert caught.value.exit_code == 8
    assert len((tmp_path / "attempts").read_text()) == attempts


def test_no_restarts(run: Any, said: list[str]) -> None:
    with pytest.raises(
        WorkerLost, match=r"^All processes of a job must live\. process 0 of 1 was ended by SIGKILL at step 0;"
    ):
        run(lambda *_: kill_itself(signal.SIGKILL), 1, restarts=0)
    assert said == []


def test_the_others_end_when_one_fails(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Even one that does not listen to SIGTERM."""
    monkeypatch.setattr(launcher, "_MOMENT_SECONDS", 0.2)

    def body(launch: Launch, pulse: Pulse) -> int:
        (tmp_path / str(launch.process)).write_text(str(os.getpid()))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while not all((tmp_path / str(other)).exists() for other in (0, 1)):
            time.sleep(0.01)
        if launch.process == 0:
            time.sleep(100)
        raise StoreError("All checkpoints are damaged.")

    with pytest.raises(WidestepError, match=r"All checkpoints are damaged\."):
        run(body, 2)
    for process in range(2):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / str(process)).read_text()), 0)


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)


def signal_the_launcher(number: int) -> None:
    os.kill(os.getppid(), number)


@pytest.mark.parametrize("number", STOPPING)
def test_signals_are_passed_on(run: Any, tmp_path: Path, number: int) -> None:  # rows 16, 17, 22
    before = [signal.getsignal(one) for one in STOPPING]

    def body(launch: Launch, pulse: Pulse) -> int:
        def stop(got: int, _frame: Any) -> None:
            (tmp_path / f"got{launch.process}").write_text(str(got))
            wait_for((tmp_path / f"got{1 - launch.process}").exists)  # as training does, which ends together
            raise Stopped("Saved.")

        signal.signal(number, stop)
        unblock()
        (tmp_path / f"ready{launch.process}").touch()
        if launch.process == 0:
            wait_for((tmp_path / "ready1").exists)
            signal_the_launcher(number)
        time.sleep(100)
        return 0

    with pytest.raises(WidestepError, match=r"^Saved\.$") as caught:
        run(body, 2)
    assert caught.value.exit_code == 75
    assert [(tmp_path / f"got{process}").read_text() for process in range(2)] == [str(int(number))] * 2
    assert [signal.getsignal(one) for one in STOPPING] == before


def test_a_signal_before_training_begins_is_a_stop(run: Any, said: list[str]) -> None:
    def body(launch: Launch, pulse: Pulse) -> int:
        unblock()
        signal_the_launcher(signal.SIGTERM)
        time.sleep(100)
        return 0

    with pytest.raises(Stopped, match="Stopped by SIGTERM before everything could be saved; the same command goes on"):
        run(body, 1)
    assert said == []


def test_a_signal_that_comes_while_processes_start_is_not_lost(run: Any, tmp_path: Path) -> None:
    """It waits until the process has a handler for it."""

    def body(launch: Launch, pulse: Pulse) -> int:
        signal_the_launcher(signal.SIGTERM)
        wait_for(lambda: signal.SIGTERM in signal.sigpending())
        signal.signal(signal.SIGTERM, lambda *_: (tmp_path / "late").touch())
        unblock()
        return 0 if (tmp_path / "late").exists() else 1

    assert run(body, 1) == 0


def test_processes_die_with_their_launcher(program: Any, until: Any, tmp_path: Path) -> None:  # row 3
    source = tmp_path / "launch.py"
    source.write_text(
        "import os, pathlib, sys, time\n"
        "from widestep.workers.launcher import run_processes\n"
        "def body(launch, pulse):\n"
        "    pathlib.Path(sys.argv[1], str(launch.process)).write_text(str(os.getpid()))\n"
        "    time.sleep(100)\n"
        "    return 0\n"
        "run_processes(body, 2, say=print)\n"
    )
    child = subprocess.Popen([sys.executable, str(source), str(tmp_path)], env=program.environment())
    until(lambda: all((tmp_path / str(n)).exists() and (tmp_path / str(n)).read_text() for n in range(2)), "both live")
    pids = [int((tmp_path / str(n)).read_text()) for n in range(2)]
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "no process is left")


def test_what_a_lost_process_left_on_the_terminal_is_taken_down_before_anything_is_said(run: Any, said: list[str]) -> None:
    def body(launch: Launch, pulse: Pulse) -> int:
        if launch.attempt == 0:
            kill_itself(signal.SIGKILL)
        return 0

    assert run(body, 2, tidy=lambda: said.append("tidy")) == 0
    assert [line.partition(" ")[0] for line in said] == ["tidy", "restart"]


def test_nothing_is_taken_down_after_a_usual_end(run: Any, said: list[str]) -> None:
    assert run(lambda launch, pulse: 0, 2, tidy=lambda: said.append("tidy")) == 0
    assert said == []


def test_every_process_sees_what_all_do(run: Any, tmp_path: Path) -> None:
    def body(launch: Launch, pulse: Pulse) -> int:
        pulse.beat(("computing", "saving", "evaluating")[launch.process])
        deadline = time.monotonic() + 20
        while pulse.phases() != ["computing", "saving", "evaluating"] and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / f"{launch.process}").write_text(" ".join(pulse.phases()))
        return 0

    assert run(body, 3) == 0
    assert {path.read_text() for path in tmp_path.iterdir()} == {"computing saving evaluating"}
