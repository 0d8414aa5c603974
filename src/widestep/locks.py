"""One job at a time in a directory: a lock of the kernel, a lease that says who has it, a fence against who had it before.

The kernel's lock (`lockf`; `flock` is inherited by children and would outlive a killed parent) decides between processes
that see the same lock manager, and ends with its holder. It is not believed alone: some file systems keep locks on one host
only. So the file `.lock` also holds a lease - host, boot, process, its start, generation - and every taking counts the
generation up. Before anything takes its place in the directory, its writer checks that the newest lease is still its own
(`DirectoryLock.check`).

The lease is written in place, into two slots in turn, each with a digest: cut off half-way, the slot before it still counts.
Where the file system has no locks, a lease is a file `.lease-GENERATION` that only one process can create. A holder shows a
sign of life every few seconds: one on another host, of which nothing else can be known, is taken for dead when it misses
some, as after its node has crashed; should it wake up after all, the fence keeps it from writing.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from widestep.errors import DirectoryInUse, EnvironmentFault
from widestep.lease import SLOT, Lease, lease_of_this_process, newest_lease, now, write_slot
from widestep.lease_files import BEAT_SECONDS, BEATS_MISSED, Heart, HeldLease, LeaseFiles

LOCK = ".lock"
_LEASE = ".lease-"
_ATTEMPTS, _PAUSE_SECONDS = 500, 0.01
"""At a lock whose holder is ending or has just begun: one that was killed, or writes to a busy disk, needs a moment more."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: set[tuple[int, int]] = set()
"""Lock files held by this process: the kernel would let it take one twice, and lose it when either is closed."""


class DirectoryLost(EnvironmentFault):
    """The directory is no longer where it was; nothing is created again in its place."""


def is_lock(name: str) -> bool:
    """Say whether a file's name is that of a lock or a lease."""
    return name == LOCK or (name.startswith(_LEASE) and name.removeprefix(_LEASE).isdecimal())


