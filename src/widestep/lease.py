"""Leases: who works in a directory, as it is written there, and whether that process can still be alive."""

import hashlib
import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from widestep.files import write_all

SLOT = 512
"""Bytes that a lease takes up."""


@dataclass(frozen=True)
class Lease:
    """Who works in a directory.

    Parameters
    ----------
    boot, namespace
        Between them a process number means one process: the kernel's run and the space of process numbers.
    started
        When the process started, in ticks since boot: numbers are used again.
    since
        When it took the directory, for people.
    beat
        Counted up while the holder lives, on file systems without locks.
    """

    host: str
    boot: str
    namespace: str
    process: int
    started: str
    since: str
    generation: int
    device: int = 0
    file: int = 0
    """Of the lock file, between them: a directory that was copied while a job worked in it is not held by that job."""
    released: bool = False
    beat: int = 0

    def is_of(self, file: tuple[int, int]) -> bool:
        """Say whether the lease lies in the file that it was written to; other hosts know the device by another number."""
        return self.file == file[1] and (self.device == file[0] or self.boot != lease_of_this_process(0).boot)

    @property
    def provably_ended(self) -> bool:
        """Whether the holder cannot be alive: it said goodbye, its host was booted since, or its process is gone."""
        mine = lease_of_this_process(self.generation)
        if self.released:
            return True
        if self.host != mine.host:
            return False
        if self.boot != mine.boot:
            return True
        return self.namespace == mine.namespace and self.started != start_of(self.process)

    @property
    def mine(self) -> bool:
        """Whether this process is the holder."""
        own = lease_of_this_process(self.generation, self.since)
        return own == replace(self, device=0, file=0, released=False, beat=0)

    def __str__(self) -> str:
        return f"host {self.host}, process {self.process}, since {self.since} (generation {self.generation})"


def lease_of_this_process(generation: int, since: str = "") -> Lease:
    """Return a lease of this process, in no file yet."""
    process = os.getpid()
    return Lease(
        host=ascii(socket.gethostname())[1:-1][:64],
        boot=_text("/proc/sys/kernel/random/boot_id"),
        namespace=_namespace(),
        process=process,
        started=start_of(process),
        since=since,
        generation=generation,
    )


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def start_of(process: int) -> str:
    """Return when a process started, in ticks since boot; `gone` when there is none, or one that has ended."""
    fields = _text(f"/proc/{process}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else "gone"


def now() -> str:
    """Return the time of the day, for people."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def newest_lease(descriptor: int) -> Lease | None:
    """Return the whole lease of the highest generation in a lock file."""
    data = os.pread(descriptor, 2 * SLOT, 0)
    leases = [lease for start in (0, SLOT) if (lease := parsed(data[start : start + SLOT])) is not None]
    return max(leases, key=lambda lease: (lease.generation, lease.released), default=None)


def as_slot(lease: Lease) -> bytes:
    """Return a lease as a slot full of text, with a digest in front."""
    text = json.dumps(asdict(lease), sort_keys=True)
    line = f"{_digest(text)} {text}".ljust(SLOT - 1).encode() + b"\n"
    assert len(line) == SLOT
    return line


def parsed(data: bytes) -> Lease | None:
    """Return the lease of a slot, or None when it is not whole."""
    digest, _, text = data.decode(errors="replace").rstrip(" \n").partition(" ")
    if digest != _digest(text):
        return None
    try:
        return Lease(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None


def write_slot(descriptor: int, lease: Lease) -> None:
    """Write a lease where a file stands; raises OSError."""
    _, failure = write_all(descriptor, as_slot(lease))
    if failure is not None:
        raise failure


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
