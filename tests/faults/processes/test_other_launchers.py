"""Under torchrun, or with a launcher's variables set by hand."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from running_jobs import steps_saved

pytestmark = pytest.mark.processes


@pytest.fixture
def port(held_port: socket.socket) -> int:
    return int(held_port.getsockname()[1])


@pytest.fixture
def by_hand(job: Any, port: int) -> Any:
    """Start some of the processes of a job, as a batch system would."""

    def start(processes: int, *numbers: int, **changes: Any) -> list["subprocess.Popen[str]"]:
        whole = dict(job.environment)
        started = []
        for number in numbers:
            job.environment = {
                **whole,
                "RANK": str(number),
                "WORLD_SIZE": str(processes),
                "LOCAL_RANK": str(number),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            started.append(job.start(**changes))
        job.environment = whole
        return started

    return start


def test_a_process_that_never_comes(by_hand: Any, job: Any) -> None:  # row 33
    said = []
    for child in by_hand(3, 0, 1, join_timeout="20s"):
        _, stderr = child.communicate(timeout=600)
        assert child.returncode == 5, stderr
        said.append(stderr.splitlines()[-1])
    assert said[0].startswith("widestep: All 3 processes must meet within 20 s. 2 came; missing: 2. See whether they were ")
    assert said[0] == said[1]
    assert not job.directory.exists()


@pytest.mark.parametrize("process", [0, 1])
def test_who_waits_for_the_others_hears_signals(by_hand: Any, job: Any, until: Any, process: int) -> None:  # rows 16, 20
    """Nobody comes: it need not wait for all of its patience."""
    (child,) = by_hand(2, process, join_timeout="3000s")
    until(lambda: b"libtorch" in Path(f"/proc/{child.pid}/maps").read_bytes(), "torch is there")
    child.terminate()
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 75, stderr
    assert stderr.splitlines()[-1].startswith("widestep: Stopped at once")
    assert not job.directory.exists()


def test_process_0_never_comes(by_hand: Any, job: Any) -> None:
    (child,) = by_hand(2, 1, join_timeout="2s")
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 5
    assert stderr.splitlines()[-1].startswith("widestep: All 2 processes must meet at 127.0.0.1:")
    assert "Process 1 could not: nobody listens there (Connection refused)" in stderr.splitlines()[-1]
    assert len(stderr.splitlines()) == 1


def test_a_port_that_is_taken(by_hand: Any, held_port: socket.socket, port: int) -> None:  # row 30
    held_port.listen()
    (child,) = by_hand(2, 0)
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 5
    assert stderr.splitlines()[-1] == (
        f"widestep: Process 0 must be able to listen at 127.0.0.1:{port}. It could not: Address already in use. Export "
        "another MASTER_PORT."
    )


def test_a_process_that_is_silent_is_lost(by_hand: Any, job: Any, uninterrupted: Any) -> None:
    """Nobody watches over processes of other launchers, so the others give up after the time that was set."""
    job.fail_at(process=1, step=7, how="stop")
    one, other = by_hand(2, 0, 1, hang_timeout="8s", checkpoint_every="2st")
    _, stderr = one.communicate(timeout=600)
    assert one.returncode == 8, stderr
    said = f"widestep: All 2 processes of a job must live. Process 0 lost process 1 on {socket.gethostname()} at step "
    assert stderr.splitlines()[-1].startswith(said)
    other.kill()
    job.faults.clear()
    assert job.train(processes=1).code == 0
    uninterrupted(job.directory)


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


@pytest.mark.parametrize("process", [0, 1])
def test_torchrun_starts_again_at_the_first_attempt(job: Any, uninterrupted: Any, process: int) -> None:  # row 31
    job.fail_at(process=process, step=17, how="kill")
    child = job.start(under=(*TORCHRUN, "--max-restarts", "1"))
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 0, stderr
    assert [event["event"] for event in job.events if event["event"] != "failed"] == ["started", "resumed", "complete"]
    uninterrupted(job.directory)


def test_torchrun_dies_of_sigusr1_and_its_processes_save(job: Any, uninterrupted: Any, until: Any) -> None:  # row 17
    """The signal by which SLURM announces the end of a job ends torchrun at once; nobody trains on without it."""
    job.fail_at(process=1, step=3, how="slow", phase="computing", seconds=0.1)
    child = job.start(under=TORCHRUN)
    until(lambda: steps_saved(job.directory) >= 5, "five steps")
    os.kill(child.pid, signal.SIGUSR1)
    child.communicate(timeout=600)
    assert child.returncode == -signal.SIGUSR1
    until(lambda: (job.directory / "STATUS").read_text() == "stopped\n", "they have saved and stopped")
    job.faults.clear()
    deadline = time.monotonic() + 20
    while job.train(processes=1).code == 7 and time.monotonic() < deadline:
        time.sleep(0.1)
    uninterrupted(job.directory)
