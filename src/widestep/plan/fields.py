"""Field types of recipes, executions and studies, and one way to turn input from any source into a checked object.

Values come from TOML (typed) or the command line (text). Problems are reported in one sentence each, with the key, what
was given and, for an unknown key, the nearest known one.
"""

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator, ValidationError

from widestep.errors import UsageError
from widestep.plan.duration import Duration
from widestep.plan.grid import RampPoint, WorkerGrid
from widestep.plan.settings_file import KeyPath, lines_said

MOST = 10**12
"""Largest count that a field takes, of images, steps or anything else."""

_MOST_ITEMS = 1_000
_MOST_SAID = 5
_LONGEST_SAID = 80
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


class Fields(BaseModel):
    """A frozen set of named values; the text under each field is its help, its reference and its glossary entry."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _reading(parse: Callable[[Any], Any]) -> PlainValidator:
    """Make a validator of a parser, so that its sentence is reported together with the field's name."""

    def read(value: Any) -> Any:
        try:
            return parse(value)
        except UsageError as error:
            raise ValueError(str(error)) from None

    return PlainValidator(read)


def _grid(value: Any) -> WorkerGrid:
    return value if isinstance(value, WorkerGrid) else WorkerGrid.parse(value)


def _listed(value: Any) -> Iterable[Any]:
    """Return a list as it is, the parts of a text with commas, or a single value as a list of one."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    items = value if isinstance(value, (list, tuple)) else [value]
    if len(items) > _MOST_ITEMS:
        raise UsageError(f"A list has at most {_MOST_ITEMS:,} values. Got {len(items):,}.")
    return items


def _number(value: Any) -> float:
    """Return a number as it is or read from text as TOML writes it; raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        raise ValueError
    return float(value)


def _durations(value: Any) -> tuple[Duration, ...]:
    return tuple(Duration.parse(item) for item in _listed(value))


def _ramp(value: Any) -> tuple[RampPoint, ...]:
    points = tuple(RampPoint.parse(item) for item in _listed(value))
    if any(b.epoch <= a.epoch for a, b in itertools.pairwise(points)):
        raise UsageError(f"A ramp names its epochs in rising order. Got {', '.join(map(str, points))}.")
    return points


def _factors(value: Any) -> tuple[float, ...]:
    items = _listed(value)
    try:
        factors = tuple(map(_number, items))
    except (ValueError, OverflowError):
        factors = ()
    if not factors or not all(0 < factor <= 1 for factor in factors):
        raise UsageError(f"A factor of the decay is a number above 0 and at most 1, or a list of them. Got {shown(value)}.")
    return factors


def _batchnorm(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"local|sync|group:[1-9][0-9]{0,6}", value):
        return value
    raise UsageError(f"Batch normalisation is local, sync or group:K, for example group:4. Got {shown(value)}.")


def _warmup_start(value: Any) -> str | float:
    if value in ("base", "zero"):
        return str(value)
    try:
        if 0 <= (number := _number(value)) < float("inf"):
            return number
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"A warmup starts at 'base', 'zero' or a rate of at least 0. Got {shown(value)}.")


GridField = Annotated[WorkerGrid, _reading(_grid), PlainSerializer(str)]
DurationField = Annotated[Duration, _reading(Duration.parse), PlainSerializer(str)]
DurationsField = Annotated[
    tuple[Duration, ...], _reading(_durations), PlainSerializer(lambda value: [str(item) for item in value])
]
RampField = Annotated[tuple[RampPoint, ...], _reading(_ramp), PlainSerializer(lambda value: [str(point) for point in value])]
FactorsField = Annotated[
    tuple[float, ...], _reading(_factors), PlainSerializer(lambda value: value[0] if len(value) == 1 else list(value))
]
BatchNormField = Annotated[str, _reading(_batchnorm)]
WarmupStart = Annotated[str | float, _reading(_warmup_start)]

Model = TypeVar("Model", bound=BaseModel)
LineOf = Callable[[KeyPath], int | None]
"""The line of a file that a key stands in, or None."""


@dataclass(frozen=True)
class Problem:
    """One thing that does not fit.

    Parameters
    ----------
    paths
        The keys concerned, each with the tables that it is in.
    is_unknown
        Whether there is no such key; then `sentence` says what else could be meant.
    """

    paths: tuple[KeyPath, ...]
    sentence: str
    is_unknown: bool = False

    def said(self, what: str, line: LineOf) -> str:
        """Say it with the names and lines of the keys."""
        lines = lines_said([line(path) for path in self.paths])
        if self.is_unknown:
            return f"{shown('.'.join(map(str, self.paths[0])))} is not a field of the {what}{lines}.{self.sentence}"
        names = " and ".join(".".join(map(str, path)) for path in self.paths)
        return f"{names} (in the {what}{lines}): {self.sentence}"