class DirectoryLock:
    """Keeps a second process out of a run directory; released by the kernel however this process ends.

    Attributes
    ----------
    generation
        How often the directory was taken, this time included; never the same twice.
    warning
        What the user should know about the file system, or None.
    """

    def __init__(self, directory: Path) -> None:
        """Take the directory.

        Raises
        ------
        DirectoryInUse
            Says who holds it and what to do.
        EnvironmentFault
            When the directory cannot be written.
        """
        self.directory = directory
        self.warning: str | None = None
        try:
            found = os.stat(directory)
            self._identity = found.st_dev, found.st_ino
            self._keeper = self._take()
        except OSError as error:
            raise EnvironmentFault(
                f"A run directory must be writable and lockable. {error.filename or directory}: {error.strerror}."
            ) from error
        self.generation = self._keeper.generation

    def _take(self) -> "_KernelLock | _LeaseFile":
        try:
            return _KernelLock(self.directory)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        self.warning = (
            f"the file system of {self.directory} has no locks; a lease file with a heartbeat keeps other jobs out instead"
        )
        return _LeaseFile(self.directory)

    def check(self) -> None:
        """Make sure that this process may still write here; costs microseconds.

        Raises
        ------
        DirectoryLost
            When the directory was moved or deleted.
        DirectoryInUse
            When another process has taken the directory since: the fence against a writer that slept.
        """
        try:
            found = os.stat(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            raise DirectoryLost(
                f"A run directory must stay in its place while a job works in it. {self.directory} was moved or deleted; "
                "nothing is created in its place. Start again with --out where the run is now."
            )
        other = self._keeper.successor()
        if other is not None:
            raise DirectoryInUse(
                f"A run directory has one writer. {self.directory} was taken over by {other}; this process (generation "
                f"{self.generation}) writes nothing more there."
            )

    def release(self) -> None:
        """Give the lock back."""
        self._keeper.release()

    def __enter__(self) -> "DirectoryLock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _refusal(directory: Path, holder: Lease | None, remedy: str) -> DirectoryInUse:
    return DirectoryInUse(
        f"One job at a time works in a run directory. {directory} is held by {holder or 'a process that has just started'}; "
        f"{remedy}, or choose another --out."
    )


class _KernelLock:
    """`.lock`, locked by the kernel, with the leases of its last two holders in it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        self._descriptor, self._file = self._locked(directory)
        try:
            before = newest_lease(self._descriptor)
            if before is not None and before.is_of(self._file) and not before.provably_ended and not before.mine:
                own = lease_of_this_process(0)
                same_kernel = own.boot and before.boot == own.boot and before.namespace != own.namespace
                if not same_kernel:  # a container's numbers mean nothing here, but the kernel that freed the lock is ours
                    if before.host == own.host:
                        raise _refusal(
                            directory, before, f"if you know that it has ended, remove {self._path} and start again"
                        )
                    self._wait_for_the_end(directory, before)
            self.generation = 1 if before is None else before.generation + 1
            self._lease = replace(lease_of_this_process(self.generation, now()), device=self._file[0], file=self._file[1])
            self._write(self._lease, self.generation)
            os.fsync(self._descriptor)
            _held.add(self._file)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._heart = Heart(self._beat, BEAT_SECONDS)

    def _wait_for_the_end(self, directory: Path, holder: Lease) -> None:
        """Return once a holder on another host has not shown a sign of life for some beats: its host is gone."""
        deadline = time.monotonic() + BEAT_SECONDS * BEATS_MISSED
        first = self._last_beat()
        while time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 5)
            if self._last_beat() != first or newest_lease(self._descriptor) != holder:
                raise _refusal(directory, holder, "wait for it")

    def _last_beat(self) -> bytes:
        return os.pread(self._descriptor, SLOT, 2 * SLOT)

    def _beat(self, number: int) -> None:
        """Show a sign of life, behind the two slots; hosts that share the file system, but no locks, look for it."""
        os.pwrite(self._descriptor, f"{self.generation} {number}".ljust(SLOT - 1).encode() + b"\n", 2 * SLOT)
        os.fdatasync(self._descriptor)

    def _locked(self, directory: Path) -> tuple[int, tuple[int, int]]:
        """Open and lock the file; again, when its holder removed it in between, or is ending, or has just begun."""
        for attempts_left in reversed(range(_ATTEMPTS)):
            with contextlib.suppress(FileNotFoundError):
                if (identity := _identity(os.stat(self._path))) in _held:
                    raise _refusal(directory, lease_of_this_process(0, "it started"), "wait for it")
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                identity = _identity(os.fstat(descriptor))
                with contextlib.suppress(FileNotFoundError):
                    if identity == _identity(os.stat(self._path)):
                        return descriptor, identity
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    os.close(descriptor)
                    raise
                holder = newest_lease(descriptor)
                lives = holder is not None and not holder.provably_ended
                if lives or not attempts_left:
                    os.close(descriptor)
                    raise _refusal(directory, holder if lives else None, "wait for it") from None
            os.close(descriptor)
            time.sleep(_PAUSE_SECONDS)
        raise _refusal(directory, None, "wait for it")

    def _write(self, lease: Lease, slot: int) -> None:
        """Write a lease over the slot that matters least: what is cut off must not take the newest with it."""
        os.lseek(self._descriptor, slot % 2 * SLOT, os.SEEK_SET)
        write_slot(self._descriptor, lease)

    def successor(self) -> str | None:
        try:
            if _identity(os.stat(self._path)) != self._file:
                return "another process, which made a new lock file"
        except FileNotFoundError:
            return None  # nobody has taken what was removed
        newest = newest_lease(self._descriptor)
        return None if newest is None or newest.generation <= self.generation else str(newest)

    def release(self) -> None:
        if self._descriptor >= 0:
            self._heart.stop()
            with contextlib.suppress(OSError):  # on a full or vanished disk the kernel's release must do
                if self.successor() is None:
                    self._write(replace(self._lease, released=True), self.generation + 1)
            os.close(self._descriptor)
            _held.discard(self._file)
            self._descriptor = -1


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _patiently(read: Callable[[], Lease | None]) -> Lease | None:
    """Return the lease of who holds a directory, which is written a moment after it was taken."""
    for _ in range(_ATTEMPTS):
        found = read()
        if found is not None and not found.provably_ended:
            return found
        time.sleep(_PAUSE_SECONDS)
    return None


class _LeaseFile:
    """`.lease-GENERATION`, which one process alone can create; the highest generation is who holds the directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = LeaseFiles(directory, _LEASE)
        newest = max(self._files.generations(), default=0)
        if newest:
            self._wait_for_the_end(newest)
        self.generation = newest + 1
        held = self._files.create(self.generation)
        if held is None:
            raise _refusal(directory, _patiently(self._files.newest), "wait for it")
        self._held: HeldLease | None = held
        self._files.remove_before(self.generation)
        self._heart = Heart(held.beat, BEAT_SECONDS)

    def _wait_for_the_end(self, generation: int) -> None:
        """Return once a lease has run out: its holder has ended, or has not shown a sign of life for some beats."""
        first, own = self._files.read(generation), lease_of_this_process(0)
        deadline = time.monotonic() + BEAT_SECONDS * BEATS_MISSED
        while first is None or not first.provably_ended:
            local = first is not None and (first.host, first.namespace) == (own.host, own.namespace)
            if local or self._files.read(generation) != first:
                raise _refusal(self._directory, _patiently(self._files.newest), "wait for it")
            if time.monotonic() >= deadline:
                return
            time.sleep(BEAT_SECONDS / 5)

    def successor(self) -> str | None:
        return None if self._held is None else self._held.successor()

    def release(self) -> None:
        if self._held is not None:
            self._heart.stop()
            self._held.release()
            self._held = None
