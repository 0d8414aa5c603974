"""Walks the headers of a tar file: which regular files it holds, and where their bytes lie. Nothing is ever extracted.

A tar file is a row of blocks of 512 bytes: for each member a header and then its bytes, padded; two blocks of zeros end it.
Names of over 100 bytes come in a member of their own before (types `L` and `x`). Source: POSIX.1-2017, pax, "ustar
Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format".
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from widestep.data.stores.store import unreadable
from widestep.errors import DataError

_BLOCK = tarfile.BLOCKSIZE
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG_NAME, _PAX, _PAX_GLOBAL = tarfile.GNUTYPE_LONGNAME, (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.XGLTYPE
_MAX_HEADER = 1 << 20
_AHEAD = 4096
"""Bytes read at once: a header, a small label and the header after them, but little of an image."""
_KINDS = {
    tarfile.LNKTYPE: "a link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGLINK: "a link",
}


class Member(NamedTuple):
    """A regular file in a tar file: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


class Shard:
    """A tar file that is read from the beginning to the end, once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._buffer, self._start = b"", 0

    def members(self) -> Iterator[Member]:
        """Yield the regular files in order.

        Raises
        ------
        DataError
            Naming the shard and the place in it: when it is cut short, a header is damaged, a member is neither a regular
            file nor a folder, its name is absolute or leads out of the archive, or it is larger than the rest of the shard.
        """
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # nobody waits for a pipe
        except OSError as error:
            raise unreadable("shard", self.path, error) from error
        try:
            status = os.fstat(self._descriptor)
            if not S_ISREG(status.st_mode):
                raise self.fault(0, "it is no regular file")
            self._size = status.st_size
            yield from self._walk()
        except OSError as error:
            raise unreadable("shard", self.path, error) from error
        finally:
            os.close(self._descriptor)

    def content(self, member: Member) -> bytes:
        """Return the bytes of a member while the walk is at it."""
        return self._read(member.offset, member.size)

    def fault(self, offset: int, what: str) -> DataError:
        """Return the error that says what is wrong at a place of the shard."""
        return DataError(
            f"A shard must be a whole tar file of images and labels. {str(self.path)!r} at byte {offset:,}: {what}. "
            "Restore or rewrite the shard."
        )

    def _walk(self) -> Iterator[Member]:
        offset, long_name, long_size = 0, None, None
        while True:
            header = self._header(offset)
            if header is None:
                return self._check_rest(offset)
            size = 0 if header.type == tarfile.DIRTYPE else header.size if long_size is None else long_size
            name = header.name if long_name is None else long_name
            end = offset + _BLOCK + size
            if size < 0 or end > self._size:
                raise self.fault(offset, f"{name!r} should have {size:,} bytes, but the file ends after {self._size:,}")
            start, at, kind = offset + _BLOCK, offset, header.type
            offset = start + -(-size // _BLOCK) * _BLOCK
            if kind in (_LONG_NAME, _PAX_GLOBAL, *_PAX):
                if size > _MAX_HEADER:
                    raise self.fault(at, f"a header of {size:,} bytes is too long")
                found = self._long_values(at, kind, self._read(start, size))
                if kind != _PAX_GLOBAL:
                    long_name, long_size = found[0] or long_name, long_size if found[1] is None else found[1]
                elif found != (None, None):
                    raise self.fault(at, "a global header gives all members the same name or size")
                continue
            long_name = long_size = None
            if kind in _FILES and not name.endswith("/"):
                self._check_name(at, name)
                yield Member(name, start, size)
            elif kind not in _FILES and kind != tarfile.DIRTYPE:
                raise self.fault(at, f"{name!r} is {_KINDS.get(kind, f'of the unknown type {kind!r}')}")

    def _header(self, offset: int) -> tarfile.TarInfo | None:
        """Return the header at a place, None for the block of zeros that ends the archive."""
        block = self._read(offset, _BLOCK) if offset + _BLOCK <= self._size else b""
        if not block:
            raise self.fault(offset, "it is cut short: the two blocks of zeros that end a tar file are missing")
        if not any(block):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            raise self.fault(offset, f"there is no header of a tar member ({error})") from error

    def _long_values(self, offset: int, kind: bytes, content: bytes) -> tuple[str | None, int | None]:
        """Return the name and size that a member of headers gives to the member after it."""
        if kind == _LONG_NAME:
            return content.split(b"\0")[0].decode("utf-8", "surrogateescape"), None
        name, size = None, None
        while content.strip(b"\0"):
            length, _, _ = content.partition(b" ")
            if not (length.isdigit() and len(length) < 8 and len(length) + 3 <= int(length) <= len(content)):
                raise self.fault(offset, "an extended header is damaged")
            record, content = content[len(length) + 1 : int(length)], content[int(length) :]
            key, equals, value = record.partition(b"=")
            if not equals or not value.endswith(b"\n"):
                raise self.fault(offset, "an extended header is damaged")
            if key == b"path":
                name = value[:-1].decode("utf-8", "surrogateescape")
            elif key == b"size":
                if not (value[:-1].isdigit() and len(value) < 20):
                    raise self.fault(offset, f"{value[:-1]!r} is no size")
                size = int(value)
            elif key.startswith(b"GNU.sparse"):
                raise self.fault(offset, "it holds a sparse file")
        return name, size

    def _check_name(self, offset: int, name: str) -> None:
        if name.startswith("/") or ".." in name.split("/") or not name or "\0" in name:
            raise self.fault(offset, f"the name {name!r} is absolute, empty or leads out of the archive")

    def _check_rest(self, offset: int) -> None:
        """Only zeros may follow the end of the archive; two archives simply joined would lose the second one's images."""
        while offset < self._size:
            rest = self._read(offset, min(_MAX_HEADER, self._size - offset))
            if rest.strip(b"\0"):
                raise self.fault(offset, "there is more after the end of the archive")
            offset += len(rest)

    def _read(self, offset: int, size: int) -> bytes:
        """Return bytes through a buffer, so that small members and their headers cost one system call for many."""
        start = offset - self._start
        if start < 0 or start + size > len(self._buffer):
            self._buffer, self._start, start = os.pread(self._descriptor, max(size, _AHEAD), offset), offset, 0
        data = self._buffer[start : start + size]
        if len(data) != size:
            raise self.fault(offset, "it was cut short while it was read")
        return data
