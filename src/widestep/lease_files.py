"""Leases as files that one process alone can create: where a file system has no locks, or hosts do not share them.

A lease is a file PREFIX GENERATION. The highest generation is who holds; whoever takes over what nobody holds any more
creates the next one. A file is created and then written, so for a moment it reads as nobody's: its maker looks again after
writing, and stands back when there is a later one.
"""

import contextlib
import itertools
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from widestep.lease import Lease, lease_of_this_process, now, parsed, write_slot

BEAT_SECONDS = 5.0
"""Between two signs of life of a holder."""
BEATS_MISSED = 3
"""After so many a lease has run out, when its holder cannot be looked at."""

_NUMBER = re.compile(r"[0-9]{1,18}")


class LeaseFiles:
    """The leases on one thing, in a directory that may hold others."""

    def __init__(self, directory: Path, prefix: str) -> None:
        self.directory = directory
        self._prefix = prefix

    def path(self, generation: int) -> Path:
        """Return the file of a generation."""
        return self.directory / f"{self._prefix}{generation}"

    def generations(self) -> list[int]:
        """Return the generations that are there."""
        numbers = (name.removeprefix(self._prefix) for name in os.listdir(self.directory) if name.startswith(self._prefix))
        return [int(number) for number in numbers if _NUMBER.fullmatch(number)]

    def read(self, generation: int) -> Lease | None:
        """Return a lease, or None when it is not there or not whole."""
        try:
            return parsed(self.path(generation).read_bytes())
        except OSError:
            return None

    def newest(self) -> Lease | None:
        """Return the lease of the highest generation."""
        return self.read(max(self.generations(), default=0))

    def create(self, generation: int, beat: int = 0) -> "HeldLease | None":
        """Take the next generation; None when another process has it, or a later one. Raises OSError."""
        path = self.path(generation)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return None
        held = HeldLease(self, replace(lease_of_this_process(generation, now()), beat=beat), descriptor)
        try:
            held.write()
            os.fsync(descriptor)
            later = held.successor()
        except BaseException:
            os.close(descriptor)
            os.unlink(path)
            raise
        if later is not None:
            held.remove()
            return None
        return held

    def remove_before(self, generation: int) -> None:
        """Remove what was before a generation."""
        for earlier in self.generations():
            if earlier < generation:
                self.path(earlier).unlink(missing_ok=True)


class HeldLease:
    """A lease of this process."""

    def __init__(self, files: LeaseFiles, lease: Lease, descriptor: int) -> None:
        self._files = files
        self._lease = lease
        self._descriptor = descriptor

    @property
    def generation(self) -> int:
        """Its generation."""
        return self._lease.generation

    def write(self) -> None:
        """Write it over itself; raises OSError."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        write_slot(self._descriptor, self._lease)

    def beat(self, number: int) -> None:
        """Show a sign of life, at once to all hosts; raises OSError."""
        self._lease = replace(self._lease, beat=number)
        self.write()
        os.fdatasync(self._descriptor)

    def successor(self) -> str | None:
        """Say who holds a later generation, if somebody does."""
        newest = max(self._files.generations(), default=0)
        if newest <= self.generation:
            return None
        return str(self._files.read(newest) or f"the process of {self._files.path(newest)}")

    def release(self) -> None:
        """Say goodbye in the file, which stays."""
        self._lease = replace(self._lease, released=True)
        with contextlib.suppress(OSError):
            self.write()
        os.close(self._descriptor)

    def remove(self) -> None:
        """Give the lease back without a trace; a file of the same name that another process made since is left alone."""
        path = self._files.path(self.generation)
        with contextlib.suppress(OSError):
            found, own = os.stat(path), os.fstat(self._descriptor)
            if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
                os.unlink(path)
        os.close(self._descriptor)


class Heart:
    """Calls a function every few seconds, with a number that counts up."""

    def __init__(self, beat: Callable[[int], None], seconds: float) -> None:
        self._beat = beat
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="widestep-lease", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count(1):
            if self._ended.wait(self._seconds):
                return
            with contextlib.suppress(OSError):  # on a full or vanished disk the next one may go well
                self._beat(number)

    def stop(self) -> None:
        """Come to an end."""
        self._ended.set()
        self._thread.join()
