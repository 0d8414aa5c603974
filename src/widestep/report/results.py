"""A study directory as plain data: what each cell's seeds came to, and what is missing.

Diverged runs are counted and shown but have no accuracy here (statement N5), so no mean can contain one by accident.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widestep.errors import StoreError, UsageError
from widestep.plan.duration import Duration
from widestep.plan.grid import WorkerGrid
from widestep.plan.plain import plain
from widestep.plan.recipe import Recipe
from widestep.records.reading import read_record
from widestep.records.result import RunResult
from widestep.records.run import Run
from widestep.study.amendments import Amendment, read_amendments
from widestep.study.searching import SearchSummary, summaries
from widestep.study.sequential import Look, num_runs, read_looks, wanted_seeds
from widestep.study.store import StudyStore, failure_reason
from widestep.study.study import Cell, Study

_MOST_EPOCHS = 1e12


@dataclass(frozen=True)
class Curves:
    """What a run recorded after its epochs: each of shape (num_evaluations,), accuracy in percent, NaN where unknown."""

    epochs: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    lr: NDArray[np.float64]


@dataclass(frozen=True)
class SeedRun:
    """One complete run; accuracies in percent.

    Parameters
    ----------
    accuracy
        Of the final epoch (statement N3); `median_last5` and `best` stand beside it and never replace it.
    resolution
        Smallest step between two accuracies, that of one validation image; 0 when it is not known.
    """

    seed: int
    accuracy: float
    median_last5: float
    best: float
    steps_per_epoch: int
    curves: Curves
    resolution: float = 0.0


@dataclass(frozen=True)
class Diverged:
    """A run that stopped because a loss or gradient was no longer finite."""

    reason: str


@dataclass(frozen=True)
class Missing:
    """A run without a usable outcome; damaged where it has one that cannot be used."""

    reason: str
    is_damaged: bool = False


@dataclass(frozen=True)
class Spared:
    """A run that is not wanted (yet) because the study adds seeds only where a claim is open."""


Outcome = SeedRun | Diverged | Missing | Spared


@dataclass(frozen=True)
class CellResults:
    """All seeds of one cell."""

    cell: Cell
    outcomes: dict[int, Outcome]
    collapse_below: float
    label: str = field(init=False)

    def __post_init__(self) -> None:
        words = [setting_words(self.cell.recipe, name, value) for name, value in self.cell.settings.items()]
        object.__setattr__(self, "label", plain(", ".join(words) or self.cell.arm))

    @property
    def complete(self) -> dict[int, SeedRun]:
        """The complete runs by seed."""
        return {seed: run for seed, run in self.outcomes.items() if isinstance(run, SeedRun)}

    @property
    def diverged(self) -> list[int]:
        """Seeds whose run diverged."""
        return [seed for seed, run in self.outcomes.items() if isinstance(run, Diverged)]

    @property
    def missing(self) -> list[int]:
        """Seeds without a usable outcome."""
        return [seed for seed, run in self.outcomes.items() if isinstance(run, Missing)]

    @property
    def collapsed(self) -> list[int]:
        """Seeds of complete runs that ended below the study's threshold; they stay in every mean."""
        return [seed for seed, run in self.complete.items() if run.accuracy < 100 * self.collapse_below]

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """Final validation accuracies of the complete runs in percent."""
        return np.array([run.accuracy for run in self.complete.values()])

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps an epoch as the runs recorded them, or None before the first run is complete."""
        return next((run.steps_per_epoch for run in self.complete.values()), None)


@dataclass(frozen=True)
class StudyResults:
    """A study with the outcomes of its trials; two arms that share a trial share its outcome."""

    study: Study
    directory: Path
    arms: dict[str, list[CellResults]]
    outcomes: dict[str, Outcome]
    environment: dict[str, list[str]]
    amendments: list[Amendment] = field(default_factory=list)
    """What was changed in the definition after trials had an outcome."""
    looks: list[Look] = field(default_factory=list)
    """Looks taken so far, when the study runs until decided."""
    searches: list[SearchSummary] = field(default_factory=list)
    """What the searches of the study have tried and found so far."""

    @property
    def num_wanted(self) -> int:
        """Trials that are wanted so far, with those that wait for a search."""
        return len(self.outcomes) - self.count(Spared) + self._num_waiting

    @property
    def num_runs(self) -> tuple[int, int]:
        """Runs that are wanted so far, and those of all seeds."""
        return num_runs(self.study, self.looks)

    def first(self, num_seeds: int) -> "StudyResults":
        """Return the same with the outcomes of the first seeds only."""
        kept = self.study.seeds[:num_seeds]
        arms = {
            arm: [replace(cell, outcomes={seed: cell.outcomes[seed] for seed in kept}) for cell in cells]
            for arm, cells in self.arms.items()
        }
        return replace(self, arms=arms)

    def count(self, kind: type[Outcome]) -> int:
        """Return how many trials have an outcome of this kind."""
        known = sum(isinstance(outcome, kind) for outcome in self.outcomes.values())
        return known + (self._num_waiting if kind is Missing else 0)

    @property
    def _num_waiting(self) -> int:
        """Trials of settings that are still searched: they have no fingerprint."""
        return sum(len(cell.outcomes) for cells in self.arms.values() for cell in cells if cell.cell.is_open)


def read_study(directory: Path) -> StudyResults:
    """Read what a study directory holds so far.

    Raises
    ------
    UsageError
        When there is no study.toml, or it does not describe a study.
    StoreError
        When the record of its changes, or the file of a look, is damaged.
    """
    path = directory / "study.toml"
    if not path.is_file():
        raise UsageError(f"A study directory holds study.toml. {directory} does not; give the directory of a study.")
    store = StudyStore.open(directory)
    study = store.study
    looks = read_looks(directory, study)
    outcomes: dict[str, Outcome] = {}
    arms: dict[str, list[CellResults]] = {}
    for arm in study.arms:
        arms[arm] = []
        for cell in study.cells(arm):
            found: dict[int, Outcome] = {}
            wanted = set(wanted_seeds(study, looks, cell))
            for seed in study.seeds:
                if cell.is_open:
                    found[seed] = Missing(f"waits for what arm {plain(study.arms[arm].from_search or arm)} searches")
                    continue
                recipe = cell.recipe.model_copy(update={"seed": seed})
                name = recipe.fingerprint
                if name not in outcomes:
                    outcomes[name] = _read_trial(directory / "trials" / name, recipe) if seed in wanted else Spared()
                found[seed] = outcomes[name]
            arms[arm].append(CellResults(cell, found, study.collapse_below))
    trials = [directory / "trials" / name for name, outcome in outcomes.items() if isinstance(outcome, (SeedRun, Diverged))]
    searches = summaries(store)
    trials += [directory / "trials" / name for search in searches for name in search.trials]
    facts, amendments = read_environments(trials), read_amendments(directory)
    return StudyResults(study, directory, arms, outcomes, facts, amendments, looks, searches)


def _read_trial(directory: Path, recipe: Recipe) -> Outcome:
    if not directory.is_dir():
        return Missing("not started")
    run = Run(directory, recipe)
    try:
        status = run.status()
        if status not in ("complete", "diverged"):
            failure = directory / "failure.json"
            return Missing(plain(f"failed: {failure_reason(failure)}" if failure.exists() else status or "not started"))
        result = run.result()
        if result is None:
            return Missing(f"{status}, but result.json is absent", is_damaged=True)
        if result.recipe_fingerprint != recipe.fingerprint:
            return Missing("result.json belongs to another recipe", is_damaged=True)
        if result.status != status:
            return Missing(f"STATUS says {status}, result.json {result.status}", is_damaged=True)
        if status == "diverged":
            return Diverged(plain(result.reason or "no reason recorded"))
        return _read_complete(run, result)
    except (StoreError, OSError, ValueError) as error:
        return Missing(plain(str(error)), is_damaged=True)


def _read_complete(run: Run, result: RunResult) -> SeedRun:
    shares = (result.val_accuracy, result.median_last5_val_accuracy, result.best_val_accuracy)
    if result.epochs == 0 or result.steps == 0 or result.val_images == 0:
        raise StoreError("result.json must hold accuracies after some epochs. It is damaged; run it again.")
    accuracy, median, best = (100.0 * share for share in shares)
    steps, resolution = round(result.steps / result.epochs), 100.0 / result.val_images
    return SeedRun(run.recipe.seed, accuracy, median, best, steps, read_curves(run), resolution)


def read_curves(run: Run) -> Curves:
    """Return what a run recorded after its epochs so far; raises StoreError when epochs.csv is damaged."""
    try:
        read = run.read_epochs()
    except (csv.Error, OSError, ValueError) as error:
        raise StoreError(f"{run.directory / 'epochs.csv'} must be a table. It is damaged: {error}.") from None
    known = [row for row in read if _finite(row["epoch"]) and _finite(row["val_accuracy"])]
    if any(not (0 <= (row["epoch"] or 0) <= _MOST_EPOCHS and 0 <= (row["val_accuracy"] or 0) <= 1) for row in known):
        raise StoreError(f"{run.directory / 'epochs.csv'} must hold accuracies from 0 to 1 by epoch. It is damaged.")
    rows = {row["epoch"]: row for row in known}.values()  # the last evaluation of an epoch stands for it
    table = [[math.nan if row[name] is None else row[name] for name in ("epoch", "val_accuracy", "lr")] for row in rows]
    epochs, accuracy, lr = np.array(table, dtype=np.float64).reshape(-1, 3).T
    return Curves(epochs, 100.0 * accuracy, lr)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def read_environments(directories: Iterable[Path]) -> dict[str, list[str]]:
    """Return every recorded fact about the runs' environments with the different values it took.

    The host's name is left out: it says nothing about the results, and reports are passed on.
    """
    pooled: dict[str, list[str]] = {}
    for directory in directories:
        try:
            facts = read_record(directory / "environment.json", "the facts of a run's environment")
        except StoreError:
            continue
        for name, value in (facts or {}).items():
            values = pooled.setdefault(plain(name), [])
            if plain(str(value)) not in values:
                values.append(plain(str(value)))
    return {name: values for name, values in pooled.items() if name != "host"}


def setting_words(recipe: Recipe, name: str, value: Any) -> str:
    """Return a setting as a reader says it, for example `warmup 5 epochs` or `30,720 images a step (40x6x128)`."""
    typed = getattr(recipe, name)
    if isinstance(typed, WorkerGrid):
        return f"{typed.global_batch:,} images a step ({typed})"
    if isinstance(typed, Duration):
        unit = {"ep": "epoch", "st": "step", "im": "image"}[typed.unit] + ("" if typed.amount == 1 else "s")
        return f"{name} {float(typed.amount):,g} {unit}" if typed.amount else f"no {name}"
    return f"{name.replace('_', ' ')} {value}"


def setting_number(cell: CellResults, name: str, steps_per_epoch: int | None = None) -> float | None:
    """Return a setting as a number for an axis: epochs, images a step or the number itself; None when it has none.

    `steps_per_epoch` converts steps and images to epochs while the cell itself has no complete run.
    """
    recipe = cell.cell.recipe
    typed = getattr(recipe, name)
    if isinstance(typed, WorkerGrid):
        return float(typed.global_batch)
    if isinstance(typed, Duration):
        steps = cell.steps_per_epoch or steps_per_epoch
        return None if typed.unit != "ep" and steps is None else typed.epochs(steps or 1, recipe.grid.global_batch)
    return float(typed) if isinstance(typed, (int, float)) and not isinstance(typed, bool) else None


def setting_unit(recipe: Recipe, name: str) -> str:
    """Return the unit of `setting_number`."""
    typed = getattr(recipe, name)
    return "epochs" if isinstance(typed, Duration) else "images" if isinstance(typed, WorkerGrid) else name
