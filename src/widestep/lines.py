"""Files of lines that grow while a run lasts, and lose none on a full disk."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from widestep.errors import EnvironmentFault, StoreError
from widestep.files import Fence, not_written, read_at, sync_directory, write_all

_LINES_KEPT = 64 << 10
"""Bytes of lines that wait to be written together."""
_UNSYNCED_KEPT = 8 << 20
"""Bytes of lines that are kept until the disk has them for certain, before they are synced on the way."""
_MOST_WAITING = 64 << 20
"""Bytes of lines that wait for space on a full disk; further ones are lost, and counted."""


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON-lines file; a torn last line is left out, a missing file has none.

    Raises
    ------
    StoreError
        When a whole line is no object with named values.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise StoreError(f"{path} holds a record a line. Line {number} is damaged: {error}.") from None
                if not isinstance(found, dict):
                    raise StoreError(f"{path} holds a record a line. Line {number} is damaged: it has no named values.")
                yield found


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
        newline = read_at(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
