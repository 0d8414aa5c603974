"""Promise: kill -9 of any process at any moment, as often as you like; nobody has to do anything but start a dead command.

The long form (`make chaos`) kills 200 times, and beside it does the same to torchrun and DistributedDataParallel.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running_jobs import is_alive, living_children, num_lines, steps_saved

from widestep.records.saved import saved_steps

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1800)]
LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
NUM_KILLS = 67 if LONG else 6
PEER = Path(__file__).with_name("peer_program.py")


def starts(directory: Path) -> int:
    """How often training has begun or gone on in a run directory."""
    try:
        text = (directory / "history.jsonl").read_bytes()
    except OSError:
        return 0
    return text.count(b'"event": "resumed"') + text.count(b'"event": "started"')


def wait(true: Any, seconds: float) -> float:
    """Wait until something holds; return how long it took."""
    began = time.monotonic()
    while not true() and time.monotonic() - began < seconds:
        time.sleep(0.003)
    return time.monotonic() - began


@pytest.mark.parametrize("processes", [1, 3, 4])
def test_kills_at_random(job: Any, uninterrupted: Any, record: Any, processes: int) -> None:  # G1, G5, G8, G16
    """Lives of random length; a fifth of the kills hits the launcher, the others any process of the job."""
    rng = np.random.default_rng()
    kills, launchers, recovered, orphans = 0, 0, [], 0
    fields = {"epochs": "800", "evaluate_every": "25ep"} if LONG else {"epochs": "12", "evaluate_every": "3ep"}
    child = job.start(processes, **fields)
    while child.poll() is None or child.returncode == -signal.SIGKILL:
        if child.poll() is not None:
            child = job.start(processes, **fields)
        if kills >= NUM_KILLS:
            break
        of_launcher = rng.random() < 0.2
        if not of_launcher:
            wait(lambda child=child: living_children(child.pid) or child.poll() is not None, 30.0)
        wait(lambda child=child: child.poll() is not None, float(rng.uniform(0.0, 3.0 if of_launcher else 1.0)))
        members, begun = living_children(child.pid), starts(job.directory)
        if child.poll() is not None or not (of_launcher or members):
            continue
        if of_launcher:
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
            launchers += 1
            wait(lambda members=members: not any(map(is_alive, members)), 30.0)  # one that writes ends when it has written
            orphans += sum(map(is_alive, members))
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(rng.choice(members)), signal.SIGKILL)
            took = wait(lambda n=begun, child=child: starts(job.directory) > n or child.poll() is not None, 30.0)
            recovered.append(took)
        kills += 1
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 0, stderr
    expected = job.directory.with_name("expected")
    name, job.directory = job.directory, expected
    assert job.train(1, **fields).code == 0
    uninterrupted.same(name, expected)
    assert orphans == 0
    assert not list(name.rglob("*.tmp"))
    record(
        f"kill -9 at random, {processes} process(es)",
        kills=kills,
        of_launchers=launchers,
        equal=True,
        seconds_to_training=_spread(recovered),
    )


def _spread(seconds: list[float]) -> dict[str, float] | None:
    """Median and maximum."""
    return {"median": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)} if seconds else None


@pytest.mark.skipif(not LONG, reason="compares with torchrun in the long form: make chaos")
def test_torchrun_and_ddp_beside(job: Any, record: Any, tmp_path: Path) -> None:
    """A usual script under torchrun, of which one process is killed once: does it come back, when, and to which weights?"""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "--standalone", "--max-restarts", "3"]
    rng = np.random.default_rng()

    def run(folder: Path, kill: int | None) -> float | None:
        folder.mkdir()
        child = subprocess.Popen(
            [*command, str(PEER), str(folder), "1000"],
            env=job.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        job.children.append(child)
        if kill is None:
            child.wait(600)
            return None
        wait((folder / "progress").exists, 60)
        time.sleep(float(rng.uniform(0, 0.5)))
        starts = num_lines(folder / "starts")
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int((folder / f"pid{kill}").read_text()), signal.SIGKILL)
        took = wait(lambda: num_lines(folder / "starts") > starts or child.poll() is not None, 40)
        wait(lambda child=child: child.poll() is not None, 40)
        for name in filter(str.isdecimal, os.listdir("/proc")):  # a torchrun that is killed leaves its processes behind
            with contextlib.suppress(OSError):
                if str(folder).encode() in Path("/proc", name, "cmdline").read_bytes():
                    os.kill(int(name), signal.SIGKILL)
        child.wait()
        return took if (folder / "hash").exists() else None

    run(tmp_path / "whole", None)
    expected = (tmp_path / "whole/hash").read_text()
    took, equal = [], 0
    for number in range(8):
        found = run(tmp_path / str(number), number % 3)
        if found is not None:
            took.append(found)
            equal += (tmp_path / str(number) / "hash").read_text() == expected
    record(
        "torchrun and DistributedDataParallel, 3 processes, one killed",
        kills=8,
        recovered=len(took),
        equal=equal,
        seconds_to_training=_spread(took),
    )


@pytest.mark.parametrize("number", range(20 if LONG else 1))
def test_other_processes_each_time(job: Any, uninterrupted: Any, record: Any, number: int) -> None:  # G16, row 46
    """Interrupted at random steps, and gone on with on 1, then 3, 2 and 4 processes."""
    rng = np.random.default_rng()
    fields = {"epochs": "12", "evaluate_every": "3ep"}
    for processes in rng.permutation([1, 3, 2, 4]).tolist():
        child = job.start(processes, **fields)
        until = steps_saved(job.directory) + int(rng.integers(1, 30))
        wait(lambda child=child, until=until: steps_saved(job.directory) >= until or child.poll() is not None, 60)
        if child.poll() is None:
            os.kill(child.pid, int(rng.choice([signal.SIGKILL, signal.SIGTERM])))
        child.communicate(timeout=600)
    assert job.train(2, **fields).code == 0
    expected = job.directory.with_name("expected")
    name, job.directory = job.directory, expected
    assert job.train(1, **fields).code == 0
    uninterrupted.same(name, expected)
    record("other processes each time (1, 2, 3, 4 in any order)", schedules=1, equal=True, number=number)


def _held(pid: int, directory: Path) -> dict[str, int]:
    """What a launcher holds: memory, open files and children; and how many files its run has."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    looks = []
    for _ in range(5):  # it opens a file for a moment when it looks after its process
        looks.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.01)
    return {
        "kilobytes": int(fields["VmRSS"].split()[0]),
        "open_files": min(looks),
        "files_of_the_run": sum(1 for path in directory.rglob("*") if path.is_file()),
    }


