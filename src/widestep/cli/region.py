"""The last rows of a terminal, kept for a table that is drawn again and again; everything else scrolls above them.

The terminal itself is told to scroll only the rows above (DECSTBM), so whoever else writes - another process, a library in
C, the launcher - does so above the table, and nothing has to be caught. Every frame goes out in one call, cursor and colours
put back, so frames and lines of other writers do not mix.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TextIO

from rich.console import Console, RenderableType

CLOSING = "\x1b7\x1b[r\x1b8\x1b[J"
"""Scroll all rows again and clear what is below the cursor; changes nothing where no region is open."""
_LEAST_COLUMNS, _LEAST_ROWS = 20, 8


def is_live(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which a region can be drawn."""
    try:
        size = os.get_terminal_size(stream.fileno()) if stream.isatty() else None
    except (OSError, ValueError):
        return False
    able = os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    return able and size is not None and size.columns >= _LEAST_COLUMNS and size.lines >= _LEAST_ROWS


def tidy(stream: TextIO) -> None:
    """Take down a region that a process on this terminal may have left, as one that was killed does."""
    if is_live(stream):
        _send(stream, CLOSING)


class Region:
    """A table at the bottom of a terminal.

    Ctrl-Z takes it down before this process stops; after `fg`, and whenever the terminal's size has changed, it is set up
    anew where the cursor is then.

    Parameters
    ----------
    stream
        A terminal, as `is_live` says.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._size: os.terminal_size | None = None
        self._height = 0
        self._drawing = threading.RLock()
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGCONT)}
        signal.signal(signal.SIGTSTP, self._suspend)
        signal.signal(signal.SIGCONT, self._resume)

    def draw(self, table: RenderableType) -> None:
        """Draw the table, at most as high as leaves two rows in three for what scrolls."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except OSError:
            return
        console = Console(file=self._stream, width=max(1, size.columns - 1), height=size.lines)
        with console.capture() as drawn:
            console.print(table, no_wrap=True, overflow="ellipsis", crop=True, end="")
        lines = drawn.get().rstrip("\n").split("\n")
        del lines[max(1, size.lines * 2 // 3) :]
        with self._drawing:
            same = (size, len(lines)) == (self._size, self._height)
            _send(self._stream, ("" if same else self._set_up(size, len(lines))) + self._frame(size, lines))

    def close(self) -> None:
        """Take the table down and leave the cursor below what has scrolled."""
        with self._drawing:
            if self._size is not None:
                _send(self._stream, CLOSING)
                self._size = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _set_up(self, size: os.terminal_size, height: int) -> str:
        """Clear the rows below the cursor, make room there by scrolling, and keep what scrolls above."""
        self._size, self._height = size, height
        down = "\x1bD" * height  # as a line feed, but in the same column
        return f"{CLOSING}{down}\x1b[{height}A\x1b7\x1b[1;{size.lines - height}r\x1b8"

    def _frame(self, size: os.terminal_size, lines: Sequence[str]) -> str:
        first = size.lines - self._height + 1
        rows = "".join(f"\x1b[{first + row};1H\x1b[0m{line}\x1b[0m\x1b[K" for row, line in enumerate(lines))
        return f"\x1b7{rows}\x1b8"

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        with self._drawing:  # no other thread is in the midst of a frame, nor draws one before this process has stopped
            _send(self._stream, CLOSING)
            self._size = None
            os.kill(os.getpid(), signal.SIGSTOP)

    def _resume(self, _number: int, _frame: FrameType | None) -> None:
        self._size = None


def _send(stream: TextIO, text: str) -> None:
    """Write past the stream's buffer, in one call as far as the system takes it; nobody may look any more."""
    with contextlib.suppress(OSError):
        stream.flush()
        data = text.encode(stream.encoding or "utf-8", errors="replace")
        while data:
            data = data[os.write(stream.fileno(), data) :]
