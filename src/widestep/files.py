"""Writing files so that a reader, a crash or a second process never sees half of one."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from widestep.errors import DirectoryInUse, EnvironmentFault, StoreError

_BLOCK = 65_536


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole: write beside it, fsync, rename, fsync the directory.

    After a crash at any moment the path holds either its old or its new content; `remove_leftovers` clears what a killed
    process left beside it.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise EnvironmentFault(
                f"{path} could not be written: {error.strerror}. Free space or check the disk."
            ) from error
        raise


def remove_leftovers(directory: Path) -> None:
    """Remove the unfinished files of processes that were killed while they wrote; nobody else may be writing there."""
    for path in directory.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


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
                except ValueError as error:
                    raise StoreError(f"{path} holds a record a line. Line {number} is damaged: {error}.") from None


class LineFile:
    """A file that whole lines are appended to, cut back to a known length when a run resumes.

    Lines are kept in memory until `flush`, so that a step costs no system call.
    """

    def __init__(self, path: Path, length: int | None = None) -> None:
        """Open for appending; `length` in bytes cuts off what was written after a checkpoint.

        A torn last line, as a full disk or a power cut leaves it, is cut off too, so that no line is glued to it.
        """
        self.path = path
        self._file = path.open("a+b")
        if length is not None:
            self._file.truncate(min(length, self._file.tell()))
        self._file.truncate(_end_of_last_line(self._file))
        self._file.seek(0, os.SEEK_END)

    def append(self, line: str) -> None:
        """Add one line."""
        with explained(self.path):
            self._file.write(line.encode() + b"\n")

    def length(self) -> int:
        """Flush and return the length in bytes."""
        with explained(self.path):
            self._file.flush()
            return self._file.tell()

    def sync(self) -> None:
        """Make everything written so far durable."""
        with explained(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        with explained(self.path):
            self._file.close()


def _end_of_last_line(file: BinaryIO) -> int:
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


class DirectoryLock:
    """Keeps a second process out of a run directory; released by the kernel however this process ends.

    Uses `lockf`, because `flock` is inherited by children and would outlive a killed parent.
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock, or raise DirectoryInUse naming who holds it."""
        self._file = (directory / ".lock").open("a+", encoding="utf-8")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "an unknown process"
            self._file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise EnvironmentFault(f"{directory} cannot be locked: {error.strerror}.") from None
            raise DirectoryInUse(
                f"One job at a time works in a run directory. {directory} is held by {holder}; wait for it or choose "
                "another --out."
            ) from None
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"host {socket.gethostname()}, process {os.getpid()}")
        self._file.flush()

    def release(self) -> None:
        """Give the lock back."""
        self._file.close()

    def __enter__(self) -> "DirectoryLock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating-system error about `path` into a sentence with exit code 5."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"{error.filename or path}: {error.strerror}. It must be writable, with space left."
        ) from error
