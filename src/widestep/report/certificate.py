"""A certificate that one setting preserves the accuracy of another: the question, the evidence, the test and its verdict.

It refuses where the evidence is not there. What the evidence says - equal within the margin, different, or neither - is
stated either way.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import widestep
from widestep.errors import DataError, EnvironmentFault, StoreError, UsageError
from widestep.plan.contrast import contrast
from widestep.plan.plain import plain
from widestep.plan.recipe import differences
from widestep.plan.recipes import load
from widestep.records.environment import source_digest
from widestep.report.certificate_sides import Evidence, Side, read_side
from widestep.report.comparisons import FEWEST_FOR_RANKS, Paired, paired
from widestep.report.power import equality_power
from widestep.report.results import StudyResults, read_environments, read_study
from widestep.report.statistics import wilcoxon_above
from widestep.study.audit import Case, audit_cases, recipe_key
from widestep.study.study import Study

FORMAT = 1
WORDS = {
    "equivalent": "Accuracy is preserved: the difference is shown to be smaller than the margin",
    "different": "Accuracy is not preserved: the difference is shown to be larger than the margin",
    "open": "Not shown: a difference as large as the margin is not ruled out, nor is equality",
}
"""The verdicts in words."""
_SAME_CODE = ("widestep", "source", "torch", "device", "instructions")
_EVALUATED = ("data", "train_images", "val_images", "evaluation")
_COMPARED = {"data_fingerprint": DataError, **dict.fromkeys(_SAME_CODE, EnvironmentFault)}
_NOT_RECORDED = "not recorded"


def certify(directory: Path, baseline: str, candidate: str, margin: float | None) -> dict[str, Any]:
    """Return the certificate as plain values; its last entry is a SHA-256 over all others.

    Parameters
    ----------
    baseline, candidate
        An arm of the study, or one setting of it: see `find_cell`.
    margin
        In points, at most the study's own, which is taken when it is None.

    Raises
    ------
    UsageError
        When the question cannot be certified: names, margin, seeds that are missing or too few, one setting under two names.
    DataError, NumericError, EnvironmentFault, StoreError
        When the sides saw different data; runs diverged; code or machine differ; records contradict one another.
    """
    results = read_study(directory)
    study = results.study
    margin = study.margin if margin is None else margin
    _check_question(study, margin)
    sides = [read_side(results, name) for name in (baseline, candidate)]
    _check_sides(*sides)
    _check_nothing_left_out(results, sides)
    said = {**_head(results, sides, margin), **_evidence(results, sides, margin)}
    return {**said, "sha256": seal(said)}


def seal(certificate: Mapping[str, Any]) -> str:
    """Return the SHA-256 over everything that a certificate says but its own digest, as JSON with sorted keys."""
    said = {name: value for name, value in certificate.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_question(study: Study, margin: float) -> None:
    if not (math.isfinite(margin) and margin > 0):
        raise UsageError(f"A margin is a number of points above 0. Got {margin:g}.")
    if margin > study.margin:
        raise UsageError(
            f"The margin was declared before the study ran: {study.margin:g} points. A certificate may be stricter, not "
            f"more lenient; --margin {margin:g} is larger."
        )
    if study.sequential is not None:
        raise UsageError(
            "A certificate rests on a number of seeds that was fixed before the study ran. This study ran until decided; "
            "run it with all seeds in another --out."
        )
    if len(study.seeds) < FEWEST_FOR_RANKS:
        raise UsageError(
            f"A certificate rests on at least {FEWEST_FOR_RANKS} pairs. This study has {len(study.seeds)} seeds; add seeds "
            "and run it again: finished runs stay."
        )


def _check_sides(baseline: Side, candidate: Side) -> None:
    """Refuse sides that are one setting, or that differ in anything but their recipes."""
    changed = differences(baseline.recipe, candidate.recipe)
    if not changed:
        raise UsageError(f"Two different settings are compared. {plain(baseline.name)} and {plain(candidate.name)} are one.")
    moved = [name for name in _EVALUATED if name in changed]
    if moved:
        raise DataError(f"Both sides are evaluated on the same images. These differ in {', '.join(moved)}; compare others.")
    runs = [*baseline.runs.values(), *candidate.runs.values()]
    for name, error in _COMPARED.items():
        values = sorted({_fact(run, name) for run in runs})
        if len(values) > 1:
            raise error(
                f"Both sides come from the same data, code and kind of machine. {name.replace('_', ' ')} is "
                f"{' and '.join(plain(value) for value in values)}; run the study again in one place."
            )
    if "model" not in changed and len({_fact(run, "model_fingerprint") for run in runs}) > 1:
        raise EnvironmentFault(
            "Both sides train the same network. The model's own file changed between runs; run them again."
        )
    if len({run.result.val_images for run in runs}) > 1:
        raise DataError("Both sides are evaluated on the same images. Their numbers differ; run the study again.")
    _check_ledgers(baseline, candidate)


def _check_nothing_left_out(results: StudyResults, sides: list[Side]) -> None:
    """Refuse when runs of a side lie in the directory with seeds that the study no longer has: they may be the bad ones."""
    keys = {recipe_key(side.recipe): plain(side.name) for side in sides}
    known = {*results.outcomes, *(name for search in results.searches for name in search.trials)}
    for path in sorted((results.directory / "trials").glob("*/recipe.toml")):
        if path.parent.name in known or not (path.parent / "result.json").exists():
            continue
        recipe = load(str(path)).recipe
        if recipe_key(recipe) in keys:
            raise UsageError(
                f"A certificate rests on all runs of both sides. {keys[recipe_key(recipe)]} also ran with seed "
                f"{recipe.seed}, which the study leaves out; add the seed to the study again."
            )


def _fact(run: Evidence, name: str) -> str:
    return str(run.environment.get(name, _NOT_RECORDED))


def _check_ledgers(*sides: Side) -> None:
    """Refuse sides that applied the same: then equal accuracies say nothing about what differs in their recipes."""
    cases = []
    for side in sides:
        label = side.cell.cell.label if side.cell.cell.settings else ""
        cases.append(Case(side.cell.cell.arm, label, side.recipe, side.directories()))
    audited = audit_cases(cases)
    if audited.num_without_ledger:
        raise StoreError(
            f"A ledger says what the optimizer applied. {audited.num_without_ledger} runs have no whole one; run them again."
        )
    if audited.found:
        raise UsageError(f"A certificate is about a difference. The audit found none: {plain(audited.found[0].text)}.")


def _head(results: StudyResults, sides: list[Side], margin: float) -> dict[str, Any]:
    study = results.study
    baseline, candidate = (plain(side.name) for side in sides)
    changed = differences(sides[0].recipe, sides[1].recipe)
    return {
        "certificate": "widestep accuracy preservation",
        "format": FORMAT,
        "issued": datetime.now(UTC).isoformat(timespec="seconds"),
        "issuer": {"widestep": widestep.__version__, "source": source_digest()},
        "question": f"Does {candidate} preserve the final validation accuracy of {baseline} within {margin:g} points?",
        "study": {
            "name": study.name,
            "title": plain(study.title),
            "definition_sha256": hashlib.sha256((results.directory / "study.toml").read_bytes()).hexdigest(),
            "declared_margin": study.margin,
            "seeds": study.seeds,
        },
        "margin": margin,
        "level": study.level,
        "recipe_differences": {name: [str(one), str(other)] for name, (one, other) in changed.items()},
        "differences_in_words": [plain(words) for words in contrast(sides[0].recipe, sides[1].recipe, None)],
    }


def _evidence(results: StudyResults, sides: list[Side], margin: float) -> dict[str, Any]:
    baseline, candidate = sides
    level = results.study.level
    gained = np.array(candidate.accuracies()) - np.array(baseline.accuracies())
    pair = paired(gained, level=level, margin=margin)
    verdict = _verdict(pair, 1 - level)
    places = [place for side in sides for place in side.directories().values()]
    first = next(iter(baseline.runs.values()))
    return {
        "verdict": verdict,
        "verdict_in_words": WORDS[verdict],
        "statistics": _statistics(gained, pair, margin, level),
        "baseline": _side_record(baseline),
        "candidate": _side_record(candidate),
        "data": {"name": plain(_fact(first, "data")), "fingerprint": _fact(first, "data_fingerprint")},
        "code": {name: _fact(first, name) for name in ("widestep", "source", "torch")},
        "environment": read_environments(places),
        "cost": _cost(sides),
        "limits": [*_limits(sides, len(gained), 1 - level), *(plain(one.sentence) for one in results.amendments)],
    }


def _verdict(pair: Paired, alpha: float) -> str:
    if (pair.equivalence_p or 0.0) < alpha:
        return "equivalent"
    return "different" if (pair.beyond_p or 0.0) < alpha else "open"


def _statistics(gained: Any, pair: Paired, margin: float, level: float) -> dict[str, Any]:
    return {
        "n": pair.n,
        "pairing": "by seed: equal seeds share images, order and initial weights",
        "difference": pair.effect,
        "unit": "points of final validation accuracy, candidate minus baseline",
        "interval": [pair.low, pair.high],
        "bootstrap_interval": None if pair.bootstrap_low is None else [pair.bootstrap_low, pair.bootstrap_high],
        "sd": pair.sd,
        "test": "two one-sided paired t-tests (TOST)",
        "p": pair.equivalence_p,
        "equivalence_level": 1 - 2 * (1 - level),
        "equivalence_interval": [pair.equivalence_low, pair.equivalence_high],
        "p_by_ranks": max(wilcoxon_above(gained + margin), wilcoxon_above(margin - gained)),
        "p_beyond_the_margin": pair.beyond_p,
        "p_of_no_difference": pair.p,
        "test_of_no_difference": pair.test,
        "power": equality_power(pair.n, margin, pair.sd or 0.0, 1 - level),
        "num_candidate_higher": pair.num_higher,
    }


def _side_record(side: Side) -> dict[str, Any]:
    accuracies = np.array(side.accuracies())
    return {
        "name": plain(side.name),
        "recipe_fingerprint": side.cell.cell.fingerprint(0),
        "mean_accuracy": float(accuracies.mean()),
        "median_accuracy": float(np.median(accuracies)),
        "lowest_accuracy": float(accuracies.min()),
        "num_collapsed": len(side.cell.collapsed),
        "runs": [run.record() for run in side.runs.values()],
    }


def _cost(sides: list[Side]) -> dict[str, Any]:
    """Return images and device-hours; runs of a stack share the seconds that each of them lasted."""
    found: dict[str, Any] = {}
    for side in sides:
        stack = side.recipe.stack
        busy = [run.result.wall_seconds / stack * int(run.environment.get("processes", 1)) for run in side.runs.values()]
        found["candidate" if found else "baseline"] = {
            "train_images": sum(run.result.train_images_seen for run in side.runs.values()),
            "device_hours": sum(busy) / 3600,
        }
    return found


def _limits(sides: list[Side], n: int, alpha: float) -> list[str]:
    rate = 1 - 0.05 ** (1 / n)
    num_collapsed = sum(len(side.cell.collapsed) for side in sides)
    rare = (
        f"No run collapsed in {n} a side, which rules out (at 95 %) only that more than {100 * rate:.0f} % of the runs do."
        if not num_collapsed
        else f"{num_collapsed} runs collapsed; they are in every number."
    )
    return [
        rare,
        "It holds for this network, these data and these seeds' spread, and for the mean over seeds, not for every run.",
        f"It is one test: of many certificates asked of one study, {100 * alpha:.3g} in 100 may say preserved where it is "
        "not.",
    ]
