"""Field types of recipes, executions and studies, and one way to turn input from any source into a checked object.

Values come from TOML (typed) or the command line (text). Problems are reported in one sentence each, with the key, what
was given and, for an unknown key, the nearest known one.
"""

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator, ValidationError

from widestep.errors import UsageError
from widestep.plan.duration import Duration
from widestep.plan.grid import RampPoint, WorkerGrid


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
        return [part for part in value.split(",") if part.strip()]
    return value if isinstance(value, (list, tuple)) else [value]


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
        factors = tuple(map(float, items))
    except (TypeError, ValueError, OverflowError):
        factors = ()
    if not factors or not all(0 < factor <= 1 for factor in factors) or any(isinstance(item, bool) for item in items):
        raise UsageError(f"A factor of the decay is a number above 0 and at most 1, or a list of them. Got {value!r}.")
    return factors


def _batchnorm(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"local|sync|group:[1-9]\d{0,6}", value):
        return value
    raise UsageError(f"Batch normalisation is local, sync or group:K, for example group:4. Got {value!r}.")


def _warmup_start(value: Any) -> str | float:
    if value in ("base", "zero"):
        return str(value)
    try:
        if not isinstance(value, bool) and 0 <= float(value) < float("inf"):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UsageError(f"A warmup starts at 'base', 'zero' or a rate of at least 0. Got {value!r}.")


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


def perhaps(name: str, known: Iterable[str]) -> str:
    """Return ` Perhaps you meant 'x'.` for the nearest known name, or nothing.

    Examples
    --------
    >>> perhaps("momentun", ["momentum", "warmup"])
    " Perhaps you meant 'momentum'."
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Perhaps you meant '{near[0]}'." if near else ""


def build(model: type[Model], values: Mapping[str, Any], *, what: str, typed: bool) -> Model:
    """Check `values` and build `model` from them.

    Parameters
    ----------
    what
        What is being read, for the message: "recipe poster.toml".
    typed
        True for TOML: a number must be a number. False for the command line, where everything is text. In both, the
        text "none" empties a field whose default is empty.

    Raises
    ------
    UsageError
        One sentence for every unknown key and every value that does not fit.
    """
    fields = model.model_fields
    unknown = [f"'{key}' is not a field of the {what}.{perhaps(key, fields)}" for key in values if key not in fields]
    if unknown:
        raise UsageError(" ".join(unknown))
    emptied = {key: None if value == "none" and fields[key].default is None else value for key, value in values.items()}
    try:
        return model.model_validate(emptied, strict=typed)
    except ValidationError as error:
        raise UsageError(" ".join(_sentence(problem, what) for problem in error.errors(include_url=False))) from None


def replaced(model: Model, changes: Mapping[str, Any], *, what: str, typed: bool) -> Model:
    """Return a copy of `model` with some fields changed, everything checked again."""
    values = {name: getattr(model, name) for name in type(model).model_fields}
    return build(type(model), {**values, **changes}, what=what, typed=typed)


def _sentence(problem: Any, what: str) -> str:
    cause = problem.get("ctx", {}).get("error")
    where = ".".join(str(part) for part in problem["loc"])
    place = f"{where} (in the {what}): " if where else ""
    if isinstance(cause, Exception):
        return f"{place}{cause}"
    message = problem["msg"].rstrip(".")
    given = "" if problem["type"] == "missing" else f" Got {problem['input']!r}."
    return f"{place}{message[:1].upper()}{message[1:]}.{given}"
