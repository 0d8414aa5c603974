"""One job at a time in a directory, whatever is left of the one before."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from widestep import locks
from widestep.errors import DirectoryInUse, EnvironmentFault
from widestep.lease import Lease, as_slot, lease_of_this_process, start_of
from widestep.locks import DirectoryLock, DirectoryLost, is_lock

HOLD = """
import os, sys
from pathlib import Path
from widestep.errors import WidestepError
from widestep.locks import DirectoryLock
try:
    lock = DirectoryLock(Path(sys.argv[1]))
except WidestepError as error:
    print(error)
    sys.exit(error.exit_code)
if sys.argv[2:] == ["child"] and os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


def other_process(directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(directory), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kept(directory: Path) -> list[Lease]:
    """The leases in a lock file, oldest first."""
    data = (directory / ".lock").read_bytes()
    slots = [data[:512], data[512:]]
    found = [Lease(**json.loads(slot.decode().partition(" ")[2])) for slot in slots if slot.strip(b"\0 \n")]
    return sorted(found, key=lambda lease: (lease.generation, lease.released))


def forge(directory: Path, **changes: Any) -> Lease:
    """Leave the lease of a holder that did not say goodbye, with some facts changed."""
    with DirectoryLock(directory):
        pass
    lease = replace(kept(directory)[-1], generation=7, released=False, **changes)
    (directory / ".lock").write_bytes(as_slot(lease))
    return lease


def test_a_second_process_is_refused(tmp_path):  # row 52
    with DirectoryLock(tmp_path):
        said, _ = (other := other_process(tmp_path)).communicate()
    assert other.returncode == 7
    assert f"{tmp_path} is held by host {os.uname().nodename}, process {os.getpid()}, since 2" in said
    assert "(generation 1); wait for it, or choose another --out." in said
    with other_process(tmp_path) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DirectoryInUse, match=f"process {other.pid}, since"):
            DirectoryLock(tmp_path)
        other.stdin.close()
        assert other.wait() == 0
    DirectoryLock(tmp_path).release()


def test_a_killed_process_holds_nothing(tmp_path):
    """Nor does a child that it leaves behind."""
    with other_process(tmp_path, "child") as other:
        assert other.stdout.readline() == "held\n"
        other.kill()
        assert other.wait() == -signal.SIGKILL
        with DirectoryLock(tmp_path) as lock:
            assert lock.generation == 2
        other.stdin.close()  # ends the child


def test_a_holder_that_is_ending_is_waited_for(tmp_path):  # G8
    """Killed, but the kernel has not given its lock away yet: the lease names a process that is gone."""
    with other_process(tmp_path) as other:
        assert other.stdout.readline() == "held\n"
        forged = replace(kept(tmp_path)[-1], process=4_194_303, started="17")
        with (tmp_path / ".lock").open("r+b") as file:
            file.seek(512)
            file.write(as_slot(forged))
        timer = threading.Timer(0.1, other.kill)
        timer.start()
        with DirectoryLock(tmp_path) as lock:
            assert lock.generation == 2
        timer.join()


def test_this_process_takes_a_directory_once(tmp_path):
    with DirectoryLock(tmp_path):
        with pytest.raises(DirectoryInUse, match=f"process {os.getpid()}"):
            DirectoryLock(tmp_path)
        (other := other_process(tmp_path)).communicate()
        assert other.returncode == 7, "looking must not give the lock away"
    DirectoryLock(tmp_path).release()


def test_every_taking_has_a_generation_of_its_own(tmp_path):
    for generation in range(1, 6):
        with DirectoryLock(tmp_path) as lock:
            assert lock.generation == generation
            assert (kept(tmp_path)[-1].generation, kept(tmp_path)[-1].released) == (generation, False)
        assert (kept(tmp_path)[-1].generation, kept(tmp_path)[-1].released) == (generation, True)
    assert (tmp_path / ".lock").stat().st_size <= 1536


@pytest.mark.parametrize("length", [*range(0, 512, 37), 511])
@pytest.mark.parametrize("mark", [b"\0", b"x"])
def test_a_lease_cut_off_while_it_is_written_leaves_the_one_before(tmp_path, length, mark):
    for _ in range(2):
        DirectoryLock(tmp_path).release()
    whole = (tmp_path / ".lock").read_bytes()
    lease = kept(tmp_path)[-1]
    assert (lease.generation, lease.released) == (2, True)
    damaged = bytearray(whole)
    slot = 512 * (lease.generation % 2 == 0)  # the one that a third taking writes
    damaged[slot : slot + length] = mark * length
    (tmp_path / ".lock").write_bytes(damaged)
    with DirectoryLock(tmp_path) as lock:
        assert lock.generation == 3


