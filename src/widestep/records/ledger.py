"""A run's ledger: what the optimizer really applied at the recorded steps, and whether two runs applied the same.

Two runs applied the same at a step when their parameters were grouped under the same rates, decay and momentum, the summed
gradient was multiplied by the same number, and the same images took part, as many in a batch-norm group. What a group is
called, and in how many groups equal values stand, makes no difference; nor does what led to the values, such as the limit of
clipping or AdaScale's gain, which are in the multiple of the gradient and in the rate.
"""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from widestep.errors import StoreError
from widestep.lines import read_json_lines

WHOLE = ("images", "batchnorm_images", "gradient_scale", "image_ids")
"""What a record says of the whole step. Of a parameter group everything counts but its name and its numbers of things."""

_FIRST = ("images", "batchnorm_images")
_MOST_DIGITS = 8
_Values = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Applied:
    """What one step applied.

    Parameters
    ----------
    groups
        For each set of values that parameters were stepped with: the values by name, and the number of tensors.
    whole
        What holds for the whole step, by name.
    """

    groups: tuple[tuple[_Values, float], ...]
    whole: _Values

    @cached_property
    def mark(self) -> int:
        """64 bits that differ when anything that was applied differs."""
        return int.from_bytes(hashlib.blake2b(repr((self.groups, self.whole)).encode(), digest_size=8).digest(), "little")

    def against(self, other: "Applied") -> str | None:
        """Say what differs, for example `lr 3.0 against 0.0125`; None when nothing does."""
        differing = [
            f"{name} {_against(one, another, name)}"
            for (name, one), (_, another) in zip(self.whole, other.whole, strict=True)
            if one != another
        ]
        if differing and differing[0].startswith(_FIRST):
            return differing[0]
        names = {name for values, _ in (*self.groups, *other.groups) for name, _ in values}
        for name in sorted(names, key=lambda name: (" " in name, name)):  # what was set before what came of it
            one, another = self._by_value(name), other._by_value(name)
            if one != another:
                return f"{name} {_shares(one, another)}"
        if self.groups != other.groups:
            return "the values of the parameter groups in another combination"
        return differing[0] if differing else None

    def _by_value(self, name: str) -> dict[Any, float]:
        """Return how many tensors each value of a quantity holds for, the most common value first."""
        counts: defaultdict[Any, float] = defaultdict(float)
        for values, num_tensors in self.groups:
            counts[dict(values).get(name)] += num_tensors
        return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _against(one: Any, other: Any, name: str = "") -> str:
    """Return two different values, with as many digits as tell them apart."""
    exactly = isinstance(one, float) and isinstance(other, float) and f"{one:.6g}" == f"{other:.6g}"
    return f"{_words(one, name, exactly)} against {_words(other, name, exactly)}"


def _words(value: Any, name: str, exactly: bool) -> str:
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    if name.endswith("images"):
        return f"{value:,.0f}"
    text = repr(value)
    return text if exactly or len(text) <= _MOST_DIGITS else f"{value:.6g}"


def _shares(one: Mapping[Any, float], other: Mapping[Any, float]) -> str:
    """Return the value that all tensors have on either side if it differs, else each value with its number of tensors."""
    if len(one) == len(other) == 1 and one.keys() != other.keys():
        return _against(*one, *other)
    sides = ([f"{_words(value, '', True)} for {int(number)}" for value, number in side.items()] for side in (one, other))
    return f"{' against '.join(' and '.join(words) for words in sides)} tensors"


@dataclass(frozen=True)
class Shared:
    """How two ledgers compare over the steps that both recorded."""

    num_steps: int
    same: bool


