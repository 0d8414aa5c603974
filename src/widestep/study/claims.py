"""Who runs which trial of a study: a lease file a trial, created by one process alone, with signs of life.

Nothing here needs locks that work. Whether a holder on this host lives is looked up; one on another host, of which nothing
else can be known, is taken for dead when it has shown no sign of life for some beats while this process watched. Should it
wake up after all, the lock of the run's own directory keeps it from writing.
"""

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from widestep.files import explained
from widestep.lease import Lease, lease_of_this_process
from widestep.lease_files import BEAT_SECONDS, BEATS_MISSED, Heart, HeldLease, LeaseFiles

_QUIET_SECONDS = 60.0
"""After so long without a sign of life somebody who looks once is told of it."""


@dataclass(frozen=True)
class _Sign:
    """The last sign of life of a process on another host."""

    beat: int
    since: float
    """When this process saw it first, on its own clock."""
    moved: bool
    """Whether it has shown another one since this process began to watch."""


class Claims:
    """The claims on the trials of a study, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: dict[str, HeldLease] = {}
        self._changing = threading.Lock()
        self._heart: Heart | None = None
        self._beat = 0
        self._signs: dict[tuple[str, ...], _Sign] = {}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others from claiming in between, where locks work: stacks are not torn apart. Nothing relies on it."""
        with explained(self.directory):
            self.directory.mkdir(exist_ok=True)
            with (self.directory / ".lock").open("a") as file:
                with contextlib.suppress(OSError):
                    fcntl.lockf(file, fcntl.LOCK_EX)  # freed by the kernel, however this process ends
                yield

    def take(self, name: str) -> bool:
        """Claim a trial for this process and say whether it is now its own; raises EnvironmentFault."""
        files = self._files(name)
        with explained(self.directory):
            self.directory.mkdir(exist_ok=True)
            before = max(files.generations(), default=0)
            if self._lives(files.read(before)):
                return False
            with self._changing:
                self._beat += 1  # to claim something is a sign of life, too
                beat = self._beat
            held = files.create(before + 1, beat)
            if held is None:
                return False
            if self._lives(files.read(before)):  # it was just being written
                held.remove()
                return False
            files.remove_before(held.generation)
        with self._changing:
            self._held[name] = held
            self._heart = self._heart or Heart(self._show_life, BEAT_SECONDS)
        return True

    def give_back(self, name: str) -> None:
        """Give a claim of this process back; one of another is left alone."""
        with self._changing:
            held = self._held.pop(name, None)
            heart = self._heart if not self._held else None
            if heart is not None:
                self._heart = None
        if heart is not None:
            heart.stop()
        if held is not None:
            held.remove()

    def held(self, name: str) -> bool:
        """Say whether somebody is working on a trial."""
        return self._lives(self.holder(name))

    def holder(self, name: str) -> Lease | None:
        """Return the claim on a trial, whoever made it; None when there is none, or a damaged one."""
        try:
            return self._files(name).newest()
        except FileNotFoundError:
            return None

    def elsewhere(self, name: str) -> str | None:
        """Say who holds a claim that this host cannot look at; since when he is silent, if he is."""
        lease = self.holder(name)
        if lease is None or _is_here(lease):
            return None
        path = self._files(name).path(lease.generation)
        silent = 0.0
        with contextlib.suppress(OSError):
            silent = time.time() - path.stat().st_mtime
        words = f"by process {lease.process} on host {lease.host}"
        if silent < _QUIET_SECONDS:
            return words
        return f"{words}, without a sign of life for {silent / 60:,.0f} min; whoever works on the study next takes it over"

    def left_by(self, process: int, names: list[str]) -> list[str]:
        """Return what an ended process of this host still claims."""
        claims = [(name, lease) for name in names if (lease := self.holder(name)) is not None and lease.process == process]
        return [name for name, lease in claims if _is_here(lease) and not _lives(lease)]

    def remove(self, name: str) -> None:
        """Remove the claim of an ended process."""
        with contextlib.suppress(FileNotFoundError):
            files = self._files(name)
            for generation in files.generations():
                files.path(generation).unlink(missing_ok=True)

    def doubtful(self, names: list[str]) -> bool:
        """Say whether there are claims of other hosts of which it is not known yet whether their holders live."""
        leases = [lease for name in names if (lease := self.holder(name)) is not None and self._lives(lease)]
        return any(not self._signs[_key(lease)].moved for lease in leases if not _is_here(lease))

    def _files(self, name: str) -> LeaseFiles:
        return LeaseFiles(self.directory, f"{name}.")

    def _lives(self, lease: Lease | None) -> bool:
        """Say whether a holder lives; on another host, until it has not shown a sign of life for some beats."""
        if lease is None or not _lives(lease):
            return False
        if _is_here(lease):
            return True
        key, clock = _key(lease), time.monotonic()
        seen = self._signs.get(key)
        if seen is None or lease.beat > seen.beat:
            seen = self._signs[key] = _Sign(lease.beat, clock, moved=seen is not None)
        return clock - seen.since < BEAT_SECONDS * BEATS_MISSED

    def _show_life(self, _number: int) -> None:
        with self._changing:
            self._beat += 1
            for held in self._held.values():
                with contextlib.suppress(OSError):
                    held.beat(self._beat)


def _key(lease: Lease) -> tuple[str, ...]:
    return lease.host, lease.boot, lease.namespace, str(lease.process), lease.started


def _is_here(lease: Lease) -> bool:
    """Say whether this process can look at the holder."""
    own = lease_of_this_process(0)
    return (lease.host, lease.boot, lease.namespace) == (own.host, own.boot, own.namespace)


def _lives(lease: Lease) -> bool:
    return not lease.provably_ended
