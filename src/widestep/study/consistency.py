"""What must hold within a study, and in each of its recipes: refused before anything runs, with the lines of the file."""

import math
from typing import TYPE_CHECKING, Any

from widestep.errors import UsageError
from widestep.plan.consistency import check_given
from widestep.plan.duration import Duration
from widestep.plan.fields import Conflict, Misfit, Problem, perhaps, shown
from widestep.plan.grid import WorkerGrid
from widestep.plan.settings_file import KeyPath, SettingsFile
from widestep.study.search import check_corners, check_from_search, check_search

if TYPE_CHECKING:
    from widestep.study.study import Arm, Cell, Claim, Study

MOST_RUNS = 10_000
"""Runs of a study, those that arms share counted for each."""

_ORDERED = (Duration, WorkerGrid, int, float)


def check_study(study: "Study") -> None:
    """Refuse what contradicts itself within a study.

    Raises
    ------
    Conflict
        Names the keys and what to do.
    """
    if len(set(study.seeds)) != len(study.seeds) or not all(0 <= seed < 2**63 for seed in study.seeds):
        raise Conflict(("seeds",), f"The seeds of a study are different numbers of at least 0. Got {shown(study.seeds)}.")
    for arm, spec in study.arms.items():
        _check_arm(study, arm, spec)
    num_runs = sum(_num_runs(study, arm) for arm in study.arms)
    if num_runs > MOST_RUNS:
        raise Conflict(
            ("arms", "seeds"), f"A study has at most {MOST_RUNS:,} runs. Arms and seeds make {num_runs:.6g}; divide it."
        )
    uses: list[tuple[KeyPath, str, str]] = []
    for name, claim in study.claims.items():
        uses += [(("claims", name, "arms"), f"claim {name}", arm) for arm in claim.arms]
    for index, figure in enumerate(study.figures):
        uses.append((("figures", index, "arm"), f"figure {figure.number}", figure.arm))
    for place, user, arm in uses:
        if arm not in study.arms:
            known = ", ".join(study.arms)
            raise Conflict((place,), f"The {user} is about arm '{arm}', but the arms are {known}.{perhaps(arm, study.arms)}")
        if study.arms[arm].search is not None:
            raise Conflict(
                (place,),
                f"The {user} is about arm '{arm}', which searches. Make an arm with from_search = \"{arm}\", which runs "
                "what it finds with the study's seeds, and name that.",
            )
    for name, claim in study.claims.items():
        _check_claim(study, name, claim)
    numbers = [figure.number for figure in study.figures]
    if len(set(numbers)) != len(numbers):
        raise Conflict(("figures",), f"The figures of a study have different numbers. Got {shown(numbers)}.")


def _num_runs(study: "Study", arm: str) -> int:
    """Return how many runs an arm has, at most."""
    search, num_cells = study.arms[arm].search, math.prod(map(len, study.axes(arm).values()))
    return num_cells * (len(study.seeds) if search is None else search.num_trials * len(search.seeds))


def _check_arm(study: "Study", arm: str, spec: "Arm") -> None:
    if spec.search is not None:
        check_search(study, arm, spec.search)
    if spec.from_search is not None:
        check_from_search(study, arm, spec.from_search)
    if "seed" in {*study.set, *spec.set, *spec.axes}:
        raise Conflict(
            (("arms", arm), "seeds"),
            f"Every cell runs with the study's seeds, so no arm may set seed. Arm {arm} does; use seeds = [...].",
        )
    for axis, values in spec.axes.items():
        if not values:
            raise Conflict(
                (("arms", arm, "axes", axis),), f"An axis has at least one value. Axis '{axis}' of arm {arm} is empty."
            )
        if axis in spec.set:
            raise Conflict(
                (("arms", arm, "axes", axis), ("arms", arm, "set", axis)),
                f"A field of an arm is either set or an axis. '{axis}' of arm {arm} is both; leave one out.",
            )