class Ledger:
    """A run's ledger in brief: 64 bits a recorded step. Comparing two reads nothing again.

    Parameters
    ----------
    marks
        Step, counted from 0 and rising -> `Applied.mark`.
    """

    def __init__(self, marks: Mapping[int, int]) -> None:
        self._steps, self._marks = array("q", marks.keys()), array("Q", marks.values())
        self._where = _digest(self._steps)
        self._restricted: dict[str, tuple[int, str]] = {}

    @property
    def num_steps(self) -> int:
        """Recorded steps."""
        return len(self._steps)

    @property
    def last_step(self) -> int | None:
        """The last recorded step, or None of an empty ledger."""
        return self._steps[-1] if self._steps else None

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that two ledgers share exactly when they recorded the same steps and applied the same."""
        return _digest(self._steps, self._marks)

    def compare(self, other: "Ledger") -> Shared:
        """Say whether two runs applied the same at every step that both recorded."""
        if self._where == other._where:
            return Shared(self.num_steps, self.digest == other.digest)
        (num_steps, mine), (_, theirs) = self._at(other), other._at(self)
        return Shared(num_steps, mine == theirs)

    def _at(self, other: "Ledger") -> tuple[int, str]:
        """Return number and digest of the steps that another ledger recorded too, worked out once for all such ledgers."""
        if other._where not in self._restricted:
            known = set(other._steps)
            kept = [(step, mark) for step, mark in zip(self._steps, self._marks, strict=True) if step in known]
            digest = _digest(array("q", [step for step, _ in kept]), array("Q", [mark for _, mark in kept]))
            self._restricted[other._where] = (len(kept), digest)
        return self._restricted[other._where]


def _digest(*arrays: "array[int]") -> str:
    found = hashlib.sha256()
    for numbers in arrays:
        found.update(numbers.tobytes())
    return found.hexdigest()[:16]


def read_ledger(path: Path) -> Ledger:
    """Read `ledger.jsonl`; a missing file is an empty ledger, and a last line without its end is left out.

    Raises
    ------
    StoreError
        When a line is no record of a step, or the steps do not rise.
    """
    return Ledger({step: applied.mark for step, applied in _records(path)})


@dataclass(frozen=True)
class Difference:
    """Where two ledgers first differ."""

    step: int
    what: str

    def __str__(self) -> str:
        return f"step {self.step:,}: {self.what}"


def first_difference(one: Path, other: Path) -> Difference | None:
    """Return the first step that both ledgers recorded and at which they differ; None when there is none.

    Raises
    ------
    StoreError
        As `read_ledger`, up to that step.
    """
    first, second = _records(one), _records(other)
    a, b = next(first, None), next(second, None)
    while a is not None and b is not None:
        if a[0] == b[0]:
            what = a[1].against(b[1])
            if what is not None:
                return Difference(a[0], what)
            a, b = next(first, None), next(second, None)
        elif a[0] < b[0]:
            a = next(first, None)
        else:
            b = next(second, None)
    return None


def _records(path: Path) -> Iterator[tuple[int, Applied]]:
    last = -1
    for record in read_json_lines(path):
        try:
            step, applied = record["step"], _applied(record)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StoreError(f"{path} holds what each recorded step applied. A record is damaged: {error!r}.") from None
        if type(step) is not int or step <= last:
            raise StoreError(f"The steps of a ledger rise. In {path}, {step!r} follows {last}; it is damaged.")
        last = step
        yield step, applied


def _applied(record: Mapping[str, Any]) -> Applied:
    groups: defaultdict[_Values, float] = defaultdict(float)
    for group in record["groups"]:
        values = {name: value for name, value in group.items() if name != "name" and not name.startswith("num_")}
        groups[tuple(sorted(_flat(values)))] += group["num_tensors"]
    held = [item for item in groups.items() if item[1]]
    return Applied(
        tuple(sorted(held, key=repr)),
        tuple((name, _plain(record.get(name))) for name in WHOLE),
    )


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values by name; those of a table, as of the trust ratios, under names of two words."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name} {inner}", _plain(one)) for inner, one in value.items())
        else:
            yield name, _plain(value)


def _plain(value: Any) -> Any:
    """Return a value such that equal ones have equal text, whether a number was written 0 or 0.0."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) + 0.0  # no negative zero
    return tuple(_plain(item) for item in value) if isinstance(value, list) else value
