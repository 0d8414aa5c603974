"""Processes that no longer hold the same, or that keep all others waiting, are named."""

from typing import Any

import pytest

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("tensor", "bit"), [("conv1.weight", 0), ("momentum_buffer of fc.bias", 31), ("running batch-norm statistics", 12)]
)
def test_one_bit_of_one_process(job: Any, uninterrupted: Any, tensor: str, bit: int) -> None:  # rows 81, 82; G10
    job.fail_at(process=2, step=11, how="flip", tensor=tensor, place=3, bit=bit)
    ended = job.train(processes=3, check_replicas_every=4, checkpoint_every="600s")
    assert ended.code == 4, ended.lines
    said = ended.lines[-1]
    assert said.startswith("widestep: All processes must hold the same state. Process 2 of 3 holds another "), said
    assert said.endswith("check that machine, then give the same command to go on from the last checkpoint.")
    assert ended.restarts == []
    job.faults.clear()
    assert job.train(processes=3).code == 0
    uninterrupted(job.directory)


def test_of_two_nobody_knows_who_is_right(job: Any) -> None:
    job.fail_at(process=0, step=11, how="flip", tensor="conv1.weight")
    ended = job.train(processes=2, check_replicas_every=4)
    assert ended.code == 4
    assert "The 2 processes hold another conv1.weight after step 12:" in ended.lines[-1]


def test_nothing_different_is_saved(job: Any, uninterrupted: Any) -> None:
    """A save makes a comparison of its own, however seldom the others are."""
    job.fail_at(process=0, step=12, how="flip", tensor="conv1.weight")
    ended = job.train(processes=2, check_replicas_every=1000, checkpoint_every="5st")
    assert ended.code == 4
    saved = sorted(path.name for path in (job.directory / "checkpoints").glob("step-*"))
    assert int(saved[-1].removeprefix("step-").partition(".")[0]) == 10
    job.faults.clear()
    assert job.train(processes=1).code == 0
    uninterrupted(job.directory)


def test_nor_is_anything_different_the_result(job: Any) -> None:
    job.fail_at(process=0, step=39, how="flip", tensor="conv1.weight")
    ended = job.train(processes=2, check_replicas_every=1000, checkpoint_every="600s")
    assert ended.code == 4
    assert not (job.directory / "result.json").exists()


def test_a_slow_process(job: Any, uninterrupted: Any) -> None:  # row 26
    """Of each step it spends more than 50 ms by itself, once for its sleep in every beat."""
    ended = job.fail_at(process=1, step=1, phase="computing", how="slow", seconds=0.05).train(processes=3)
    assert ended.code == 0, ended.lines
    told = [line for line in ended.lines if "slower than the others" in line]
    assert len(told) == 1
    assert told[0].startswith("note       process 1 of 3 is ")
    assert told[0].endswith("x slower than the others (waits for images 0 % of that time); all wait for it")
    assert told[0].removeprefix("note       ") in (job.directory / "log.txt").read_text()
    fast, slow, other = job.events[-1]["busy_seconds"]
    assert slow > 20 * 2 * 0.05  # at least in the two beats of every step that a process with two blocks has
    assert slow > fast
    assert slow > other
    uninterrupted(job.directory)


def test_nobody_is_slow(job: Any) -> None:
    """All are equally slow, so slow that nothing that a busy machine takes from one of them doubles its time."""
    job.fail_at(process=-1, step=1, phase="computing", how="slow", seconds=0.05)
    ended = job.train(processes=3, checkpoint_every="600s")
    assert ended.code == 0, ended.lines
    assert not [line for line in ended.lines if "slower" in line]