STALE = {
    "its process is gone": {"process": 4_194_303, "started": "17"},
    "its number is used again": {"started": "17"},
    "its host was booted since": {"boot": "11111111-2222-3333-4444-555555555555"},
    "it was in another container here": {"host": "pod-7", "namespace": "pid:[4026539999]"},
    "it said goodbye on another host": {"host": "elsewhere", "boot": "x", "released": True},
}


@pytest.mark.parametrize("kind", STALE)
def test_who_has_provably_ended_is_replaced(kind, tmp_path):  # row 53
    changes = dict(STALE[kind])
    released = changes.pop("released", False)
    lease = forge(tmp_path, **changes)
    if released:
        (tmp_path / ".lock").write_bytes(as_slot(replace(lease, released=True)))
    with DirectoryLock(tmp_path) as lock:
        assert lock.generation == 8


ELSEWHERE = [
    {"host": "elsewhere", "boot": "11111111-2222-3333-4444-555555555555"},
    {"host": "elsewhere"},  # perhaps another name of this host
]


@pytest.mark.parametrize("changes", ELSEWHERE)
def test_who_shows_no_sign_of_life_on_another_host_is_replaced(changes, tmp_path, monkeypatch):  # rows 24, 53
    """As when its node has crashed and the job was put in the queue again; and it is kept from writing if it was not."""
    slept = []
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: (slept.append(seconds), now.append(now[-1] + seconds)))
    monkeypatch.setattr(locks.time, "monotonic", lambda: now[-1])
    now = [100.0]
    forge(tmp_path, **changes)
    with DirectoryLock(tmp_path) as lock:
        assert lock.generation == 8
    assert sum(slept) == pytest.approx(15)


@pytest.mark.parametrize("changes", ELSEWHERE)
def test_who_shows_signs_of_life_on_another_host_is_not(changes, tmp_path, monkeypatch):  # row 53
    lease = forge(tmp_path, **changes)

    def slept(seconds: float) -> None:
        with (tmp_path / ".lock").open("r+b") as file:
            file.seek(1024)
            file.write(b"7 13".ljust(511) + b"\n")

    monkeypatch.setattr(locks.time, "sleep", slept)
    with pytest.raises(DirectoryInUse, match=f"held by host elsewhere, process {lease.process}, .*; wait for it"):
        DirectoryLock(tmp_path)


def test_a_holder_shows_signs_of_life(tmp_path, monkeypatch, until):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    with DirectoryLock(tmp_path) as lock:
        until(lambda: (tmp_path / ".lock").read_bytes()[1024:].split()[:2] >= [b"1", b"3"], "three beats")
        lock.check()
        assert lock.generation == 1
    DirectoryLock(tmp_path).release()


def test_who_is_alive_here_is_not_replaced_and_one_is_told_how(tmp_path):  # row 53
    lease = forge(tmp_path, process=os.getppid(), started=start_of(os.getppid()))
    with pytest.raises(DirectoryInUse) as caught:
        DirectoryLock(tmp_path)
    assert f"held by host {lease.host}, process {lease.process}, since {lease.since}" in str(caught.value)
    assert f"if you know that it has ended, remove {tmp_path}/.lock and start again" in str(caught.value)
    (tmp_path / ".lock").unlink()
    DirectoryLock(tmp_path).release()


@pytest.mark.parametrize(
    "content", [b"", b"host a, process 3", b"\xff" * 1024, b"[" * 100_000, b'0123456789abcdef {"a": 1}\n']
)
def test_nonsense_in_a_lock_holds_nobody_up(content, tmp_path):  # row 53
    (tmp_path / ".lock").write_bytes(content)
    with DirectoryLock(tmp_path) as lock:
        assert lock.generation == 1


def test_a_writer_of_an_older_generation_is_refused(tmp_path):  # row 54
    """Its lock was taken away with the file; the new holder made another one."""
    lock = DirectoryLock(tmp_path)
    lock.check()
    (tmp_path / ".lock").unlink()
    lock.check()  # nobody else is there yet
    with other_process(tmp_path) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            DirectoryInUse, match=r"has one writer\. .* was taken over by another process.*writes nothing more"
        ):
            lock.check()
        lock.release()
        other.stdin.close()
        assert other.wait() == 0
    lease = kept(tmp_path)[-1]
    assert (lease.process, lease.released) == (other.pid, False), "releasing an old lock says nothing about the new one"


