"""A process is lost: it is named, all start again, and the bytes are those of a run that nothing happened to."""

import os
import signal
from typing import Any

import pytest

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("process", [0, 2])
def test_a_killed_process(job: Any, uninterrupted: Any, process: int) -> None:  # rows 1, 2
    ended = job.fail_at(process=process, step=17, how="kill").train(processes=3)
    assert ended.code == 0, ended.lines
    assert ended.restarts == [f"process {process} of 3 was ended by SIGKILL at step 17; going on from the last checkpoint"]
    assert "resumed    at step " in "\n".join(ended.lines)
    uninterrupted(job.directory)


def test_the_only_process(job: Any, uninterrupted: Any) -> None:
    assert job.fail_at(process=0, step=17, how="kill").train().code == 0
    assert [event["event"] for event in job.events] == ["started", "resumed", "complete"]
    uninterrupted(job.directory)


@pytest.mark.parametrize("phase", ["starting", "exchanging", "evaluating", "saving", "finishing"])
def test_killed_in_the_midst_of(job: Any, uninterrupted: Any, phase: str) -> None:  # rows 5, 8
    step = 0 if phase == "starting" else 12
    ended = job.fail_at(process=0, phase=phase, step=step, how="kill").train(processes=2)
    assert ended.code == 0, ended.lines
    assert len(ended.restarts) == 1
    uninterrupted(job.directory)


def test_five_kills_while_it_starts(job: Any, uninterrupted: Any) -> None:  # row 9
    ended = job.fail_at(process=1, phase="exchanging", how="kill", attempts=5).train(processes=2)
    assert ended.code == 0, ended.lines
    assert len(ended.restarts) == 5
    uninterrupted(job.directory)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("segfault", "was ended by SIGSEGV at step 9"),
        ("exit 0", "ended with exit code 0 at step 9, before training was over"),
        ("exit 1", "ended with exit code 1 at step 9, before training was over"),
        ("raise", "failed at step 9 with RuntimeError: this was made to fail"),
    ],
)
def test_a_process_that_fails_by_itself(job: Any, uninterrupted: Any, how: str, words: str) -> None:  # row 12
    ended = job.fail_at(process=1, step=9, how=how).train(processes=2)
    assert ended.code == 0, ended.lines
    assert len(ended.restarts) == 1
    assert ended.restarts[0].startswith(f"process 1 of 2 {words}")
    assert "Traceback" not in "\n".join(ended.lines)
    uninterrupted(job.directory)


def test_a_crash_at_one_step_every_time(job: Any) -> None:  # row 13
    ended = job.fail_at(process=1, step=9, how="raise", attempts=99).train(processes=2)
    assert ended.code == 1
    assert len(ended.restarts) == 3
    assert ended.lines[-1] == (
        "widestep: All processes of a job must live. 3 restart(s) did not help: process 1 of 2 failed at step 9 with "
        "RuntimeError: this was made to fail (failing_program.py, line 86); the same command continues from the last "
        "checkpoint."
    )


def test_no_restarts_when_none_are_wanted(job: Any, uninterrupted: Any) -> None:
    ended = job.fail_at(process=0, step=9, how="kill").train(processes=2, restarts=0)
    assert ended.code == 8
    assert ended.lines[-1].startswith("widestep: All processes of a job must live. process 0 of 2 was ended by SIGKILL")
    job.faults.clear()
    assert job.train(processes=1).code == 0
    uninterrupted(job.directory)


def test_the_launcher_is_killed(job: Any, uninterrupted: Any, until: Any) -> None:  # row 3
    child = job.fail_at(process=0, step=13, how="signal the launcher", number=int(signal.SIGKILL)).start(processes=3)
    child.communicate(timeout=600)
    assert child.returncode == -signal.SIGKILL
    job.faults.clear()
    ended = job.train(processes=2)
    assert ended.code == 0, ended.lines
    uninterrupted(job.directory)


@pytest.mark.parametrize("repeat", range(7 if os.environ.get("WIDESTEP_CHAOS") == "long" else 1))
@pytest.mark.parametrize("how", ["stop", "sleep", "hold the lock"])
def test_a_process_that_hangs(job: Any, uninterrupted: Any, record: Any, how: str, repeat: int) -> None:  # row 25, G6
    ended = job.fail_at(process=1, step=11, how=how).train(processes=2, hang_timeout="3s")
    assert ended.code == 0, ended.lines
    (told,) = ended.restarts
    assert told.startswith("process 1 of 2 showed no sign of life for 3 s while computing at step 11 (")
    where = {"stop": "(stopped by a signal)", "sleep": " in <lambda>)", "hold the lock": " in _hold_the_lock)"}[how]
    assert where in told
    record("a process that hangs is named and replaced", times=1, how=how)
    uninterrupted(job.directory)
