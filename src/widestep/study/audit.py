"""The audit of a study: options that changed nothing, found from plans before it runs and from ledgers and weights after.

A recipe says what was asked for, a ledger what the optimizer was really told. Two settings whose recipes differ, whose
ledgers say the same at every step that both recorded, and whose weights are the same bytes at every shared seed, are one
setting under two names: the option between them did nothing, and an equal accuracy says nothing about it.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from widestep.errors import StoreError
from widestep.plan.effects import without_effect
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.records.ledger import Ledger, first_difference, read_ledger
from widestep.records.result import RunResult
from widestep.records.run import Run
from widestep.study.coincidence import RATE_FIELDS, Judged, Kind, Statement, Variant, listed, statements, texts
from widestep.study.store import StudyStore
from widestep.study.study import Cell, Study

_MOST_TRACED = 1_000_000


def recipe_key(recipe: Recipe) -> str:
    """Return the fingerprint that a recipe has with seed 0: the same for all seeds."""
    return recipe.model_copy(update={"seed": 0}).fingerprint


@dataclass(frozen=True)
class Case:
    """A recipe at one place of a study or of a report, with the directory of its run with each seed."""

    arm: str
    label: str
    recipe: Recipe
    runs: Mapping[int, Path]

    @property
    def name(self) -> str:
        """The arm, with the setting in it where it has several."""
        return f"{self.arm}: {self.label}" if self.label else self.arm

    @cached_property
    def key(self) -> str:
        """Fingerprint of the recipe with seed 0."""
        return recipe_key(self.recipe)


@dataclass(frozen=True)
class Evidence:
    """What a finished run left; `ledger` is None when the run diverged, or its ledger is absent, damaged or ends early."""

    result: RunResult
    path: Path
    ledger: Ledger | None

    @property
    def measured(self) -> tuple[object, ...]:
        """What evaluation came to."""
        result = self.result
        shares = (result.val_accuracy, result.median_last5_val_accuracy, result.best_val_accuracy)
        return (result.val_correct, result.val_images, result.val_loss, *shares)


@dataclass(frozen=True)
class SettingDigest:
    """What was applied under one setting, in brief.

    Parameters
    ----------
    num_steps
        Recorded steps of a run, the smallest number where runs differ.
    digest
        8 hexadecimal digits over the ledgers of all audited seeds; empty without any.
    difference
        Where the ledger first differs from that of the arm's first setting; arms of one setting are taken as one arm.
    """

    arm: str
    setting: str
    num_runs: int
    num_steps: int
    digest: str
    difference: str


@dataclass(frozen=True)
class Audit:
    """What an audit of runs found; the field names are those of audit.json.

    Parameters
    ----------
    num_audited
        Complete runs with a usable ledger, of `num_runs`. The others diverged, are complete without a usable ledger, or have
        no outcome.
    num_settings, num_pairs
        Different recipes, and pairs of them that could be compared at one seed at least.
    found
        Options that changed nothing, and fields set without effect.
    notes
        Settings that differ only in what is measured, or in what no ledger shows.
    """

    num_runs: int
    num_audited: int
    num_diverged: int
    num_without_ledger: int
    num_settings: int
    num_pairs: int
    found: list[Statement] = field(default_factory=list)
    notes: list[Statement] = field(default_factory=list)
    digests: list[SettingDigest] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return the audit as plain values."""
        return asdict(self)


def audit(store: StudyStore) -> Audit:
    """Audit the runs of a study that have an outcome so far."""
    trials = store.directory / "trials"
    cases = [
        replace(case, runs={seed: trials / cell.fingerprint(seed) for seed in store.seeds_of(cell)})
        for case, cell in _cases(store.study)
    ]
    return audit_cases(cases, ineffective(store.study))


def _cases(study: Study) -> list[tuple[Case, Cell]]:
    """Return the settings of a study in order, still without runs."""
    cells = [cell for arm in study.arms for cell in study.cells(arm) if not cell.is_open]
    return [(Case(cell.arm, cell.label if cell.settings else "", cell.recipe, {}), cell) for cell in cells]


