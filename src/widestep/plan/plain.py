"""Text that others may have written, made fit for a terminal, a page or a spreadsheet."""

import csv
import io
from collections.abc import Sequence
from typing import Any

_FORMULAS = ("=", "+", "-", "@")


def plain(text: str, keep: str = "") -> str:
    """Return text without control characters, which could command a terminal, but for those to keep.

    Examples
    --------
    >>> plain("a\\x1b[31mb\\n"), plain("a\\n", keep="\\n")
    ('a [31mb ', 'a\\n')
    """
    return "".join(character if character.isprintable() or character in keep else " " for character in text)


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as CSV; text that a spreadsheet would run as a formula gets a leading apostrophe, numbers stay numbers.

    Examples
    --------
    >>> csv_text(["setting", "accuracy"], [["=1+1", -0.5]])
    "setting,accuracy\\n'=1+1,-0.5\\n"
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        text = plain(value, keep="\n\t")
        return f"'{text}" if value.startswith(("\t", "\r")) or text.lstrip().startswith(_FORMULAS) else text
    return "" if value is None else value
