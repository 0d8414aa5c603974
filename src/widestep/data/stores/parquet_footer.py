"""How many values of a column are missing, read from the end of a parquet file without pyarrow.

pyarrow (26 and before) hands this out by a call that ends the process when a footer is damaged in certain ways. A footer is
Thrift in its compact form: structs of numbered fields, each led by a byte with its type and how far its number is from the
last one. Source: Apache Thrift, "Thrift Compact protocol encoding"; Apache Parquet, `parquet.thrift` (numbers of fields).
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)
_MAX_DEPTH = 16
_TAIL = 8
"""Length of the footer, four bytes, and PAR1."""

_ROW_GROUPS, _COLUMNS, _ABOUT, _PATH, _STATISTICS, _NULL_COUNT = 4, 1, 3, 3, 12, 3
_WANTED: dict[int, Any] = {_ROW_GROUPS: {_COLUMNS: {_ABOUT: {_PATH: {}, _STATISTICS: {_NULL_COUNT: {}}}}}}

_Wanted = Mapping[int, Any]


class NullCount(NamedTuple):
    """Missing values of a column, named with its struct (`image.bytes`), in one row group."""

    group: int
    column: str
    num_missing: int


def null_counts(path: Path) -> Iterator[NullCount]:
    """Yield what the statistics of a parquet file say, for the columns and row groups that have any.

    Raises
    ------
    ValueError, OSError
        When the footer is damaged or cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(-_TAIL, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little")
        if size > end:
            raise ValueError("the footer is longer than the file")
        file.seek(end - size)
        footer = _Reader(file.read(size)).struct(_WANTED)
    for number, group in enumerate(_items(footer.get(_ROW_GROUPS))):
        for column in _items(_fields(group).get(_COLUMNS)):
            about = _fields(_fields(column).get(_ABOUT))
            count = _fields(about.get(_STATISTICS)).get(_NULL_COUNT)
            parts = _items(about.get(_PATH))
            if isinstance(count, int) and all(isinstance(part, bytes) for part in parts):
                yield NullCount(number, b".".join(parts).decode("utf-8", "replace"), count)


def _fields(value: Any) -> dict[int, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


class _Reader:
    """Reads values one after the other; nothing in the data can make it read beyond them or build more than they hold."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def struct(self, wanted: _Wanted, depth: int = 0) -> dict[int, Any]:
        """Read a struct and return its wanted fields by number; of those that are structs, their wanted fields."""
        found, number = {}, 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            value = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, wanted.get(number), depth)
            if number in wanted:
                found[number] = value
        return found

    def _value(self, kind: int, wanted: _Wanted | None, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("the footer is nested too deeply")
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.struct(wanted or {}, depth + 1)
        if kind in (_LIST, _SET):
            return self._list(wanted, depth + 1)
        if kind == _MAP:
            return self._map(depth + 1)
        return self._take({_TRUE: 1, _FALSE: 1, _BYTE: 1, _DOUBLE: 8}.get(kind, -1))

    def _list(self, wanted: _Wanted | None, depth: int) -> list[Any]:
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._varint()
        values = (self._value(head & 15, wanted, depth) for _ in range(size))
        if wanted is None:
            for _ in values:
                pass
            return []
        return list(values)

    def _map(self, depth: int) -> None:
        size = self._varint()
        kinds = self._byte() if size else 0
        for _ in range(size):
            self._value(kinds >> 4, None, depth)
            self._value(kinds & 15, None, depth)

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number in the footer is too long")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        data = self._data[self._place : self._place + size]
        if size < 0 or len(data) != size:
            raise ValueError("the footer ends too early, or holds a value of no known type")
        self._place += size
        return data
