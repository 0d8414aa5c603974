"""Bytes out of many large files, from any number of threads: few files open at a time, every short read explained."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from widestep.data.stores.store import unreadable
from widestep.errors import DataError

MAX_OPEN = 256


class _Descriptor:
    """An open file that closes when nobody holds it any more, so that a thread never reads from a file closed under it."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class ShardFiles:
    """Reads pieces of files by position; memory use does not depend on the sizes of the files.

    Parameters
    ----------
    paths
        The files, known by their place in this list.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()
        self._lock = Lock()

    def read(self, file: int, offset: int, size: int) -> bytes:
        """Return `size` bytes of a file from `offset` on.

        Raises
        ------
        DataError
            When the file cannot be read, or ends before.
        """
        try:
            descriptor = self._descriptor(file)
            pieces = [os.pread(descriptor.number, size, offset)]
            while pieces[-1] and sum(map(len, pieces)) < size:  # one call returns at most 2 GiB, or less after a signal
                done = sum(map(len, pieces))
                pieces.append(os.pread(descriptor.number, size - done, offset + done))
        except OSError as error:
            raise unreadable("file of a data set", self.paths[file], error) from error
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(data) != size:
            raise DataError(
                f"A file of a data set must not change while it is used. {str(self.paths[file])!r} now ends "
                f"before byte {offset + size:,}: restore it, then start again."
            )
        return data

    def close(self) -> None:
        """Close all files; what reads afterwards opens them again."""
        with self._lock:
            self._open.clear()

    def _descriptor(self, file: int) -> _Descriptor:
        with self._lock:
            found = self._open.get(file)
            if found is None:
                found = self._open[file] = _Descriptor(self.paths[file])
                if len(self._open) > MAX_OPEN:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(file)
            return found
