"""The directory a run will write to: whether it can be made and written, what file system it is on, and what is free.

Mode bits say nothing to root and little on a network, so a file is really written, and everything made for it removed.
"""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from widestep.errors import EnvironmentFault, UsageError
from widestep.records.fact import MIB, Fact, size

PROBE_BYTES = 4096
FEWEST_FILES = 64
"""What a run creates, some of it twice while it is replaced."""

_IMPOSSIBLE_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_PASSING = {
    "tmpfs": "is lost when the machine restarts",
    "ramfs": "is lost when the machine restarts",
    "overlay": "is lost with its container",
}


class Probe:
    """A file that is written, made durable and locked for a moment in a directory, made with its parents if need be.

    Parameters
    ----------
    directory
        Where; need not exist.

    Attributes
    ----------
    path, content
        The file and what it holds, which nobody can guess.
    locks
        Whether the file could be locked.

    Raises
    ------
    OSError
        When that cannot be done; nothing is left behind.
    """

    def __init__(self, directory: Path) -> None:
        self.content = secrets.token_bytes(16).hex().encode().ljust(PROBE_BYTES)
        self.path = directory / f".probe-{secrets.token_hex(6)}.tmp"
        self.locks = True
        self._made: list[Path] = []
        try:
            self._make(directory)
            self._write()
        except BaseException:
            self.remove()
            raise

    def _make(self, directory: Path) -> None:
        missing = [directory] if not directory.exists() else []
        for parent in directory.parents if missing else ():
            if parent.exists():
                break
            missing.append(parent)
        for folder in reversed(missing):
            with suppress(FileExistsError):  # another process was faster
                folder.mkdir()
                self._made.append(folder)

    def _write(self) -> None:
        descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            written = os.write(descriptor, self.content)
            if written < len(self.content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(descriptor)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                self.locks = False
        finally:
            os.close(descriptor)

    def remove(self, *, keep_directories: bool = False) -> None:
        """Remove the file, and the directories that were made for it unless they are to be kept or in use by now."""
        with suppress(OSError, ValueError):
            self.path.unlink()
        for folder in () if keep_directories else reversed(self._made):
            with suppress(OSError):
                folder.rmdir()


@dataclass(frozen=True)
class Space:
    """The file system of a directory that may not exist yet: its kind, where it is mounted, what is free on it."""

    kind: str
    mounted_at: str
    free: int
    free_files: int | None
    """Further files that can be created; None where there is no such limit."""


def space(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> Space:
    """Return what is known about the file system a directory is on, or would be made on.

    Raises
    ------
    OSError
        When it cannot be asked.
    """
    place = existing(directory)
    found = os.statvfs(place)
    kind, mounted_at = _mount_of(place, mounts)
    return Space(kind, mounted_at, found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def existing(directory: Path) -> Path:
    """Return the directory, or the nearest one above it that exists."""
    whole = Path(os.path.realpath(directory))
    return next((place for place in (whole, *whole.parents) if place.is_dir()), Path("/"))


def require_writable(directories: Sequence[Path]) -> None:
    """Make directories, and make sure that files can be created, written and locked in them; leave nothing there.

    What had to be made is removed when that failed. Otherwise it stays: another job may be about to use it.

    Raises
    ------
    UsageError
        When a directory cannot have that name.
    EnvironmentFault
        When it cannot be made or written.
    """
    for directory in directories:
        try:
            Probe(directory).remove(keep_directories=True)
        except (OSError, ValueError) as error:
            raise fault(directory, error) from error


def require_space(directory: Path, needed: int, needed_files: int = FEWEST_FILES) -> None:
    """Make sure so many bytes and files fit where a directory is, besides what the directory holds already.

    Raises
    ------
    EnvironmentFault
        When they do not; names both numbers.
    """
    try:
        found = space(directory)
    except OSError as error:
        raise fault(directory, error) from error
    if found.free < needed:
        raise EnvironmentFault(
            f"Two checkpoints and the records must fit on the disk of {directory}. They need {size(needed)} and "
            f"{size(found.free)} are free; free space, or choose another --out."
        )
    if found.free_files is not None and found.free_files < needed_files:
        raise EnvironmentFault(
            f"A run creates up to {needed_files} files. The file system of {directory} has {found.free_files} inodes left; "
            "delete files there, or choose another --out."
        )


def fault(directory: Path, error: OSError | ValueError) -> EnvironmentFault | UsageError:
    """Explain why a directory cannot be written to."""
    if isinstance(error, ValueError):
        return UsageError(f"--out must be a name that a file can have. Got {str(directory)!r}; choose another.")
    if error.errno in _IMPOSSIBLE_NAME:
        return UsageError(
            f"--out must be a name that a file can have. {str(directory)!r} is none ({error.strerror}); choose another."
        )
    if error.errno == errno.ENOENT and not _working_directory_exists():
        return EnvironmentFault(
            f"The directory {str(directory)!r} is relative to the working directory. That has been deleted; cd to one that "
            "exists."
        )
    return EnvironmentFault(
        f"The run directory must be writable. {str(directory)!r} is not ({error.strerror}); correct that, or choose another "
        "--out."
    )


def directory_facts(directory: Path) -> list[Fact]:
    """Return what is to be said about a run directory: whether it can be written, its file system, space and locks."""
    values = {"path": str(directory)}
    try:
        was_there = directory.is_dir()
        probe = Probe(directory)
        probe.remove()
        found = space(directory)
    except (OSError, ValueError) as error:
        text, _, remedy = str(fault(directory, error)).rpartition("; ")
        return [Fact("directory", "problem", text, remedy.rstrip("."), values)]
    state = "exists and can be written to" if was_there else "does not exist and can be made"
    facts = [Fact("directory", "ok", f"{str(directory)!r} {state}", values={**values, "exists": was_there})]
    return [*facts, _file_system_fact(found), _space_fact(found), _locks_fact(probe.locks)]


def _file_system_fact(found: Space) -> Fact:
    values = {"kind": found.kind, "mounted_at": found.mounted_at}
    text = f"{found.kind}, mounted at {found.mounted_at}"
    if found.kind in _PASSING:
        remedy = "for results that shall last give an --out elsewhere"
        return Fact("filesystem", "warning", f"{text}: what is written there {_PASSING[found.kind]}", remedy, values)
    return Fact("filesystem", "ok", text, values=values)


def _space_fact(found: Space) -> Fact:
    files = "files without limit" if found.free_files is None else f"{found.free_files:,} inodes"
    text, values = f"{size(found.free)} and {files} free", {"free": found.free, "free_inodes": found.free_files}
    few_files = found.free_files is not None and found.free_files < FEWEST_FILES
    if found.free < MIB or few_files:
        return Fact("space", "problem", text, "free space, or give another --out", values)
    if found.free < 1024 * MIB:
        return Fact(
            "space", "warning", text, "a checkpoint of ResNet-50 takes 205 MiB: free space for larger models", values
        )
    return Fact("space", "ok", text, values=values)


def _locks_fact(works: bool) -> Fact:
    if works:
        return Fact("locks", "ok", "locks work there", values={"works": True})
    remedy = "a lease file keeps a second job out instead; never start two jobs on one directory within its time"
    return Fact("locks", "warning", "locks do not work there", remedy, {"works": False})


def _mount_of(place: Path, mounts: Path) -> tuple[str, str]:
    """Return kind and mount point of the file system that holds an existing directory."""
    best, kind = "", "unknown"
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return kind, "?"
    for line in lines:
        words, _, rest = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words.split()[4])
        inside = str(place) == point or str(place).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two on one point the later one covers the earlier
            best, kind = point, rest.split()[0]
    return kind, best


def _working_directory_exists() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True