def audit_cases(cases: Sequence[Case], without: Sequence[Statement] = ()) -> Audit:
    """Audit runs under the names that they have; `without` are statements on fields without effect, known before.

    Every run is read once, and pairs of settings are compared by digests.
    """
    evidence: dict[str, dict[int, Evidence]] = {}
    num_runs = 0
    for case in cases:
        if case.key not in evidence:
            num_runs += len(case.runs)
            read = {seed: _read(path, case.recipe.model_copy(update={"seed": seed})) for seed, path in case.runs.items()}
            evidence[case.key] = {seed: one for seed, one in read.items() if one is not None}
    variants = _variants(cases)
    finished = [evidence[case.key] for case in _first_of_each(cases)]
    said, num_pairs = statements(variants, lambda i, j: _judge(finished[i], finished[j]))
    everyone = [one for runs in evidence.values() for one in runs.values()]
    complete = [one for one in everyone if one.result.status == "complete"]
    return Audit(
        num_runs=num_runs,
        num_audited=sum(one.ledger is not None for one in complete),
        num_diverged=len(everyone) - len(complete),
        num_without_ledger=sum(one.ledger is None for one in complete),
        num_settings=len(variants),
        num_pairs=num_pairs,
        found=[*(one for one in said if one.kind in ("same", "applied")), *without],
        notes=[one for one in said if one.kind not in ("same", "applied")],
        digests=_digests(cases, evidence),
    )


def planned(study: Study, plans: Mapping[str, RunPlan]) -> list[Statement]:
    """Say, before anything runs, which settings differ in fields of the rate and plan the same rate at every step.

    Nothing is said of trainings of more than a million steps, whose rates would take long to look at.

    Parameters
    ----------
    plans
        The plan of every trial by fingerprint.
    """
    cases = [case for case, _ in _cases(study)]
    first = _first_of_each(cases)
    groups = [_apart_from_the_rate(case.recipe) for case in first]
    traces: dict[int, str] = {}

    def judge(i: int, j: int) -> Judged | None:
        if groups[i] != groups[j]:
            return None
        of = [plans[first[k].recipe.model_copy(update={"seed": study.seeds[0]}).fingerprint] for k in (i, j)]
        if max(plan.total_steps for plan in of) > _MOST_TRACED:
            return None
        for k, plan in zip((i, j), of, strict=True):
            if k not in traces:
                traces[k] = _trace(plan)
        same = of[0].total_steps == of[1].total_steps and traces[i] == traces[j]
        return Judged("planned", num_steps=of[0].total_steps) if same else Judged(None)

    said, _ = statements(_variants(cases), judge)
    return [*said, *ineffective(study)]


def ineffective(study: Study) -> list[Statement]:
    """Say which values the recipes of a study set without effect: wherever they are set, or in all settings of an arm."""
    found = {
        arm: [(cell.recipe, without_effect(cell.recipe)) for cell in study.cells(arm) if not cell.is_open]
        for arm in study.arms
    }
    said = _ineffective([one for cells in found.values() for one in cells], "wherever it is set")
    named = {name for one in said for name in one.fields}
    for arm, spec in study.arms.items():
        own = {*spec.set, *spec.axes} - named
        said += [one for one in _ineffective(found[arm], f"in arm {arm}") if own.issuperset(one.fields)]
    return said


def ineffective_of(recipes: Mapping[str, Recipe]) -> list[Statement]:
    """Say which values single recipes, by name, set without effect."""
    return [
        one for name, recipe in recipes.items() for one in _ineffective([(recipe, without_effect(recipe))], f"in {name}")
    ]


def _ineffective(recipes: Sequence[tuple[Recipe, Mapping[str, str]]], where: str) -> list[Statement]:
    """Name the values that have no effect in any of the recipes that have them, one statement a field."""
    values = [texts(recipe) for recipe, _ in recipes]
    said = []
    for name in dict.fromkeys(name for _, reasons in recipes for name in reasons):
        matters = {value[name] for (_, reasons), value in zip(recipes, values, strict=True) if name not in reasons}
        idle = [
            (value[name], reasons[name], recipe)
            for (recipe, reasons), value in zip(recipes, values, strict=True)
            if value[name] not in matters
        ]
        if idle:
            named, why = (list(dict.fromkeys(words)) for words in list(zip(*idle, strict=True))[:2])
            text = f"{name} {listed(named)} has no effect {where}: {listed(why, '; ')}"
            concerned = list(dict.fromkeys(recipe_key(recipe) for _, _, recipe in idle))
            said.append(Statement("without-effect", text, [name], [where], concerned, num_uses=len(concerned)))
    return said


def _first_of_each(cases: Iterable[Case]) -> list[Case]:
    """Return the first case of every recipe."""
    found: dict[str, Case] = {}
    for case in cases:
        found.setdefault(case.key, case)
    return list(found.values())


