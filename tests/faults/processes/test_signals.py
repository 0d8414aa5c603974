"""Whoever sends a signal, to whichever process: all save at one common step, exit 75, and the same command goes on."""

import os
import signal
import time
from typing import Any

import numpy as np
import pytest
from running_jobs import living_children, state, steps_saved

pytestmark = pytest.mark.processes
LONG = {"checkpoint_every": "600s"}
"""No save but that of the stop."""
REPEATS = range(10 if os.environ.get("WIDESTEP_CHAOS") == "long" else 1)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def stopped(job: Any, child: Any, *, reason: str) -> None:
    """The job has stopped in order, with everything saved."""
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 75, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith(f"widestep: Stopped by {reason} after step "), stderr
    assert last.endswith("everything is saved. The same command goes on from there."), stderr
    assert "Traceback" not in stderr
    assert (job.directory / "STATUS").read_text() == "stopped\n"
    event = job.events[-1]
    assert event["event"] == "stopped"
    checkpoints = sorted((job.directory / "checkpoints").glob("step-*"))
    assert int(checkpoints[-1].stem.partition("-")[2]) == event["step"]
    assert (job.directory / "metrics.jsonl").read_bytes().count(b"\n") == event["step"]


def resumed(job: Any, uninterrupted: Any, processes: int = 1) -> None:
    step = job.events[-1]["step"]
    job.faults.clear()
    assert job.train(processes, **LONG).code == 0
    assert [(event["event"], event["step"]) for event in job.events[2:3]] == [("resumed", step)]
    uninterrupted(job.directory)


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("number", SIGNALS)
def test_to_the_launcher(job: Any, uninterrupted: Any, record: Any, number: int, repeat: int) -> None:  # rows 16, 17, 22; G7
    step = int(np.random.default_rng([number, repeat]).integers(1, 25))  # the launcher needs some of the other steps to hear
    job.fail_at(process=0, step=step, how="signal the launcher", number=int(number))
    stopped(job, job.start(processes=3, **LONG), reason=signal.Signals(number).name)
    record("a signal to the launcher: saved at one step, exit 75", times=1)
    resumed(job, uninterrupted)


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_to_one_process(
    job: Any, uninterrupted: Any, record: Any, process: int, number: int, repeat: int
) -> None:  # rows 17, 18; G7
    """Nobody takes it for a failure: nothing is started again."""
    job.fail_at(process=process, step=14, how="signal", number=int(number))
    record("a signal to one process: saved at one step, exit 75", times=1)
    reason = signal.Signals(number).name if process == 0 else "a signal to another process"
    stopped(job, job.start(processes=2, **LONG), reason=reason)
    resumed(job, uninterrupted)


@pytest.mark.parametrize("phase", ["starting", "exchanging", "evaluating", "saving"])
def test_in_the_midst_of(job: Any, uninterrupted: Any, phase: str) -> None:  # row 20
    """While it starts, a first step is taken, so that there is something to save."""
    step = 0 if phase == "starting" else 4
    job.fail_at(process=1 if phase != "saving" else 0, phase=phase, step=step, how="signal the launcher", number=15)
    every = {"checkpoint_every": "5st"} if phase == "saving" else LONG
    child = job.start(processes=2, **every, evaluate_every="1ep")
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 75, stderr
    assert (job.directory / "STATUS").read_text() == "stopped\n"
    job.faults.clear()
    assert job.train(2, evaluate_every="1ep").code == 0


def test_a_second_time(job: Any, uninterrupted: Any) -> None:  # row 19
    """Whether the second one comes while it saves or after: what is on the disk is whole."""
    job.fail_at(process=0, step=14, how="signal the launcher", number=int(signal.SIGTERM))
    job.fail_at(process=0, step=14, phase="saving", how="signal the launcher", number=int(signal.SIGTERM))
    child = job.start(processes=2, **LONG)
    child.communicate(timeout=600)
    assert child.returncode == 75
    job.faults.clear()
    assert job.train(2).code == 0
    uninterrupted(job.directory)


