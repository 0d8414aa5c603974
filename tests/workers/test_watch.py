"""Who hangs: the process that everybody waits for, where it is, and since when."""

import os
import signal
import time
from typing import Any

import pytest

from widestep.errors import WorkerLost
from widestep.workers import pulse as pulses
from widestep.workers import watch
from widestep.workers.launched import Launch
from widestep.workers.launcher import run_processes
from widestep.workers.pulse import Pulse
from widestep.workers.watch import Ended, Hang, Watch


def test_signs_of_life_are_seen_through_shared_memory() -> None:
    memory = bytearray(pulses.NUM_BYTES)
    written, read = Pulse(memoryview(memory)), None
    before = time.monotonic()
    written.beat("evaluating", step=1_000_001)
    assert written.meet() == "evaluating"
    read = memoryview(memory).cast("d")
    assert before <= read[0] <= time.monotonic()
    assert (written.phase, written.step, written.num_meetings) == ("exchanging", 1_000_001, 1)


class Job:
    """Three processes that never lived, and a clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.stopped: set[int] = set()
        monkeypatch.setattr(watch.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(watch, "is_stopped", lambda pid: pid - 100 in self.stopped)
        monkeypatch.setattr(watch, "_stack_of", lambda pid, file: STACK)
        self.pulses = [Pulse() for _ in range(3)]
        self.watch = Watch(10.0)

    def wait(self, seconds: float, alive: tuple[int, ...] = ()) -> Hang | None:
        """Look every half second, while some show that they live."""
        for _ in range(round(2 * seconds)):
            self.now += 0.5
            for process in alive:
                self.pulses[process].beat(self.pulses[process].phase)
            hang = self.watch.look([(100 + number, number, pulse, -1) for number, pulse in enumerate(self.pulses)])
            if hang is not None:
                return hang
        return None


STACK = """Thread 0x00007f (most recent call first):
  File "/lib/threading.py", line 324 in wait

Current thread 0x00007e (most recent call first):
  File "/home/u/net.py", line 31 in forward
  File "/lib/module.py", line 1 in _call_impl