class Misfit(UsageError):
    """What does not fit in a recipe, an execution or a study: a sentence for each thing, with its line where it has one."""

    def __init__(
        self,
        problems: Sequence[Problem],
        what: str,
        line: LineOf = lambda path: None,
        *,
        before: str = "",
        num_more: int = 0,
    ) -> None:
        self.problems = tuple(problems)
        said = [problem.said(what, line) for problem in self.problems]
        if num_more:
            said.append(f"And {num_more:,} more.")
        super().__init__(before + " ".join(said))


class Conflict(UsageError):
    """Fields that contradict one another; `build` adds where they stand."""

    def __init__(self, names: Sequence[str | KeyPath], sentence: str) -> None:
        paths = tuple((name,) if isinstance(name, str) else name for name in names)
        self.problem = Problem(paths, sentence)
        super().__init__(f"{' and '.join('.'.join(map(str, path)) for path in paths)}: {sentence}")


def shown(value: Any) -> str:
    """Return a value as a message quotes it: written out, but not for long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "something that is too long to be shown"
    return text if len(text) <= _LONGEST_SAID else f"{text[:_LONGEST_SAID]}..."


def perhaps(name: str, known: Iterable[str]) -> str:
    """Return ` Perhaps you meant 'x'.` for the nearest known name, or nothing.

    Examples
    --------
    >>> perhaps("momentun", ["momentum", "warmup"])
    " Perhaps you meant 'momentum'."
    """
    near = difflib.get_close_matches(name[:_LONGEST_SAID], list(known), n=1, cutoff=0.6)
    return f" Perhaps you meant '{near[0]}'." if near else ""


def build(
    model: type[Model],
    values: Mapping[str, Any],
    *,
    what: str,
    typed: bool,
    line: LineOf = lambda path: None,
    elsewhere: Mapping[str, str] | None = None,
) -> Model:
    """Check `values` and build `model` from them.

    Parameters
    ----------
    what
        What is being read, for the message: "recipe poster.toml".
    typed
        True for TOML: a number must be a number. False for the command line, where everything is text. In both, the
        text "none" empties a field whose default is empty.
    line
        The line of a key, where `values` come from a file.
    elsewhere
        Keys that are known in another place, with what to say then.

    Raises
    ------
    Misfit
        One sentence for every unknown key and every value that does not fit.
    """
    fields = model.model_fields
    found = {key: value for key, value in values.items() if key in fields}
    unknown = [key for key in values if key not in fields]
    if unknown:
        problems = [_unknown((key,), values, fields, elsewhere or {}) for key in unknown[:_MOST_SAID]]
        raise Misfit(problems, what, line, num_more=len(unknown) - len(problems))
    emptied = {key: None if value == "none" and fields[key].default is None else value for key, value in found.items()}
    try:
        return model.model_validate(emptied, strict=typed)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        problems = [_problem(one, model, values, elsewhere or {}) for one in wrong[:_MOST_SAID]]
        raise Misfit(problems, what, line, num_more=len(wrong) - len(problems)) from None
    except Conflict as error:
        raise Misfit([error.problem], what, line) from None


def replaced(
    model: Model, changes: Mapping[str, Any], *, what: str, typed: bool, elsewhere: Mapping[str, str] | None = None
) -> Model:
    """Return a copy of `model` with some fields changed, everything checked again."""
    values = {name: getattr(model, name) for name in type(model).model_fields}
    return build(type(model), {**values, **changes}, what=what, typed=typed, elsewhere=elsewhere)


def _unknown(path: KeyPath, values: Any, fields: Mapping[str, Any], elsewhere: Mapping[str, str]) -> Problem:
    """Say what an unknown key of `values` could mean: one that belongs elsewhere, or one nearly so called, not given yet."""
    for part in path[:-1]:
        values = values[part]
    key, value = str(path[-1]), values[path[-1]]
    if key in elsewhere:
        return Problem((path,), f" {elsewhere[key]}", is_unknown=True)
    inside = [name for name in value if name in fields] if isinstance(value, dict) else []
    if inside:
        said = f" What is in it is known outside of it: {', '.join(inside[:_MOST_SAID])}. Leave the table's heading out."
        return Problem((path,), said, is_unknown=True)
    hint = perhaps(key, [name for name in fields if name not in values]) or perhaps(key, fields)
    return Problem((path,), hint, is_unknown=True)


def _problem(problem: Any, model: type[BaseModel], values: Any, elsewhere: Mapping[str, str]) -> Problem:
    path: KeyPath = tuple(problem["loc"])
    if problem["type"] == "extra_forbidden":
        return _unknown(path, values, _fields_at(model, path[:-1]), elsewhere)
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, Exception):
        return Problem((path,), str(cause))
    message = problem["msg"].rstrip(".")
    given = "" if problem["type"] == "missing" else f" Got {shown(problem['input'])}."
    return Problem((path,), f"{message[:1].upper()}{message[1:]}.{given}")


def _fields_at(model: type[BaseModel], path: KeyPath) -> Mapping[str, Any]:
    """Return the fields of the table at a place within `model`: tables are fields, or stand in a list or table of them."""
    kind: Any = model
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        else:
            kind = get_args(kind)[-1]
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