def test_ctrl_c_twice_does_not_wait(job: Any, uninterrupted: Any) -> None:  # row 19
    """The step takes a quarter of an hour; the second Ctrl-C does not."""
    job.fail_at(process=0, step=14, how="signal the launcher", number=int(signal.SIGINT))
    job.fail_at(process=0, step=14, how="slow", seconds=3.0)  # two at once would be one
    job.fail_at(process=0, step=14, how="signal the launcher", number=int(signal.SIGINT))
    job.fail_at(process=0, step=14, how="slow", seconds=1_000)
    child = job.start(processes=1)
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 75
    assert stderr.splitlines()[-1].startswith("widestep: Stopped at once. What was saved is whole")
    job.faults.clear()
    assert job.train(2).code == 0
    uninterrupted(job.directory)


def test_too_little_grace(job: Any, uninterrupted: Any, power_cut: Any, until: Any) -> None:  # row 21
    """SIGTERM, and SIGKILL to all while the last step takes long."""
    job.fail_at(process=0, step=14, how="signal the launcher", number=int(signal.SIGTERM))
    job.fail_at(process=0, step=14, how="slow", seconds=5)
    child = job.start(processes=2)
    until(lambda: steps_saved(job.directory) >= 10, "ten steps")
    time.sleep(0.3)
    power_cut(child)
    job.faults.clear()
    until(lambda: job.train(2).code == 0, "the directory is free")
    uninterrupted(job.directory)


def test_nobody_listens_any_more(job: Any, uninterrupted: Any) -> None:  # row 22
    """As in `widestep train 2>&1 | head -1`: training goes on."""
    child = job.start(processes=2)
    assert child.stderr.readline().startswith("widestep ")
    child.stderr.close()
    child.stdout.close()
    assert child.wait(600) in (0, -signal.SIGPIPE)
    uninterrupted(job.directory)


def test_the_whole_job_is_suspended(job: Any, uninterrupted: Any, until: Any) -> None:  # row 23
    """As by a batch system that lends the machine to somebody else, for longer than a process may be silent."""
    child = job.start(processes=2, hang_timeout="3s")
    until(lambda: steps_saved(job.directory) >= 5, "five steps")
    family = [child.pid, *living_children(child.pid)]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5.0)
    for pid in family:
        os.kill(pid, signal.SIGCONT)
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 0, stderr
    assert "restart " not in stderr
    uninterrupted(job.directory)


def test_ctrl_z_stops_all_and_they_go_on_together(job: Any, uninterrupted: Any, until: Any) -> None:
    child = job.start(processes=2, hang_timeout="3s")
    until(lambda: steps_saved(job.directory) >= 5, "five steps")
    family = [child.pid, *living_children(child.pid)]
    os.kill(child.pid, signal.SIGTSTP)
    until(lambda: all(state(pid) == "T" for pid in family), "all are stopped")
    before = steps_saved(job.directory)
    time.sleep(5.0)
    assert steps_saved(job.directory) == before
    os.kill(child.pid, signal.SIGCONT)
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 0, stderr
    assert "restart " not in stderr
    uninterrupted(job.directory)


def test_who_measures_has_nothing_to_save(program: Any, until: Any, power_cut: Any) -> None:
    """It ends at once, not when it has measured enough."""
    child = program.start("bench", "--recipe", "digits", "--processes", 2, "--seconds", 3000)
    try:
        until(lambda: len(living_children(child.pid)) == 2, "both processes live")
        child.terminate()
        _, stderr = child.communicate(timeout=600)
    finally:
        power_cut(child)
    assert child.returncode == 75, stderr
    assert stderr.splitlines()[-1].startswith("widestep: Stopped by SIGTERM")


def test_a_time_limit(job: Any, uninterrupted: Any) -> None:
    """Steps of 0.3 s, of which it would take 40. That it is over in time is a matter of tests/train/test_stop.py."""
    job.fail_at(process=0, step=1, how="slow", seconds=0.3)
    stopped(job, job.start(processes=2, **LONG, time_limit="12s"), reason="the time limit")
    resumed(job, uninterrupted)


def test_the_end_of_a_slurm_job(job: Any, uninterrupted: Any) -> None:  # row 24
    job.environment["SLURM_JOB_END_TIME"] = str(int(time.time()) + 12)
    job.fail_at(process=0, step=1, how="slow", seconds=0.3)
    stopped(job, job.start(processes=2, **LONG), reason="the end of the job")
    del job.environment["SLURM_JOB_END_TIME"]
    resumed(job, uninterrupted)
