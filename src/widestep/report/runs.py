"""Single runs without a study: their curves, results, and the settings in which they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from widestep.plan.plain import plain
from widestep.plan.recipe import Recipe, differences
from widestep.records.result import RunResult
from widestep.records.run import open_existing
from widestep.report.audit import audit_notices, audit_section
from widestep.report.batchnorm import Group, batchnorm_table, group
from widestep.report.figures import run_curves
from widestep.report.page import FigureBlock, Page, Table
from widestep.report.plotted import FigureData
from widestep.report.results import Curves, read_curves, read_environments
from widestep.report.sections import environment_facts, glossary
from widestep.study.audit import Audit, Case, audit_cases, ineffective_of, recipe_key
from widestep.study.coincidence import listed

LEVEL = 0.95


@dataclass(frozen=True)
class SingleRun:
    """A run directory as a report needs it; `result` is None while there is none."""

    directory: Path
    recipe: Recipe
    state: str
    result: RunResult | None
    curves: Curves


def read_runs(directories: Sequence[Path]) -> dict[str, SingleRun]:
    """Read run directories, labelled by their names, or by their paths where names repeat.

    Raises
    ------
    UsageError
        When a directory holds no run.
    StoreError
        When the records of a run are damaged.
    """
    names = [plain(path.resolve().name) for path in directories]
    labels = [name if names.count(name) == 1 else plain(str(path)) for name, path in zip(names, directories, strict=True)]
    found = {}
    for label, directory in zip(labels, directories, strict=True):
        run = open_existing(directory)
        state = plain(run.status() or "not started")
        found[label] = SingleRun(directory, run.recipe, state, run.result(), read_curves(run))
    return found


def run_figures(runs: dict[str, SingleRun]) -> list[FigureData]:
    """Return accuracy and learning rate by epoch."""
    curves = {label: run.curves for label, run in runs.items()}
    return [
        run_curves(1, "Validation accuracy by epoch", curves, "accuracy"),
        run_curves(2, "Learning rate by epoch", curves, "lr"),
    ]


def by_setting(runs: dict[str, SingleRun]) -> list[Case]:
    """Return runs whose recipes differ in nothing but the seed together, under their labels; a seed counts once."""
    found: dict[str, dict[str, SingleRun]] = {}
    for label, run in runs.items():
        found.setdefault(recipe_key(run.recipe), {})[label] = run
    return [
        Case(
            listed(list(same)),
            "",
            next(iter(same.values())).recipe,
            {run.recipe.seed: run.directory for run in same.values()},
        )
        for same in found.values()
    ]


def audit_runs(runs: dict[str, SingleRun]) -> Audit:
    """Audit single runs: settings that differ and yet did the same at every seed that they share."""
    cases = by_setting(runs)
    return audit_cases(cases, ineffective_of({case.arm: case.recipe for case in cases}))


def run_groups(runs: dict[str, SingleRun]) -> list[Group]:
    """Return the settings of single runs that are complete and compared the policies of batch-norm statistics."""
    groups = [
        group("", case.arm, case.runs) for case in by_setting({k: v for k, v in runs.items() if v.state == "complete"})
    ]
    return [one for one in groups if one.runs]


def run_page(runs: dict[str, SingleRun], figures: list[FigureBlock], audit: Audit, groups: list[Group]) -> Page:
    """Put the page of single runs together."""
    recipes = [run.recipe for run in runs.values()]
    varied = list(dict.fromkeys(name for recipe in recipes[1:] for name in differences(recipes[0], recipe)))
    headers = ["run", "state", "images a step", "epochs", "steps", "final %", "median of last five %", "best %", "seed"]
    rows = [_row(label, run) for label, run in runs.items()]
    tables = [Table("Results", headers, rows, "Each line is one run: n = 1, so there is no interval.", first_number=2)]
    if varied:
        settings = [[label, *(_words(run.recipe.values()[name]) for name in varied)] for label, run in runs.items()]
        tables.append(Table("Settings in which the runs differ", ["run", *varied], settings, first_number=1 + len(varied)))
    tables += [batchnorm_table(groups, LEVEL)] if groups else []
    complete = sum(run.state == "complete" for run in runs.values())
    other = [f"{label} ({run.state})" for label, run in runs.items() if run.state != "complete"]
    return Page(
        eyebrow="Runs",
        title=next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs",
        counts=[("complete", f"{complete} of {len(runs)} complete")],
        notices=[*([f"Not complete: {', '.join(other)}."] if other else []), *audit_notices(audit)],
        figures=figures,
        tables=tables,
        audit=audit_section(audit),
        facts=environment_facts(read_environments(run.directory for run in runs.values())),
        glossary=glossary(varied),
    )


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(str(item)) for item in value)
    return "–" if value is None else plain(str(value))


def _row(label: str, run: SingleRun) -> list[str]:
    result = run.result
    start, seed = [label, run.state, f"{run.recipe.grid.global_batch:,}"], str(run.recipe.seed)
    if result is None:
        return [*start, "–", "–", "–", "–", "–", seed]
    shares = (result.val_accuracy, result.median_last5_val_accuracy, result.best_val_accuracy)
    return [*start, f"{result.epochs:g}", f"{result.steps:,}", *(f"{100 * share:.2f}" for share in shares), seed]