def _check_claim(study: "Study", name: str, claim: "Claim") -> None:
    place: KeyPath = ("claims", name)
    for arm in claim.arms:
        axes = study.axes(arm)
        values = axes.get(claim.axis, [])
        if len(values) < 2:
            raise Conflict(
                ((*place, "axis"), ("arms", arm, "axes")),
                f"Claim {name} compares along '{claim.axis}', so arm {arm} needs two values of that axis.",
            )
        others = ", ".join(axis for axis in axes if axis != claim.axis)
        if others:
            raise Conflict(
                ((*place, "axis"), ("arms", arm, "axes")),
                f"A claim compares along the only axis of its arm. Claim {name} is along '{claim.axis}', but arm {arm} "
                f"also varies {others}; give the claim an arm of its own.",
            )
        if claim.between is not None:
            _check_between(name, claim, claim.between, values)
    if claim.test == "optimum-grows" and len(set(claim.arms)) < max(2, len(claim.arms)):
        raise Conflict(
            ((*place, "test"), (*place, "arms")),
            f"Claim {name} (optimum-grows) compares at least two different arms. Got {claim.arms}.",
        )
    if claim.test != "optimum-grows" and len(claim.arms) > 1:
        raise Conflict(
            ((*place, "test"), (*place, "arms")),
            f"Claim {name} ({claim.test}) compares along one arm. Got {claim.arms}; make a claim of each.",
        )


def _check_between(name: str, claim: "Claim", between: list[Any], values: list[Any]) -> None:
    place: KeyPath = ("claims", name, "between")
    if claim.test not in ("falls", "equivalent"):
        raise Conflict(
            (place, ("claims", name, "test")),
            f"Only falls and equivalent compare two values. Claim {name} is {claim.test}; leave out between.",
        )
    if len(between) != 2 or between[0] == between[1] or any(value not in values for value in between):
        raise Conflict(
            (place, ("arms", claim.arms[0], "axes", claim.axis)),
            f"Claim {name} compares two different values of {shown(values)}. Got {shown(between)}.",
        )


def check_cells(study: "Study", what: str, file: SettingsFile | None = None, *, is_new: bool = False) -> None:
    """Build every recipe of the study, and refuse what would only show when its claims are judged."""
    cells = {arm: _checked_cells(study, arm, what, file, is_new) for arm in study.arms}
    for name, claim in study.claims.items():
        value = getattr(cells[claim.arms[0]][0].recipe, claim.axis)
        if claim.test == "optimum-grows" and (isinstance(value, bool) or not isinstance(value, _ORDERED)):
            raise _misfit(
                (("claims", name, "axis"),),
                f"A best value grows along durations, grids or numbers. Claim {name} is along '{claim.axis}', which has "
                f"{value!r}.",
                what,
                file,
            )


def _checked_cells(study: "Study", arm: str, what: str, file: SettingsFile | None, is_new: bool) -> "list[Cell]":
    def line(path: KeyPath) -> int | None:
        if file is None:
            return None
        places: list[KeyPath] = [(*table, *path) for table in (("arms", arm, "axes"), ("arms", arm, "set"), ("set",))]
        places.append(("arms", arm, "search", "over", *path))
        return next((file.line(place) for place in places if file.holds(place)), None)

    before, spec = f"Arm {arm} of study {study.name}: ", study.arms[arm]
    try:
        cells = study.bases(arm)
        given, checked = {*study.set, *spec.set, *spec.axes}, [cell.recipe for cell in cells]
        if spec.search is not None:
            given, checked = given | {*spec.search.over}, [one for cell in cells for one in check_corners(cell, spec.search)]
        for recipe in checked if is_new else ():
            check_given(recipe, given)
    except Misfit as error:
        raise Misfit(error.problems, f"recipe of {what}", line, before=before) from None
    except Conflict as error:
        raise Misfit([error.problem], f"recipe of {what}", line, before=before) from None
    except UsageError as error:
        raise UsageError(f"{before}{error}") from None
    labels: dict[str, str] = {}
    for cell in cells:
        name = cell.fingerprint(0)
        if name in labels:
            sentence = f"The cells of an arm differ. In arm {arm}, '{labels[name]}' and '{cell.label}' do not."
            raise _misfit((("arms", arm, "axes"),), sentence, what, file)
        labels[name] = cell.label
    return cells


def _misfit(paths: tuple[KeyPath, ...], sentence: str, what: str, file: SettingsFile | None) -> Misfit:
    return Misfit([Problem(paths, sentence)], what, file.line if file is not None else lambda path: None)
