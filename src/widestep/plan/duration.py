"""Lengths of training in epochs, steps or images, converted once and exactly."""

import math
import re
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Literal

from widestep.errors import UsageError

Unit = Literal["ep", "st", "im"]
_FORM = re.compile(r"(\d{1,13}(?:\.\d{1,20})?)\s*(ep|st|im)?", re.ASCII)
_LONGEST = 10**12
_EXACTLY = Context(prec=40)  # more digits than the form allows


@dataclass(frozen=True)
class Duration:
    """A length of training: `5ep` epochs (a bare number means epochs, fractions allowed), `600st` steps, `30720im` images.

    Examples
    --------
    >>> Duration.parse("2.5ep").steps(steps_per_epoch=4, global_batch=8)
    10
    >>> str(Duration.parse(5)), Duration.parse("600st").steps(4, 8)
    ('5ep', 600)
    """

    amount: Fraction
    unit: Unit = "ep"

    @classmethod
    def parse(cls, value: "str | int | float | Duration") -> "Duration":
        """Read a duration.

        Raises
        ------
        UsageError
            When the text is not a number with an optional unit, is negative, or counts parts of a step or image.
        """
        if isinstance(value, Duration):
            return value
        match = _FORM.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
        amount = Fraction(match[1]) if match else Fraction(0)
        unit: Unit = (match[2] or "ep") if match else "ep"  # type: ignore[assignment]
        if match is None or amount > _LONGEST or (unit != "ep" and amount.denominator != 1):
            raise UsageError(
                f"A duration is a number of epochs, steps or images, for example 5, 2.5ep, 600st or 30720im. Got {value!r}."
            )
        return cls(amount, unit)

    def exact_steps(self, steps_per_epoch: int, global_batch: int) -> Fraction:
        """Return the length in steps, perhaps not whole; a step counts as `global_batch` images, whatever the tail."""
        if self.unit == "st":
            return self.amount
        return self.amount / global_batch if self.unit == "im" else self.amount * steps_per_epoch

    def steps(self, steps_per_epoch: int, global_batch: int) -> int:
        """Return the length in whole steps: the first step count that covers it (rounded up)."""
        return math.ceil(self.exact_steps(steps_per_epoch, global_batch))

    def epochs(self, steps_per_epoch: int, global_batch: int) -> float:
        """Return the length in epochs."""
        if self.unit == "ep":
            return float(self.amount)
        return self.steps(steps_per_epoch, global_batch) / steps_per_epoch

    def __str__(self) -> str:
        amount = _EXACTLY.divide(Decimal(self.amount.numerator), Decimal(self.amount.denominator))
        return f"{amount:f}{self.unit}"
