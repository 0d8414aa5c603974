"""Median and quartiles, in which everything is reported."""

import statistics
from collections.abc import Sequence

Spread = dict[str, float]
Row = dict[str, object]


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles, which for a single value are the value."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return {"median": middle, "low": low, "high": high}
