"""Text of known size: measured, wrapped and placed in inches from the upper left corner, before anything is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

_LEADING = 1.3
_FAMILY = "DejaVu Sans"


@dataclass(frozen=True)
class Line:
    """A line of text: its upper left corner in inches, size in points, weight and colour."""

    x: float
    y: float
    text: str
    size: float
    bold: bool
    colour: str


@dataclass(frozen=True)
class Bar:
    """A filled rectangle, with rounded corners where `radius` is above 0; in inches."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    radius: float = 0.0
    edge: str = ""


@dataclass
class Pen:
    """Collects what is to be drawn while it moves down a column; `y` is where it stands."""

    x: float
    y: float
    width: float
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)

    def write(self, text: str, size: float, colour: str, *, bold: bool = False, bullet: str = "") -> None:
        """Write a paragraph, wrapped, and move below it; a bullet stands before its first line."""
        indent = 0.95 * size / 72 if bullet else 0.0
        if bullet:
            self.lines.append(Line(self.x, self.y, bullet, size, bold, colour))
        for words in wrapped(text, size, self.width - indent, bold=bold):
            self.lines.append(Line(self.x + indent, self.y, words, size, bold, colour))
            self.y += line_height(size)

    def fill(self, height: float, colour: str) -> None:
        """Draw a rule as wide as the column and move below it."""
        self.bars.append(Bar(self.x, self.y, self.width, height, colour))
        self.y += height

    def skip(self, points: float) -> None:
        """Move down."""
        self.y += points / 72


def line_height(size: float) -> float:
    """Return the height of a line in inches."""
    return _LEADING * size / 72


@lru_cache(maxsize=1)
def _renderer() -> RendererAgg:
    return RendererAgg(1, 1, 72)


@lru_cache(maxsize=65536)
def _width_at_100(text: str, bold: bool) -> float:
    font = FontProperties(family=_FAMILY, size=100, weight="bold" if bold else "normal")
    return float(_renderer().get_text_width_height_descent(text, font, ismath=False)[0])


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of a text in inches."""
    return _width_at_100(text, bold) * size / 100 / 72


def wrapped(text: str, size: float, width: float, *, bold: bool = False) -> list[str]:
    """Return the lines of a text that is at most `width` inches wide; a word that is longer is broken."""
    lines: list[str] = []
    current = ""
    for word in text.split():
        candidate = f"{current} {word}".strip()
        if text_width(candidate, size, bold=bold) <= width:
            current = candidate
            continue
        if current:
            lines.append(current)
        *whole, current = _broken(word, size, width, bold=bold)
        lines += whole
    return [*lines, current] if current or not lines else lines


def _broken(word: str, size: float, width: float, *, bold: bool) -> list[str]:
    parts = [""]
    for letter in word:
        if parts[-1] and text_width(parts[-1] + letter, size, bold=bold) > width:
            parts.append("")
        parts[-1] += letter
    return parts


def fitting_size(text: str, sizes: Sequence[float], width: float, most_lines: int, *, bold: bool = False) -> float:
    """Return the first of falling sizes at which a text takes at most so many lines, else the last."""
    return next((size for size in sizes if len(wrapped(text, size, width, bold=bold)) <= most_lines), sizes[-1])


def shortened(text: str, size: float, width: float, most_lines: int = 1, after: str = "") -> list[str]:
    """Return the lines of a text with what comes after it; its middle gives way to an ellipsis until they are few enough."""
    room, whole = most_lines * width, text_width(text, size)
    kept = len(text) if whole <= room else int(len(text) * room / whole)
    lines = wrapped(_without_middle(text, kept) + after, size, width)
    while len(lines) > most_lines and kept > 1:
        kept -= 1 + kept // 20
        lines = wrapped(_without_middle(text, kept) + after, size, width)
    return shortened(text + after, size, width, most_lines) if len(lines) > most_lines and after else lines[:most_lines]


def _without_middle(text: str, kept: int) -> str:
    return text if kept >= len(text) else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def without_common_start(texts: Sequence[str]) -> list[str]:
    """Return texts with an ellipsis for the words that all of them begin with."""
    first, last = min(texts), max(texts)  # what these two begin with, all texts between them begin with
    same = next((index for index, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    start = first.rfind(" ", 0, same) + 1
    return [f"…{text[start:]}" if start else text for text in texts]
