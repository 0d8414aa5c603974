"""What a search arm declares: the recipe fields it searches over, their ranges, how often it tries and what it gives up.

Each range becomes a `Dimension`, which knows how a drawn number is written as a setting of a recipe, and back.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.duration import Duration
from widestep.plan.fields import Conflict, Fields, perhaps, shown
from widestep.plan.recipe import Recipe
from widestep.plan.settings_file import KeyPath

if TYPE_CHECKING:
    from widestep.study.study import Cell, Study

Settings = dict[str, Any]
_LOG_FROM = 10.0
"""Ratio of the ends of a positive range from which it is searched by its logarithm."""
_MOST_CORNERS = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_DIGITS = 4
"""Significant digits of a searched number: enough to be searched, few enough to be read."""


class Search(Fields):
    """The best values of some recipe fields, sought for each combination of the arm's axes."""

    over: dict[str, list[Any]] = Field(min_length=1, max_length=8)
    """Recipe fields and where to look: two durations of one unit or two numbers are a range, both ends included, searched by
    its logarithm where the ratio of its positive ends is 10 or more; anything else is a list of choices."""
    num_trials: int = Field(ge=2, le=1000)
    """Settings that are tried at most, for each combination of the axes."""
    seeds: list[int] = Field(min_length=1)
    """Seeds that every setting is tried with; none of the study's own, so that what is found is tested on fresh ones."""
    at_a_time: int = Field(default=4, ge=1, le=1000)
    """Settings that are proposed together, for each combination, from the outcomes of all before: as many can run at the
    same time."""
    pruning: Literal["median", "none"] = "median"
    """Give a run up that is below the median of the complete runs of earlier proposals, at the same epoch, for the same
    combination and seed; from four such runs on. `none`: all run to their end."""
    prune_after: float = Field(default=0.5, ge=0, lt=1)
    """Share of the training before which nothing is given up: short warmups look good early."""

    @property
    def num_rounds(self) -> int:
        """How often settings are proposed."""
        return -(-self.num_trials // self.at_a_time)


@dataclass(frozen=True)
class Dimension:
    """One searched field: whole numbers from `low` to `high`, numbers, or the places of `choices`.

    Parameters
    ----------
    unit
        Of durations, which are whole numbers with it.
    is_log
        Whether it is searched by its logarithm.
    """

    name: str
    kind: Literal["whole", "number", "choice"]
    low: float = 0.0
    high: float = 0.0
    unit: str = ""
    is_log: bool = False
    choices: tuple[Any, ...] = ()

    def setting(self, drawn: float) -> Any:
        """Return a drawn number as a recipe's setting.

        Examples
        --------
        >>> Dimension("warmup", "whole", 0, 20, unit="ep").setting(7)
        '7ep'
        """
        if self.kind == "choice":
            return self.choices[int(drawn)]
        if self.kind == "whole":
            return f"{int(drawn)}{self.unit}" if self.unit else int(drawn)
        return min(max(float(f"{drawn:.{_DIGITS}g}"), self.low), self.high)

    def drawn(self, setting: Any) -> float:
        """Return the number that a setting was written from."""
        if self.kind == "choice":
            return self.choices.index(setting)
        return float(Duration.parse(setting).amount if self.unit else setting)

    def end(self, setting: Any) -> str:
        """Say at which end of its range a setting lies: lowest, highest, or nothing."""
        if self.kind == "choice":
            return ""
        return {self.low: "lowest", self.high: "highest"}.get(self.drawn(setting), "")

    @property
    def ends(self) -> Sequence[Any]:
        """The settings at the ends of the range, or all choices."""
        return self.choices if self.kind == "choice" else (self.setting(self.low), self.setting(self.high))


def dimension(name: str, values: Sequence[Any], base: Recipe) -> Dimension:
    """Return where to look for the best value of a recipe field.

    Raises
    ------
    UsageError
        When the field is unknown, a value does not fit, or there are no two different ones in order.
    """
    typed = [getattr(recipes.changed(base, {name: value}, typed=True), name) for value in values]
    if len(values) < 2 or any(one == other for one, other in itertools.combinations(typed, 2)):
        raise UsageError(f"A search is over two ends or different choices. {name} has {shown(list(values))}.")
    if len(values) > 2 or any(isinstance(one, bool) or not isinstance(one, (int, float, Duration)) for one in typed):
        return Dimension(name, "choice", choices=tuple(values))
    if isinstance(typed[0], Duration):
        low, high = (float(one.amount) for one in typed)
        if typed[0].unit != typed[1].unit or not (low.is_integer() and high.is_integer()):
            raise UsageError(
                f"A range of durations goes from one whole number to another in the same unit, for example 0ep and 20ep. "
                f"{name} has {shown(list(values))}."
            )
        found = Dimension(name, "whole", low, high, typed[0].unit, _is_log(low, high))
    else:
        kind: Literal["whole", "number"] = "whole" if all(isinstance(one, int) for one in typed) else "number"
        found = Dimension(name, kind, typed[0], typed[1], is_log=_is_log(typed[0], typed[1]))
    if found.low > found.high:
        raise UsageError(f"A range goes from its low end to its high end. {name} has {shown(list(values))}.")
    return found


def _is_log(low: float, high: float) -> bool:
    return low > 0 and high / low >= _LOG_FROM


def dimensions(search: Search, base: Recipe) -> list[Dimension]:
    """Return where a search looks; raises what `dimension` raises."""
    return [dimension(name, values, base) for name, values in search.over.items()]


def design_of(study: "Study", arm: str) -> str:
    """Return 16 hexadecimal digits that change with everything that proposals of a search arm follow from."""
    search = study.arms[arm].search
    assert search is not None
    found = {"search": search.model_dump(), "bases": [cell.fingerprint(0) for cell in study.bases(arm)]}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def check_search(study: "Study", arm: str, search: Search) -> None:
    """Refuse a search arm that contradicts itself or its study.

    Raises
    ------
    Conflict
        Names the keys and what to do.
    """
    place: KeyPath = ("arms", arm, "search")
    spec = study.arms[arm]
    if spec.from_search is not None:
        raise Conflict(
            (place, ("arms", arm, "from_search")), f"An arm searches or takes what was found. Arm {arm} does both."
        )
    if not _NAME.fullmatch(arm):
        raise Conflict(
            (("arms", arm),),
            f"An arm that searches has a directory: its name is letters, digits, hyphen and underscore. Got {shown(arm)}.",
        )
    twice = [name for name in search.over if name in spec.axes or name in spec.set or name == "seed"]
    if twice:
        raise Conflict(
            ((*place, "over", twice[0]),),
            f"A field is set, an axis or searched over, and seed is neither. Arm {arm} does not leave '{twice[0]}' open.",
        )
    if len(set(search.seeds)) != len(search.seeds) or not all(0 <= seed < 2**63 for seed in search.seeds):
        raise Conflict(((*place, "seeds"),), f"Seeds are different numbers of at least 0. Got {shown(search.seeds)}.")
    shared = [seed for seed in search.seeds if seed in study.seeds]
    if shared:
        raise Conflict(
            ((*place, "seeds"), ("seeds",)),
            f"What a search finds is tested on fresh seeds. Arm {arm} searches with seed {shared[0]}, which is one of the "
            "study's; choose another.",
        )


def check_from_search(study: "Study", arm: str, source: str) -> None:
    """Refuse an arm that takes what no arm has searched, or sets what was searched; raises Conflict."""
    spec, place = study.arms[arm], ("arms", arm, "from_search")
    searching = [name for name, one in study.arms.items() if one.search is not None]
    if source not in searching:
        raise Conflict(
            (place,), f"from_search names an arm that has a search. '{source}' has none.{perhaps(source, searching)}"
        )
    search = study.arms[source].search
    assert search is not None
    if spec.axes or spec.recipe is not None:
        raise Conflict((place,), f"An arm from a search has the recipe and axes of that arm. Leave those of arm {arm} out.")
    own = [name for name in spec.set if name in search.over or name in study.arms[source].axes]
    if own:
        raise Conflict((place, ("arms", arm, "set", own[0])), f"'{own[0]}' of arm {arm} is what arm {source} decides.")


def check_corners(cell: "Cell", search: Search) -> list[Recipe]:
    """Return the recipes at the ends of a search; raises UsageError where one of them cannot be."""
    found = dimensions(search, cell.recipe)
    corners = itertools.islice(itertools.product(*(one.ends for one in found)), _MOST_CORNERS)
    names = [one.name for one in found]
    return [recipes.changed(cell.recipe, dict(zip(names, corner, strict=True)), typed=True) for corner in corners]
