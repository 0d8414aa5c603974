"""Writing files so that a reader, a crash or a second process never sees half of one."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from widestep.errors import DirectoryInUse, EnvironmentFault


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole: write beside it, fsync, rename, fsync the directory.

    After a crash at any moment the path holds either its old or its new content.
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
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentFault(f"{path} could not be written: {error.strerror}. Free space or check the disk.") from error


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
    """Yield the records of a JSON-lines file; a torn last line is left out, a missing file has none."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


class LineFile:
    """A file that lines are appended to, cut back to a known length when a run resumes.

    Lines are kept in memory until `flush`, so that a step costs no system call.
    """

    def __init__(self, path: Path, length: int | None = None) -> None:
        """Open for appending; `length` in bytes cuts off what was written after a checkpoint."""
        self.path = path
        self._file = path.open("ab")
        if length is not None and self._file.tell() > length:
            self._file.truncate(length)
            self._file.seek(length)

    def append(self, line: str) -> None:
        """Add one line."""
        self._file.write(line.encode() + b"\n")

    def length(self) -> int:
        """Flush and return the length in bytes."""
        self._file.flush()
        return self._file.tell()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


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
        raise EnvironmentFault(f"{error.filename or path}: {error.strerror}. The directory must be writable.") from error
