"""Writing files so that a reader, a crash, a full disk or a second process never sees half of one.

Everything that changes the disk goes through `os.open`, `os.write`, `os.ftruncate`, `os.fsync` and `os.replace`, one call a
line, so that each of them can be made to fail.
"""

import contextlib
import errno
import itertools
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from widestep.errors import EnvironmentFault, StoreError, UsageError

_BLOCK = 1 << 20
_LINES_KEPT = 64 << 10
"""Bytes of lines that wait to be written together."""
_UNSYNCED_KEPT = 8 << 20
"""Bytes of lines that are kept until the disk has them for certain, before they are synced on the way."""
_MOST_WAITING = 64 << 20
"""Bytes of lines that wait for space on a full disk; further ones are lost, and counted."""
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
        When any of it fails: the file counts as not written, whatever part of it is.
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
            if _read_at(descriptor, len(wanted), offset) != wanted:
                raise OSError(errno.EIO, "what was read back differs from what was written")
            offset += len(wanted)
    if os.fstat(descriptor).st_size != offset:
        raise OSError(errno.EIO, "the file has another size than what was written")


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
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


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON-lines file; a torn last line is left out, a missing file has none.

    Raises
    ------
    StoreError
        When a whole line is no record.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise StoreError(f"{path} holds a record a line. Line {number} is damaged: {error}.") from None


class LineFile:
    """A file that whole lines are appended to, cut back to a known length when a run resumes.

    Lines wait in memory, so that a step costs no system call and a full disk ends nothing: what could not be written is
    written when there is space again, right where it stopped. Lines are kept until the disk has them for certain; after a
    failed fsync they are written again, because the operating system may have dropped them.

    One thread appends; another may `sync` at the same time.

    Attributes
    ----------
    failure
        Why lines wait, when the last attempt to write them failed.
    num_lost
        Lines that were dropped because too many waited.
    num_missing
        Bytes that `length` promised but the file did not have.
    """

    def __init__(self, path: Path, length: int | None = None, fence: Fence | None = None) -> None:
        """Open for appending; `length` in bytes cuts off what was written after a checkpoint.

        A torn last line, as a full disk or a power cut leaves it, is cut off too, so that no line is glued to it.

        Raises
        ------
        EnvironmentFault
            When it cannot be opened.
        """
        self.path = path
        self.failure: OSError | None = None
        self.num_lost = 0
        self._fence = fence
        self._changing, self._syncing = threading.Lock(), threading.Lock()
        self._pending = bytearray()
        self._num_written = 0  # bytes of `_pending` that the operating system has taken
        self._descriptor = -1
        try:
            is_new = not path.exists()
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if is_new:
                sync_directory(path.parent)
            size = os.fstat(self._descriptor).st_size
            self._durable = _end_of_last_line(self._descriptor, size if length is None else min(length, size))
            if self._durable < size:
                os.ftruncate(self._descriptor, self._durable)
        except OSError as error:
            self._release()
            raise not_written(path, error) from error
        self.num_missing = max(0, (length or 0) - self._durable)

    @property
    def num_waiting(self) -> int:
        """Bytes that are in no file yet."""
        return len(self._pending) - self._num_written

    def append(self, line: str) -> None:
        """Add one line."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._changing:
            if len(self._pending) + len(data) > _MOST_WAITING:
                self.num_lost += 1
                return
            self._pending += data
        if self.num_waiting > _LINES_KEPT and self.failure is None:
            self.flush()

    def flush(self) -> bool:
        """Write the lines that wait, as far as the disk takes them, and say whether it took all."""
        with self._changing:
            if not self.num_waiting:
                self.failure = None
            else:
                if self._fence is not None:
                    self._fence.check()
                os.lseek(self._descriptor, self._durable + self._num_written, os.SEEK_SET)
                num_taken, self.failure = write_all(self._descriptor, bytes(self._pending[self._num_written :]))
                self._num_written += num_taken
        if self.failure is None and self._num_written > _UNSYNCED_KEPT:
            with contextlib.suppress(EnvironmentFault):
                self.sync()
        return self.failure is None

    def length(self) -> int:
        """Flush and return the length in bytes.

        Raises
        ------
        EnvironmentFault
            When lines still wait.
        """
        if not self.flush():
            assert self.failure is not None
            raise not_written(self.path, self.failure) from self.failure
        return self._durable + self._num_written

    def sync(self) -> None:
        """Make everything written so far durable; raises EnvironmentFault when that fails."""
        with self._syncing:
            length = self.length()
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                with self._changing:
                    self._num_written = 0  # nobody knows what reached the disk: all of it is written again
                    self.failure = error
                raise not_written(self.path, error) from error
            with self._changing:
                num_durable = length - self._durable
                del self._pending[:num_durable]
                self._num_written -= num_durable
                self._durable = length

    def close(self) -> None:
        """Flush and close; raises EnvironmentFault when lines are lost by that."""
        try:
            self.length()
        finally:
            self._release()

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _end_of_last_line(descriptor: int, end: int) -> int:
    while end:
        start = max(0, end - _LINES_KEPT)
        newline = _read_at(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


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