def test_a_lost_lock_of_the_kernel_is_noticed(tmp_path):  # row 54
    """As when a network file system forgot it: the file is the same, the lease in it is newer."""
    lock = DirectoryLock(tmp_path)
    os.close(os.open(tmp_path / ".lock", os.O_RDONLY))  # gives every lock of this process on it away
    lease = kept(tmp_path)[-1]
    with (tmp_path / ".lock").open("r+b") as file:
        file.write(as_slot(replace(lease, generation=2, process=5)))
    with pytest.raises(DirectoryInUse, match=r"taken over by host .*, process 5, .*\(generation 2\)"):
        lock.check()
    lock.release()


@pytest.mark.parametrize("fate", ["deleted", "moved", "another in its place"])
def test_a_directory_that_is_gone_is_not_made_again(fate, tmp_path):  # row 56
    place = tmp_path / "run"
    place.mkdir()
    lock = DirectoryLock(place)
    if fate == "deleted":
        (place / ".lock").unlink()
        place.rmdir()
    else:
        place.rename(tmp_path / "moved")
    if fate == "another in its place":
        place.mkdir()
    with pytest.raises(DirectoryLost, match=r"must stay in its place .* was moved or deleted") as caught:
        lock.check()
    assert caught.value.exit_code == 5
    lock.release()
    assert not place.exists() or not list(place.iterdir())


def test_a_copy_made_while_a_job_works_is_nobodys(tmp_path):  # row 56
    (tmp_path / "run").mkdir()
    with DirectoryLock(tmp_path / "run"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        (other := other_process(tmp_path / "copy")).communicate()
        assert other.returncode == 0
        with DirectoryLock(tmp_path / "copy") as lock:
            assert lock.generation == 3


def test_a_directory_moved_between_two_jobs(tmp_path):  # row 56
    (tmp_path / "a").mkdir()
    DirectoryLock(tmp_path / "a").release()
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    with DirectoryLock(tmp_path / "link") as lock:
        assert lock.generation == 2


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system as some mounts of Lustre and NFS are."""

    def refused(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "lockf", refused)
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)


def test_a_lease_file_keeps_others_out_where_there_are_no_locks(tmp_path, without_locks):  # row 55
    with DirectoryLock(tmp_path) as lock:
        assert lock.warning is not None
        assert "has no locks" in lock.warning
        lock.check()
        with pytest.raises(DirectoryInUse, match=f"process {os.getpid()}"):
            DirectoryLock(tmp_path)
    with DirectoryLock(tmp_path) as lock:
        assert lock.generation == 2
        lock.check()
    assert all(is_lock(path.name) for path in tmp_path.iterdir())
    assert len(list(tmp_path.glob(".lease-*"))) == 1


def lease_file(directory: Path, generation: int, **changes: Any) -> Path:
    lease = replace(lease_of_this_process(generation, "2026-01-01"), **changes)
    path = directory / f".lease-{generation}"
    path.write_bytes(as_slot(lease))
    return path


def test_a_lease_file_of_who_has_ended_is_taken_over(tmp_path, without_locks):  # row 53, 55
    lease_file(tmp_path, 4, process=4_194_303, started="17")
    with DirectoryLock(tmp_path) as lock:
        assert lock.generation == 5


def test_a_lease_without_a_heartbeat_runs_out(tmp_path, without_locks):  # row 55
    """Of a host that cannot be looked at; and one cut off while it was written."""
    lease_file(tmp_path, 4, host="elsewhere")
    with DirectoryLock(tmp_path) as lock:
        assert lock.generation == 5
    (tmp_path / ".lease-6").write_bytes(b"")
    with DirectoryLock(tmp_path) as lock:
        assert lock.generation == 7


def test_a_lease_with_a_heartbeat_does_not(tmp_path, without_locks, monkeypatch):  # row 55
    path, beats = lease_file(tmp_path, 4, host="elsewhere"), 0

    def slept(seconds: float) -> None:
        nonlocal beats
        beats += 1
        lease_file(tmp_path, 4, host="elsewhere", beat=beats)

    monkeypatch.setattr(locks.time, "sleep", slept)
    with pytest.raises(DirectoryInUse, match="held by host elsewhere"):
        DirectoryLock(tmp_path)
    assert path.exists()


def test_a_lease_that_was_taken_over_is_a_fence(tmp_path, without_locks):  # row 54, 55
    lock = DirectoryLock(tmp_path)
    lease_file(tmp_path, 2, host="elsewhere", process=5)
    with pytest.raises(DirectoryInUse, match="taken over by host elsewhere, process 5"):
        lock.check()
    lock.release()


def test_another_trouble_with_a_lock_is_the_environment(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", broken)
        with pytest.raises(EnvironmentFault, match=r"writable and lockable\. .*: Input/output error\."):
            DirectoryLock(tmp_path)
    DirectoryLock(tmp_path).release()


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(EnvironmentFault, match="missing: No such file or directory"):
        DirectoryLock(tmp_path / "missing")