def _variants(cases: Sequence[Case]) -> list[Variant]:
    """Return every recipe once, under all of its names."""
    names: dict[str, list[tuple[str, str]]] = {}
    for case in sorted(cases, key=lambda case: bool(case.label)):  # an arm of one setting is there for its sake
        names.setdefault(case.key, []).append((case.arm, case.name))
    return [Variant(tuple(names[case.key]), case.key, texts(case.recipe)) for case in _first_of_each(cases)]


def _read(directory: Path, recipe: Recipe) -> Evidence | None:
    """Return what a finished run left, or None when it has no outcome that can be used."""
    run = Run(directory, recipe)
    try:
        result = run.result() if run.status() in ("complete", "diverged") else None
    except (StoreError, OSError, ValueError):
        return None
    if result is None or result.recipe_fingerprint != recipe.fingerprint:
        return None
    path = directory / "ledger.jsonl"
    return Evidence(result, path, _usable_ledger(path, result.steps) if result.status == "complete" else None)


def _usable_ledger(path: Path, num_steps: int) -> Ledger | None:
    """Return the ledger of a complete run; None when it is absent, damaged or ends before the last step."""
    try:
        ledger = read_ledger(path)
    except (StoreError, OSError, RecursionError):
        return None
    return ledger if ledger.last_step == num_steps - 1 else None


def _judge(a: Mapping[int, Evidence], b: Mapping[int, Evidence]) -> Judged | None:
    """Compare the finished runs of two recipes seed by seed; one difference in what was applied decides."""
    same_weights = same_measured = True
    num_steps: list[int] = []
    num_taken: list[int] = []
    num_unread = num_diverged = 0
    for seed in a.keys() & b.keys():
        one, other = a[seed], b[seed]
        if (one.result.status, one.result.steps) != (other.result.status, other.result.steps):
            return Judged(None)
        same_weights &= one.result.weights_sha256 == other.result.weights_sha256
        if one.result.status == "diverged":
            num_diverged += 1
            continue
        same_measured &= one.measured == other.measured
        if one.ledger is None or other.ledger is None:
            num_unread += 1
            continue
        shared = one.ledger.compare(other.ledger)
        if not shared.same:
            return Judged(None)
        num_steps.append(shared.num_steps)
        num_taken.append(one.result.steps)
    if not num_steps:
        return None
    kind: Kind = "elsewhere" if not same_weights else "same" if same_measured else "measured"
    return Judged(kind, len(num_steps), min(num_steps), min(num_taken), num_unread, num_diverged)


def _digests(cases: Sequence[Case], evidence: Mapping[str, Mapping[int, Evidence]]) -> list[SettingDigest]:
    first: dict[str, Case] = {}
    for case in cases:
        first.setdefault(case.arm if case.label else "", case)
    rows = []
    for case in cases:
        reference = first[case.arm if case.label else ""]
        ledgers = {seed: one.ledger for seed, one in sorted(evidence[case.key].items()) if one.ledger is not None}
        text = " ".join(f"{seed}:{ledger.digest}" for seed, ledger in ledgers.items())
        digest = hashlib.sha256(text.encode()).hexdigest()[:8] if ledgers else ""
        num_steps = min((ledger.num_steps for ledger in ledgers.values()), default=0)
        difference = "" if case is reference else _difference(evidence[case.key], evidence[reference.key])
        rows.append(SettingDigest(case.arm, case.label, len(ledgers), num_steps, digest, difference))
    return rows


def _difference(of: Mapping[int, Evidence], reference: Mapping[int, Evidence]) -> str:
    """Say where the ledgers first differ, with the first seed at which they do."""
    num_compared = 0
    for seed in of:
        one, other = of[seed], reference.get(seed)
        if other is None or one.ledger is None or other.ledger is None:
            continue
        num_compared += 1
        if not one.ledger.compare(other.ledger).same:
            return str(first_difference(one.path, other.path) or "")
    return "no difference" if num_compared else ""


def _apart_from_the_rate(recipe: Recipe) -> tuple[str, ...]:
    """Return everything that acts otherwise than through the planned rate; AdaScale's gain is such a thing."""
    others = (f"{name} {value}" for name, value in texts(recipe).items() if name not in RATE_FIELDS)
    return (*others, str(recipe.scaling == "adascale"))


def _trace(plan: RunPlan) -> str:
    rates = [plan.lr(step) for step in range(plan.total_steps)]
    return hashlib.sha256(struct.pack(f"<{len(rates)}d", *rates)).hexdigest()
