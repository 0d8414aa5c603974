"""Writing files so that a reader, a crash, a full disk or a second process never sees half of one.

Everything that changes the disk goes through `os.open`, `os.write`, `os.ftruncate`, `os.fsync` and `os.replace`, one call a
line, so that each of them can be made to fail.
"""

import contextlib
import errno
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from widestep.errors import EnvironmentFault, UsageError

_BLOCK = 1 << 20
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""How file systems say that directories need no fsync of their own."""

_numbers = itertools.count()


class Fence(Protocol):
    """Who may write: asked right before a file takes its place, so that a process that was replaced changes nothing."""

    generation: int

    def check(self) -> None:
        """Raise when this process may not write any more."""


def write_atomically(path: Path, content: str | bytes | Sequence[bytes | memoryview], fence: Fence | None = None) -> None:
    """Replace a file as a whole: write beside it, fsync, read back, rename, fsync the directory.

    After a crash at any moment the path holds either its old or its new content; `remove_leftovers` clears what a killed
    process left beside it. A content in pieces is written piece by piece, without another copy in memory.

    Raises
    ------
    EnvironmentFault
        When any of it fails: the file counts as not written, whatever part of it is. What the fence says comes first: in a
        directory that was moved away nothing can be opened, and neither space nor a disk check would help.
    """
    if isinstance(content, str):
        content = content.encode()
    pieces = [memoryview(piece) for piece in ([content] if isinstance(content, bytes) else content)]
    temporary = _beside(path, fence)
    try:
        identity = _write_whole(temporary, pieces)
        if fence is not None:
            fence.check()
        _rename(temporary, path, identity)
        sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            if fence is not None:
                with contextlib.suppress(OSError):
                    fence.check()
            raise not_written(path, error) from error
        raise


def not_written(path: Path, error: OSError) -> EnvironmentFault:
    """Return the error to raise when the operating system refused to write a file: path, reason, free space."""
    return EnvironmentFault(
        f"{path} could not be written: {error.strerror or error}{_free_space(path.parent)}. Free space or check the disk."
    )


def _free_space(directory: Path) -> str:
    try:
        found = os.statvfs(directory)
    except OSError:
        return ""
    return f" ({found.f_bavail * found.f_frsize:,} bytes are free)"


def _beside(path: Path, fence: Fence | None) -> Path:
    """Return a name for an unfinished file that no other process and no other write of this one uses."""
    generation = 0 if fence is None else fence.generation
    return path.with_name(f".{path.name[:40]}.g{generation}.{os.getpid()}.{next(_numbers)}.tmp")


def _write_whole(path: Path, pieces: Sequence[memoryview]) -> tuple[int, int]:
    """Write a new file, make its content durable, and read it back; returns its device and number."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for piece in pieces:
            _, failure = write_all(descriptor, piece)
            if failure is not None:
                raise failure
        os.fsync(descriptor)
        _compare(descriptor, pieces)
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return found.st_dev, found.st_ino


def write_all(descriptor: int, data: bytes | memoryview) -> tuple[int, OSError | None]:
    """Write bytes however many calls it takes; returns how many were taken and, when not all, why."""
    view, written = memoryview(data), 0
    while written < len(view):
        try:
            taken = os.write(descriptor, view[written : written + _BLOCK])
        except InterruptedError:
            continue
        except OSError as error:
            return written, error
        if taken == 0:
            return written, OSError(errno.EIO, "the disk takes no bytes")
        written += taken
    return written, None


def _compare(descriptor: int, pieces: Sequence[memoryview]) -> None:
    """Raise when a file does not hold exactly what was written to it."""
    offset = 0
    for piece in pieces:
        for start in range(0, len(piece), _BLOCK):
            wanted = piece[start : start + _BLOCK]
            if read_at(descriptor, len(wanted), offset) != wanted:
                raise OSError(errno.EIO, "what was read back differs from what was written")
            offset += len(wanted)
    if os.fstat(descriptor).st_size != offset:
        raise OSError(errno.EIO, "the file has another size than what was written")


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Read bytes from a place in a file, however many calls it takes; fewer only at its end."""
    found = os.pread(descriptor, size, offset)
    while len(found) < size and (more := os.pread(descriptor, size - len(found), offset + len(found))):
        found += more
    return found


def _rename(temporary: Path, path: Path, identity: tuple[int, int]) -> None:
    """Rename; a network file system may say that there is no such file when only the answer to a rename was lost."""
    try:
        os.replace(temporary, path)
    except FileNotFoundError:
        found = os.stat(path)
        if (found.st_dev, found.st_ino) != identity:
            raise


def remove_leftovers(directory: Path) -> None:
    """Remove the unfinished files of processes that were killed while they wrote.

    Called by who holds the directory: a process that was replaced cannot rename a file that is gone.
    """
    for path in directory.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Say whether a file's name is that of an unfinished one."""
    return name.startswith(".") and name.endswith(".tmp")


def make_directory(path: Path) -> None:
    """Make a directory and what it lies in, durably; one that is there is fine."""
    missing = [path, *path.parents]
    missing = missing[: next((number for number, place in enumerate(missing) if place.exists()), len(missing))]
    path.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_directory(made.parent)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, fence: Fence | None = None) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n", fence)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating-system error about `path` into a sentence with exit code 5; with 2 when no file can be called so."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(
                f"A file must have a name that the file system takes. {str(error.filename or path)!r} has none "
                f"({error.strerror}); choose another."
            ) from error
        raise EnvironmentFault(
            f"{error.filename or path}: {error.strerror}. It must be writable, with space left."
        ) from error
