"""The two sides of a certificate: a cell of a study, named as `study status` shows it, and its runs, verified by the file.

Nothing is taken on trust that can be checked: weights are hashed again and compared with the result that names them, the
seal of their file is verified, and the result must agree with the run's other records.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from widestep.errors import NumericError, StoreError, UsageError
from widestep.plan.plain import plain
from widestep.plan.recipe import Recipe
from widestep.plan.recipes import load
from widestep.records.reading import read_record
from widestep.records.result import RunResult
from widestep.records.run import Run
from widestep.records.weights import read_weights
from widestep.report.results import CellResults, Missing, StudyResults
from widestep.study.study import as_written

FILES = (
    "recipe.toml",
    "environment.json",
    "epochs.csv",
    "ledger.jsonl",
    "history.jsonl",
    "result.json",
    "checkpoints/final.safetensors",
)
"""What is hashed of every run; recipe, environment, ledger, result and weights must be there."""
_NEEDED = ("recipe.toml", "environment.json", "ledger.jsonl", "result.json", "checkpoints/final.safetensors")
_MOST_SAID = 3


@dataclass(frozen=True)
class Evidence:
    """One run: its place under the study's directory, outcome, environment, and the SHA-256 of each of its files."""

    place: str
    result: RunResult
    environment: dict[str, Any]
    files: dict[str, str]

    def record(self) -> dict[str, Any]:
        """Return what a certificate says of the run."""
        result = self.result
        return {
            "seed": result.seed,
            "directory": self.place,
            "recipe_fingerprint": result.recipe_fingerprint,
            "val_correct": result.val_correct,
            "val_images": result.val_images,
            "weights_sha256": result.weights_sha256,
            "steps": result.steps,
            "train_images_seen": result.train_images_seen,
            "wall_seconds": result.wall_seconds,
            "files_sha256": self.files,
        }


@dataclass(frozen=True)
class Side:
    """One side: the name of its cell, the cell, the evidence by seed in the study's order, and the study's directory."""

    name: str
    cell: CellResults
    runs: dict[int, Evidence]
    study: Path

    @property
    def recipe(self) -> Recipe:
        """The recipe that stands for all seeds."""
        return self.cell.cell.recipe

    def directories(self) -> dict[int, Path]:
        """Return the runs' directories by seed."""
        return {seed: self.study / run.place for seed, run in self.runs.items()}

    def accuracies(self) -> list[float]:
        """Return the final accuracies in percent, by seed."""
        return [100.0 * run.result.val_accuracy for run in self.runs.values()]


def cell_name(cell: CellResults) -> str:
    """Return the name of a cell, for example `warmup-40[warmup=5ep]`; an arm of one cell has the arm's."""
    settings = as_written(cell.cell.settings)
    return f"{cell.cell.arm}[{settings}]" if settings else cell.cell.arm


def find_cell(results: StudyResults, name: str) -> CellResults:
    """Return the cell that a name means: an arm that has one cell, or `ARM[FIELD=VALUE, ...]` with every axis of the arm.

    Raises
    ------
    UsageError
        When there is none, or an arm has several.
    """
    if name in results.arms and len(results.arms[name]) == 1:
        return results.arms[name][0]
    wanted = _squeezed(name)
    for cells in results.arms.values():
        for cell in cells:
            if _squeezed(cell_name(cell)) == wanted:
                return cell
    cells = results.arms.get(name) or results.arms.get(name.partition("[")[0].strip()) or []
    if cells:
        known = ", ".join(plain(cell_name(cell)) for cell in cells)
        raise UsageError(
            f"A side of a certificate is one setting. Got {plain(name)!r}; the settings of this arm are {known}."
        )
    known = ", ".join(map(plain, results.arms))
    raise UsageError(f"A side of a certificate is an arm of the study. Got {plain(name)!r}; the arms are {known}.")


def _squeezed(text: str) -> str:
    return "".join(text.split()).replace('"', "'")


