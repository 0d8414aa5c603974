"""Settings files: small TOML texts, with the line of every key, so that a fault is named by its place.

What a file may hold is bounded before it is parsed, because a parser's time and memory can grow faster than the text.
"""

import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from widestep.errors import UsageError

LARGEST_FILE = 100_000
"""Bytes of a settings file; the largest shipped one has 5,000."""

_MOST_DOTS = 1_000
_LARGEST = 2**63
_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_DOTTED = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER = re.compile(rf"\[\[?[ \t]*({_DOTTED})[ \t]*\]")
_ASSIGNED = re.compile(rf"({_DOTTED})[ \t]*=")
_PART = re.compile(_KEY)
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*|[\[{]|[\]}]|\n', re.DOTALL
)

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class SettingsFile:
    """The values of a TOML text, and where they stand.

    Parameters
    ----------
    what
        What is being read, for messages: "recipe mine.toml".
    """

    what: str
    text: str
    values: dict[str, Any]

    @classmethod
    def parse(cls, text: str, what: str) -> "SettingsFile":
        """Parse TOML.

        Raises
        ------
        UsageError
            Names the line of the fault.

        Examples
        --------
        >>> SettingsFile.parse("seed = 1", "recipe mine.toml").values
        {'seed': 1}
        """
        for number, line in enumerate(text.splitlines(), start=1):
            if line.count(".") > _MOST_DOTS:
                raise UsageError(f"The {what} must be a few settings in TOML. Line {number} has {line.count('.'):,} dots.")
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"The {what} must be TOML. {str(error).rstrip('.')}.") from None
        except RecursionError:
            raise UsageError(f"The {what} must be a few settings in TOML. Its values are nested too deeply.") from None
        except ValueError:
            raise UsageError(f"The {what} must be TOML. A number in it has thousands of digits.") from None
        _check_integers(values, what)
        return cls(what, text.replace("\r\n", "\n"), values)

    def holds(self, path: KeyPath) -> bool:
        """Say whether the file gives a key, in tables of either form."""
        value: Any = self.values
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True

    def line(self, path: KeyPath) -> int | None:
        """Return the line of a key, counted from 1, given with the tables that it is in; of the innermost known one.

        Examples
        --------
        >>> file = SettingsFile.parse("seed = 1\\n[about]\\nx = { y = 1 }\\n", "recipe")
        >>> file.line(("seed",)), file.line(("about", "x", "y")), file.line(("grid",))
        (1, 3, None)
        """
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None

    @cached_property
    def _lines(self) -> dict[KeyPath, int]:
        """Line of every table and of every key outside of a value."""
        found: dict[KeyPath, int] = {}
        table: KeyPath = ()
        counts: dict[KeyPath, int] = {}
        place = 0
        line = 1
        while place < len(self.text):
            header, assigned = _HEADER.match(self.text, place), _ASSIGNED.match(self.text, place)
            if header:
                table = _parts(header[1])
                if header[0].startswith("[["):
                    _remember(found, table, line)
                    counts[table] = counts.get(table, -1) + 1
                    table = (*table, counts[table])
                _remember(found, table, line)
            elif assigned:
                _remember(found, (*table, *_parts(assigned[1])), line)
            end = self._end_of_statement(place)
            line += self.text.count("\n", place, end)
            place = end
            while place < len(self.text) and self.text[place] in " \t":
                place += 1
        return found

    def _end_of_statement(self, place: int) -> int:
        """Return the place after the newline that ends what begins at `place`: strings and brackets may span lines."""
        depth = 0
        for token in _TOKEN.finditer(self.text, place):
            if token[0] == "\n" and depth <= 0:
                return token.end()
            depth += (token[0] in "[{") - (token[0] in "]}")
        return len(self.text)


def _remember(found: dict[KeyPath, int], path: KeyPath, line: int) -> None:
    """Note the line of a key, and of the tables around it where that is their first mention."""
    for length in range(len(path), 0, -1):
        if path[:length] in found:
            return
        found[path[:length]] = line


def _check_integers(values: dict[str, Any], what: str) -> None:
    """Refuse whole numbers that TOML does not promise: Python could not even write some of them down."""
    left: list[tuple[str, Any]] = list(values.items())
    while left:
        key, value = left.pop()
        if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            raise UsageError(f"A whole number has at most 19 digits. That of {key} in the {what} has more.")
        if isinstance(value, dict):
            left.extend(value.items())
        elif isinstance(value, list):
            left.extend((key, item) for item in value)


def _parts(dotted: str) -> tuple[str, ...]:
    """Return the parts of a dotted key without their quotes."""
    parts = _PART.findall(dotted)
    return tuple(next(iter(tomllib.loads(f"{part} = 0"))) if part[0] in "\"'" else part for part in parts)


def read_text(path: Path) -> str:
    """Read a small UTF-8 text file; raises UsageError when it is too large or not text."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"A settings file is readable UTF-8 text. {path}: {error}.") from None
    if len(content) > LARGEST_FILE:
        raise UsageError(f"A settings file is at most {LARGEST_FILE // 1000} kB of text. {path} is larger.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"A settings file is readable UTF-8 text. {path}, line {line}, has the byte "
            f"0x{content[error.start]:02x}; save it as UTF-8."
        ) from None


def is_file(name: str) -> bool:
    """Say whether a name is that of a file; unlike Path.is_file, also False for what cannot be a name."""
    try:
        return os.path.isfile(name)
    except ValueError:
        return False


def lines_said(lines: Sequence[int | None]) -> str:
    """Return `, line 3`, `, lines 3 and 7`, or nothing.

    Examples
    --------
    >>> lines_said([7, None, 3, 7])
    ', lines 3 and 7'
    """
    known = sorted({line for line in lines if line is not None})
    return f", line{'s' if known[1:] else ''} {' and '.join(map(str, known))}" if known else ""
