"""Which settings a claim compares with which, and the comparisons themselves."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from widestep.plan.plain import plain
from widestep.report.comparisons import Comparison, Side, compare, paired
from widestep.report.optimum import best_per_seed
from widestep.report.results import StudyResults, setting_number, setting_unit
from widestep.study.study import Cell, Claim, Study


def comparisons_of(results: StudyResults, claim: Claim) -> list[Comparison]:
    """Return the comparisons that a claim rests on, each oriented so that a positive effect speaks for the claim."""
    if claim.test == "optimum-grows":
        return [_optima(results, claim)]
    level, margin = results.study.level, results.study.margin
    cells = results.arms[claim.arms[0]]
    pairs = _pairs(claim, [cell.cell for cell in cells])
    return [compare(cells[one], cells[other], level=level, margin=margin) for one, other in pairs]


def _pairs(claim: Claim, cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Return which of an arm's cells a claim compares with which."""
    last = len(cells) - 1
    match claim.test:
        case "worst":
            return [(other, 0) for other in range(1, last + 1)]
        case "too-long":
            return [(candidate, last) for candidate in range(1, last) or range(1)]
    if claim.between is None:
        return [(0, last)]
    values = [cell.settings[claim.axis] for cell in cells]
    return [(values.index(claim.between[0]), values.index(claim.between[1]))]


def cells_of(study: Study, claim: Claim) -> list[Cell]:
    """Return the settings that a claim compares."""
    if claim.test == "optimum-grows":
        return [cell for arm in (claim.arms[0], claim.arms[-1]) for cell in study.cells(arm)]
    cells = study.cells(claim.arms[0])
    return [cells[index] for pair in _pairs(claim, cells) for index in pair]


def _optima(results: StudyResults, claim: Claim) -> Comparison:
    first, last = (best_per_seed(results.arms[arm], claim.axis) for arm in (claim.arms[0], claim.arms[-1]))
    seeds = [seed for seed in first if seed in last]
    values = [np.array([best[seed] for seed in seeds]) for best in (last, first)]
    sides = []
    for arm, numbers in zip((claim.arms[-1], claim.arms[0]), values, strict=True):
        label = plain(f"best {claim.axis} of arm {arm}")
        sides.append(Side(label, float(np.median(numbers)) if seeds else None, 0, 0, 0))
    unit = setting_unit(results.arms[claim.arms[0]][0].cell.recipe, claim.axis)
    result = paired(values[0] - values[1], level=results.study.level, margin=results.study.margin)
    by_seed = dict(zip(seeds, (values[0] - values[1]).tolist(), strict=True))
    return Comparison(sides[0], sides[1], unit, result, by_seed, _resolution(results, claim))


def _resolution(results: StudyResults, claim: Claim) -> float:
    """Return the smallest step between the values along a claim's axis."""
    numbers = set()
    for arm in (claim.arms[0], claim.arms[-1]):
        cells = results.arms[arm]
        steps = next((cell.steps_per_epoch for cell in cells if cell.steps_per_epoch is not None), None)
        numbers |= {setting_number(cell, claim.axis, steps) for cell in cells}
    known = sorted(number for number in numbers if number is not None)
    return min((b - a for a, b in pairwise(known)), default=0.0)
