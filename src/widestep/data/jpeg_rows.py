"""Shorter JPEGs cut out of one: only the rows that a crop needs, without decoding anything.

A JPEG's data are rows of blocks from top to bottom. Where a restart marker stands after every row, each row can be decoded
by itself, so that any run of rows makes a JPEG; without markers, only the rows at the bottom can be left out, by giving a
smaller height in the header. Source: ITU-T T.81, annexes A.2 (order of blocks), B.2 (markers) and E.1.4 (restart).
"""

import re
from typing import NamedTuple

_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_END = b"\xff\xd9"
_SEQUENTIAL = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class JpegLayout(NamedTuple):
    """Where things stand in a sequential JPEG that has one scan.

    `height_at` is the offset of the two bytes of the height, `data_at` that of the compressed data; `blocks_high` is the
    height in pixels of a row of blocks (of a minimum coded unit); `has_row_markers` says whether a restart interval is
    exactly such a row.
    """

    height: int
    height_at: int
    data_at: int
    blocks_high: int
    has_row_markers: bool


class JpegRows(NamedTuple):
    """A JPEG of some rows of another, and the row of pixels in the other that it begins with."""

    data: bytearray
    first: int


def find_layout(data: bytes) -> JpegLayout | None:
    """Read the markers before the compressed data; None when the image is progressive or anything is unusual."""
    frame, interval, place = 0, 0, 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9:
            return None
        if marker in _FRAMES:
            if marker not in _SEQUENTIAL or frame:
                return None
            frame = place
        elif marker == 0xDD:
            interval = int.from_bytes(data[place + 4 : place + 6])
        elif marker == 0xDA:
            is_whole = frame > 0 and data[place + 4] == data[frame + 9]
            return _layout(data, frame, interval, place + 2 + length) if is_whole else None
        place += 2 + length
    return None


def _layout(data: bytes, frame: int, interval: int, data_at: int) -> JpegLayout:
    height, width = int.from_bytes(data[frame + 5 : frame + 7]), int.from_bytes(data[frame + 7 : frame + 9])
    num_components = data[frame + 9]
    sampling = data[frame + 11 : frame + 11 + 3 * num_components : 3]
    # A single component is stored block by block, whatever its sampling factors are.
    across = 8 * max(factors >> 4 for factors in sampling) if num_components > 1 else 8
    down = 8 * max(factors & 15 for factors in sampling) if num_components > 1 else 8
    return JpegLayout(height, frame + 5, data_at, down, interval == -(-width // across))


def only_rows(data: bytes, layout: JpegLayout, top: int, bottom: int) -> JpegRows | None:
    """Make a JPEG of the rows of blocks that the rows of pixels top..bottom-1 depend on.

    That includes the neighbours above and below: where colours are stored at half the height, they are interpolated
    between a row and the next. Needs `layout.has_row_markers`. None when the markers are not one a row, in order, or the
    data do not end with the image; the whole must then be decoded.
    """
    num_rows = -(-layout.height // layout.blocks_high)
    if not data.endswith(_END):
        return None
    markers = [found.start() for found in _RESTART.finditer(data, layout.data_at)]
    if len(markers) != num_rows - 1 or any(data[place + 1] & 7 != row & 7 for row, place in enumerate(markers)):
        return None
    first, last = max(top - 1, 0) // layout.blocks_high, min(bottom, layout.height - 1) // layout.blocks_high
    start = markers[first - 1] + 2 if first else layout.data_at
    end = markers[last] if last < num_rows - 1 else len(data) - 2
    rows = bytearray(data[: layout.data_at])
    shift = len(rows) - start
    rows += data[start:end]
    rows += _END
    for row in range(first, last):
        rows[markers[row] + 1 + shift] = 0xD0 | (row - first) & 7
    past = min(layout.height, (last + 1) * layout.blocks_high)
    _set_height(rows, layout, past - first * layout.blocks_high)
    return JpegRows(rows, first * layout.blocks_high)


def without_rows_below(data: bytes, layout: JpegLayout, bottom: int) -> bytearray:
    """Make a JPEG whose height ends below the row of pixels bottom-1 and what that depends on.

    The compressed data of the other rows still follow, which a strict decoder refuses.
    """
    rows = bytearray(data)
    _set_height(rows, layout, min(layout.height, bottom + 2))
    return rows


def _set_height(rows: bytearray, layout: JpegLayout, height: int) -> None:
    rows[layout.height_at : layout.height_at + 2] = height.to_bytes(2)
