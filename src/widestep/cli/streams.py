"""Standard output and error as the program writes to them: closed, full, read by nobody, or unable to show a letter."""

import io
import os
import sys

from widestep.errors import EnvironmentFault
from widestep.plan.plain import plain


class Stream(io.TextIOWrapper):
    """A standard stream that shows what its encoding lacks as an escape, and falls silent once its reader has gone.

    Parameters
    ----------
    stream
        The stream to write to; it stays open.
    must_arrive
        Whether what is written is a result: where it cannot be written, as to a full disk, an error says so. What is merely
        said is lost then.
    """

    def __init__(self, stream: io.TextIOWrapper, *, must_arrive: bool) -> None:
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self._stream = stream  # would close the buffer when nobody held it
        self._must_arrive = must_arrive

    def write(self, text: str, /) -> int:
        """Write text; raises EnvironmentFault when it must arrive and cannot."""
        try:
            return super().write(plain(text, keep="\n\t") if self._must_arrive else text)
        except OSError as error:
            self._fall_silent(error)
            return len(text)

    def flush(self) -> None:
        """Hand over what was written; raises EnvironmentFault when it must arrive and cannot."""
        try:
            super().flush()
        except OSError as error:
            self._fall_silent(error)

    def _fall_silent(self, error: OSError) -> None:
        """Send everything else to nowhere: the interpreter flushes once more at its end."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if self._must_arrive and not isinstance(error, BrokenPipeError):
            raise EnvironmentFault(
                f"Results go to standard output. It cannot be written ({error.strerror}); free space, or send it elsewhere."
            ) from error


def settle_streams() -> None:
    """Make standard input, output and error usable.

    Where one is closed, no file that is opened later must take its number: what is printed would end up in that.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        found = getattr(sys, name) or os.fdopen(number, "w", encoding="utf-8", closefd=False)
        if isinstance(found, io.TextIOWrapper):
            setattr(sys, name, Stream(found, must_arrive=name == "stdout"))