"""


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(monkeypatch)


def test_when_all_have_ended_nobody_hangs(job: Job) -> None:
    job.now += 100
    assert job.watch.look([]) is None


def test_nobody_hangs_who_shows_signs_of_life(job: Job) -> None:
    assert job.wait(100, alive=(0, 1, 2)) is None


def test_the_one_that_does_not_wait_for_others_hangs(job: Job) -> None:  # row 25
    for pulse in job.pulses:
        pulse.beat("computing", step=77)
    job.pulses[0].meet()
    job.pulses[2].meet()
    assert job.wait(9.5) is None
    hang = job.wait(1)
    assert hang == Hang(1, "computing", 77, 10.0, "at /home/u/net.py, line 31 in forward", STACK)


def test_of_those_that_wait_the_one_behind_hangs(job: Job) -> None:
    for process, times in ((0, 3), (1, 2), (2, 3)):
        for _ in range(times):
            job.pulses[process].meet()
    hang = job.wait(11)
    assert hang is not None
    assert hang.process == 1


def test_a_stopped_process_hangs_wherever_it_is(job: Job) -> None:
    for pulse in job.pulses:
        pulse.meet()
    job.stopped = {2}
    hang = job.wait(11)
    assert hang is not None
    assert (hang.process, hang.where, hang.stack) == (2, "stopped by a signal", "")


def test_one_hangs_though_others_live(job: Job) -> None:
    """Whoever waits for others is not to blame for being silent while they compute."""
    job.pulses[0].meet()
    for process in (1, 2):
        job.pulses[process].beat("computing", step=3)
    assert job.wait(30, alive=(1, 2)) is None
    hang = job.wait(11, alive=(1,))
    assert hang is not None
    assert hang.process == 2


def test_before_its_first_step_a_process_may_take_longer(job: Job) -> None:
    assert job.wait(39.5) is None
    assert job.wait(1) is not None


def test_but_not_when_it_is_stopped(job: Job) -> None:
    job.stopped = {0}
    hang = job.wait(11)
    assert hang is not None
    assert hang.process == 0


def test_time_in_which_nobody_watched_does_not_count(job: Job) -> None:  # row 23
    for pulse in job.pulses:
        pulse.beat("computing", step=1)
    assert job.wait(5) is None
    job.now += 3600.0  # the whole job was suspended
    assert job.wait(4) is None
    assert job.wait(2) is not None


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (Ended(2, signal=signal.SIGKILL, step=840), "process 2 of 3 was ended by SIGKILL at step 840"),
        (Ended(0, code=1, sentence="OSError: x", step=1), "process 0 of 3 failed at step 1 with OSError: x"),
        (
            Ended(1, hang=Hang(1, "computing", 4_000, 12.4, "stopped by a signal", "")),
            "process 1 of 3 showed no sign of life for 12 s while computing at step 4,000 (stopped by a signal) "
            "and was ended",
        ),
    ],
)
def test_words(ended: Ended, words: str) -> None:
    assert ended.words(3) == words
    assert words in str(ended.error(3, 0))


def test_memory_that_ran_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:  # row 14
    monkeypatch.setattr(watch, "memory_limit", lambda: "limit 2.0 GiB")
    ended = Ended(1, signal=signal.SIGKILL, step=9, out_of_memory=True)
    assert not ended.from_outside
    assert str(ended.error(2, 3)) == (
        "All processes of a job must live. 3 restart(s) did not help: process 1 of 2 was killed at step 9 because memory "
        "ran out (limit 2.0 GiB); compute fewer images at once (--images-per-forward, --workers-per-forward) or give it "
        "more memory."
    )


def test_control_groups_of_both_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    new, old = tmp_path / "memory.events", tmp_path / "memory.oom_control"
    new.write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    old.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    monkeypatch.setattr(watch, "_memory_files", lambda *names: [new])
    assert watch.num_out_of_memory() == 2
    monkeypatch.setattr(watch, "_memory_files", lambda *names: [old])
    assert watch.num_out_of_memory() == 5
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(watch, "_memory_files", lambda *names: [limit])
    limit.write_text("2147483648\n")
    assert watch.memory_limit() == "limit 2.0 GiB"
    limit.write_text("max\n")
    assert watch.memory_limit() == "no limit is set"


def asleep() -> None:
    time.sleep(100)


@pytest.mark.processes
@pytest.mark.parametrize("how", ["stopped", "asleep", "deaf"])
def test_a_process_that_hangs_is_named_ended_and_started_again(how: str) -> None:  # row 25, G6
    said: list[str] = []

    def body(launch: Launch, pulse: Pulse) -> int:
        if launch.attempt == 0:
            pulse.beat("computing", 7)
            if launch.process == 0:
                pulse.meet()
            elif how == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif how == "deaf":
                signal.pthread_sigmask(signal.SIG_BLOCK, {watch.ASK_FOR_STACK})
            asleep()
        return 0

    assert run_processes(body, 2, hang_seconds=1.6, say=said.append) == 0
    where = {"stopped": "stopped by a signal", "asleep": f"at {__file__}, line ", "deaf": "its stack could not be read"}[how]
    assert len(said) == 1
    assert said[0].startswith(
        f"restart    process 1 of 2 showed no sign of life for 2 s while computing at step 7 ({where}"
    ), said
    if how == "asleep":
        assert " in asleep) and was ended; going on from the last checkpoint" in said[0]


@pytest.mark.processes
def test_hangs_come_to_an_end() -> None:
    def body(launch: Launch, pulse: Pulse) -> int:
        pulse.beat("computing", 7)
        asleep()
        return 0

    with pytest.raises(WorkerLost, match=r"1 restart\(s\) did not help: process 0 of 1 showed no sign of life") as caught:
        run_processes(body, 1, hang_seconds=0.3, restarts=1, say=lambda line: None)
    assert caught.value.exit_code == 8
