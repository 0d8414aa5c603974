"""How often something happens: every so many seconds, steps or epochs."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator

from widestep.errors import UsageError

_FORM = re.compile(r"([1-9]\d{0,8})(s|st|ep)")


@dataclass(frozen=True)
class Cadence:
    """A positive number of seconds of wall time (`60s`), steps (`200st`) or epochs (`1ep`).

    Examples
    --------
    >>> Cadence.parse("200st").due(step=400, epochs=9.52, seconds_since=3.0)
    True
    """

    amount: int
    unit: Literal["s", "st", "ep"]

    @classmethod
    def parse(cls, value: Any) -> "Cadence":
        """Read a cadence; raises UsageError when it is none."""
        if isinstance(value, Cadence):
            return value
        match = _FORM.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise UsageError(f"A cadence is a number of seconds, steps or epochs: 60s, 200st or 1ep. Got {value!r}.")
        return cls(int(match[1]), match[2])  # type: ignore[arg-type]

    def due(self, step: int, epochs: float, seconds_since: float) -> bool:
        """Say whether it is time after `step` steps, `seconds_since` seconds after the last time.

        Parameters
        ----------
        epochs
            How many epochs these steps are, a whole number exactly where an epoch ends (`RunPlan.epochs_after`).
        """
        if self.unit == "s":
            return seconds_since >= self.amount
        return (step if self.unit == "st" else epochs) % self.amount == 0

    def __str__(self) -> str:
        return f"{self.amount}{self.unit}"


def _read(value: Any) -> Cadence:
    try:
        return Cadence.parse(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


CadenceField = Annotated[Cadence, PlainValidator(_read), PlainSerializer(str)]
