"""How progress looks on a terminal of any width: a bar, and named values side by side where there is room."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_COLUMNS_A_FIELD = 26


class Field(NamedTuple):
    """A value by its name; `short` is how a plain line says it, nothing where it leaves it out."""

    name: str
    value: str
    short: str = ""


def plain_line(fields: Sequence[Field]) -> str:
    """Return the fields on one line.

    Examples
    --------
    >>> plain_line([Field("epoch", "1.5/3", "ep 1.5/3"), Field("best", "90 %")])
    'ep 1.5/3'
    """
    return " ".join(field.short for field in fields if field.short)


def clock_time(seconds: float | None) -> str:
    """Return a time as hours, minutes and seconds.

    Examples
    --------
    >>> clock_time(3661.9), clock_time(None)
    ('1:01:01', 'unknown')
    """
    if seconds is None:
        return "unknown"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class ProgressTable:
    """A bar and named values, in as many columns as fit.

    Parameters
    ----------
    share
        What is done, in [0, 1].
    below
        Lines or tables under the values.
    """

    def __init__(self, share: float, fields: Sequence[Field], below: Sequence[RenderableType] = ()) -> None:
        self._share = share
        self._fields = fields
        self._below = below

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay it out for the width that there is."""
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(ProgressBar(total=1.0, completed=self._share), f"{100 * self._share:.0f} %")
        yield bar
        num_columns = max(1, options.max_width // _COLUMNS_A_FIELD)
        values = Table.grid(padding=(0, 1), expand=True)
        for _ in range(num_columns):
            values.add_column(style="dim", no_wrap=True)
            values.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for first in range(0, len(self._fields), num_columns):
            row = self._fields[first : first + num_columns]
            values.add_row(*[Text(word) for field in row for word in (field.name, field.value)])
        yield values
        yield from self._below