def read_side(results: StudyResults, name: str) -> Side:
    """Read one side of a certificate and verify its runs.

    Raises
    ------
    UsageError
        When the name means no cell, or runs of it are missing.
    NumericError
        When runs diverged: what has no accuracy cannot preserve it.
    StoreError
        When files are damaged, or do not agree with one another.
    """
    cell = find_cell(results, name)
    _check_complete(cell)
    runs = {}
    for seed in results.study.seeds:
        recipe = cell.cell.recipe.model_copy(update={"seed": seed})
        runs[seed] = _read_run(results.directory, recipe)
    return Side(cell_name(cell), cell, runs, results.directory)


def _check_complete(cell: CellResults) -> None:
    where = plain(cell_name(cell))
    damaged = [one for one in cell.outcomes.values() if isinstance(one, Missing) and one.is_damaged]
    if damaged:
        reason = damaged[0].reason.rstrip(".")
        raise StoreError(f"A certificate rests on whole records. A run of {where} is damaged: {reason}.")
    if cell.missing:
        raise UsageError(
            f"A certificate rests on every seed that the study declares. {where} has no result with "
            f"{_listed(cell.missing)}; finish the study with widestep study run, or retry."
        )
    if cell.diverged:
        raise NumericError(
            f"Accuracy is preserved only where training ends. {where} diverged with {_listed(cell.diverged)}; a run "
            "without an accuracy cannot be certified."
        )


def _listed(seeds: list[int]) -> str:
    said = ", ".join(str(seed) for seed in seeds[:_MOST_SAID])
    return f"seed{'s' if seeds[1:] else ''} {said}{' and more' if seeds[_MOST_SAID:] else ''}"


def _read_run(study: Path, recipe: Recipe) -> Evidence:
    place = f"trials/{recipe.fingerprint}"
    run = Run(study / place, recipe)
    files = {name: _sha256(run.directory / name) for name in FILES if (run.directory / name).is_file()}
    absent = [name for name in _NEEDED if name not in files]
    if absent:
        raise StoreError(f"A certificate rests on a run's own records. {place} lacks {', '.join(absent)}; run it again.")
    result = run.result()
    environment = read_record(run.directory / "environment.json", "the facts of a run's environment")
    assert result is not None
    _check_agreement(run, place, result)
    return Evidence(place, result, environment or {}, files)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"A certificate hashes a run's files. {path} cannot be read: {error.strerror}.") from None


def _check_agreement(run: Run, place: str, result: RunResult) -> None:
    """Refuse a run whose records contradict one another: something was changed after it had ended."""
    if load(str(run.directory / "recipe.toml")).recipe.fingerprint != run.recipe.fingerprint:
        raise _edited(place, "recipe.toml is not the recipe that the study asks for")
    saved = read_weights(run.directory / "checkpoints" / "final.safetensors")
    facts, names = saved.facts, ("digest", "weights", "recipe", "number of steps")
    claimed = (result.weights_sha256, result.weights_sha256, result.recipe_fingerprint, result.steps)
    recorded = (facts.get("sha256_of_weights"), saved.weights_sha256, facts.get("recipe"), facts.get("step"))
    wrong = [name for name, one, other in zip(names, claimed, recorded, strict=True) if one != other]
    if wrong:
        raise _edited(place, f"result.json and the saved weights differ in their {' and '.join(wrong)}")
    for name in ("val_correct", "val_images"):
        if name in facts and facts[name] != getattr(result, name):
            raise _edited(place, f"result.json says {name} {getattr(result, name)}, the saved weights {facts[name]}")
    if result.val_images < 1 or abs(result.val_correct / result.val_images - result.val_accuracy) > 1e-12:
        raise _edited(place, "the accuracy in result.json is not that of its counts")
    last = (run.read_epochs() or [{}])[-1]
    counted = (last.get("val_correct"), last.get("val_images"))
    if counted != (result.val_correct, result.val_images):
        raise _edited(place, "result.json does not agree with the last line of epochs.csv")
    ended = [event for event in run.history() if event.get("event") == result.status]
    if not ended or ended[-1].get("step") != result.steps:
        raise _edited(place, "result.json does not agree with history.jsonl")


def _edited(place: str, what: str) -> StoreError:
    return StoreError(f"The records of a run agree with one another. Those of {place} do not: {what}; run it again.")
