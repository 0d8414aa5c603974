"""A length of time as people write it: seconds, or a number with s, m, h or d."""

import re
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from widestep.errors import UsageError

_FORM = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(s|m|h|d)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds_of(value: Any) -> float:
    """Return the seconds of a length of time above 0.

    Raises
    ------
    UsageError
        When it is none.

    Examples
    --------
    >>> seconds_of("90s"), seconds_of("1.5h"), seconds_of(300)
    (90.0, 5400.0, 300.0)
    """
    match = None if isinstance(value, bool) else _FORM.fullmatch(str(value).strip())
    seconds = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
    if seconds <= 0.0:
        raise UsageError(f"A time is a number of seconds above 0, or one with its unit: 90s, 30m, 2h or 1d. Got {value!r}.")
    return seconds


def _read(value: Any) -> float:
    try:
        return seconds_of(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


TimeField = Annotated[float, PlainValidator(_read), PlainSerializer(lambda seconds: f"{seconds:g}s")]
