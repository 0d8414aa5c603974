"""How often something happens: every so many seconds, steps or epochs, or as often as it may cost."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator

from widestep.errors import UsageError

MOST_SHARE = 0.01
"""Of the time of training that saving may take."""
MOST_SECONDS = 600.0
"""Of training that may be lost, however much saving takes."""
FIRST_SECONDS = 2.0
"""Until the first save, which shows what one costs."""
LEAST_SECONDS = 1.0
"""Between two saves, however little they cost."""

_FORM = re.compile(r"([1-9]\d{0,8})(s|st|ep)")


@dataclass(frozen=True)
class Cadence:
    """A positive number of seconds of wall time (`60s`), steps (`200st`) or epochs (`1ep`); or `auto`, which is `Pace`.

    Examples
    --------
    >>> Cadence.parse("200st").due(step=400, epochs=9.52, seconds_since=3.0)
    True
    """

    amount: int
    unit: Literal["s", "st", "ep", "auto"]

    @classmethod
    def parse(cls, value: Any) -> "Cadence":
        """Read a cadence; raises UsageError when it is none."""
        if isinstance(value, Cadence):
            return value
        if isinstance(value, str) and value.strip() == "auto":
            return cls(0, "auto")
        match = _FORM.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise UsageError(
                f"A cadence is a number of seconds, steps or epochs: 60s, 200st or 1ep; or auto. Got {value!r}."
            )
        return cls(int(match[1]), match[2])  # type: ignore[arg-type]

    def due(self, step: int, epochs: float, seconds_since: float) -> bool:
        """Say whether it is time after `step` steps, `seconds_since` seconds after the last time.

        Parameters
        ----------
        epochs
            How many epochs these steps are, a whole number exactly where an epoch ends (`RunPlan.epochs_after`).
        """
        assert self.unit != "auto"  # what saving costs is known to `Pace`
        if self.unit == "s":
            return seconds_since >= self.amount
        return (step if self.unit == "st" else epochs) % self.amount == 0

    def __str__(self) -> str:
        return "auto" if self.unit == "auto" else f"{self.amount}{self.unit}"


class Pace:
    """When to save so that it takes no more than 1 % of the time, and no more than 10 minutes are ever lost.

    The first save comes after 2 s. From then on one is due once all so far, and another one that costs as much as the
    dearest of the last few, are at most 1 % of the time since training began: with a cost of c seconds, about every 100 c
    seconds. Where one costs more than 6 s, the 10 minutes count.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self._costs: list[float] = []
        self._ended = 0.0

    def due(self, seconds: float) -> bool:
        """Say whether it is time to save, `seconds` after training began."""
        if not self._costs:
            return seconds >= FIRST_SECONDS
        quiet = seconds - self._ended
        paid = self.spent + max(self._costs) <= MOST_SHARE * seconds
        return quiet >= MOST_SECONDS or (paid and quiet >= LEAST_SECONDS)

    def count(self, seconds: float, cost: float) -> None:
        """Remember that a save ended `seconds` after training began, and the seconds that it took away from training."""
        self.spent += cost
        self._costs = [*self._costs[-4:], cost]
        self._ended = seconds


def _read(value: Any) -> Cadence:
    try:
        return Cadence.parse(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


CadenceField = Annotated[Cadence, PlainValidator(_read), PlainSerializer(str)]