def test_a_launcher_that_starts_again_and_again_gathers_nothing(job: Any, record: Any) -> None:  # G13
    """Its only process is killed each time it has come a little further; the last two thirds must look like the first."""
    num_kills = 1000 if LONG else 9
    child = job.start(1, epochs="100000", evaluate_every="100000ep", checkpoint_every="2st")
    heard: list[Any] = []
    listener = threading.Thread(target=lambda: heard.extend(child.communicate()))  # a full pipe would stop the launcher
    listener.start()
    held = []

    def newest() -> int:
        return max(saved_steps(job.directory / "checkpoints"), default=0)

    for number in range(num_kills):
        wait(lambda number=number: starts(job.directory) > number or child.poll() is not None, 60)
        saved = newest()
        wait(lambda saved=saved: newest() > saved or child.poll() is not None, 60)
        assert child.poll() is None, heard
        if number >= num_kills // 3:
            held.append(_held(child.pid, job.directory))
        (victim,) = living_children(child.pid)
        os.kill(victim, signal.SIGKILL)
        wait(lambda victim=victim: not is_alive(victim), 60)
    wait(lambda: starts(job.directory) > num_kills, 60)
    child.terminate()
    listener.join(60)
    assert child.returncode == 75, heard
    assert starts(job.directory) == num_kills + 1
    for what, slack in (("kilobytes", 0.05 * held[0]["kilobytes"]), ("open_files", 0), ("files_of_the_run", 3)):
        values = [one[what] for one in held]
        assert max(values) - min(values) <= slack, f"{what}: {values[0]} to {values[-1]}"
    record("restarts of one launcher", kills=num_kills, first=held[0], last=held[-1])
