"""Cells and tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; a row may be shorter than the head."""
    padded = ([*row, *[""] * (len(head) - len(row))] for row in rows)
    lines = [head, ["---"] * len(head), *padded]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def ratio(found: Mapping[str, float], digits: int = 2) -> str:
    """Return median and quartiles."""
    return f"{found['median']:.{digits}f} ({found['low']:.{digits}f}-{found['high']:.{digits}f})"


def milliseconds(value: float) -> str:
    """Return seconds, below one in milliseconds."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def sides(case: Mapping[str, Any]) -> str:
    """Return the shape of an image."""
    return "x".join(map(str, case["image"]))
