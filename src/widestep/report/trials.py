"""trials.csv: what became of every trial of a study, one row for every arm and seed that it belongs to."""

from dataclasses import fields
from typing import Any

from widestep.plan.plain import csv_text
from widestep.records.result import RunResult
from widestep.report.results import CellResults, Diverged, Missing, Outcome, SeedRun, StudyResults

_WORDS: dict[type[Outcome], str] = {SeedRun: "complete", Diverged: "diverged", Missing: "missing"}
_OF_RESULT = [one.name for one in fields(RunResult) if one.name not in ("status", "seed", "recipe_fingerprint")]
_ACCURACIES = ("val_correct", "val_accuracy", "val_loss", "median_last5_val_accuracy", "best_val_accuracy")
COLUMNS = ["arm", "setting", "seed", "fingerprint", "outcome", *_OF_RESULT]


def trials_csv(results: StudyResults) -> str:
    """Return the trials as a table: arm, setting, seed, fingerprint, outcome, then the fields of result.json.

    A trial that several arms share has a row in each; the tries of a search are in search.csv. A run that diverged has no
    accuracy, so that no mean can contain one. The outcome is `complete`, `diverged`, `missing` (with the reason), or
    `not wanted` where seeds are added only while a claim is open.
    """
    cells = [(arm, cell) for arm, cells in results.arms.items() for cell in cells]
    return csv_text(COLUMNS, [_row(results, arm, cell, seed) for arm, cell in cells for seed in cell.outcomes])


def _row(results: StudyResults, arm: str, cell: CellResults, seed: int) -> list[Any]:
    outcome, name = cell.outcomes[seed], "" if cell.cell.is_open else cell.cell.fingerprint(seed)
    row = [arm, cell.label, seed, name, _WORDS.get(type(outcome), "not wanted")]
    if isinstance(outcome, (SeedRun, Diverged)):
        result = RunResult.read(results.directory / "trials" / name / "result.json").as_dict()
        hidden = _ACCURACIES if isinstance(outcome, Diverged) else ()
        return [*row, *(None if column in hidden else result[column] for column in _OF_RESULT)]
    reason = outcome.reason if isinstance(outcome, Missing) else None
    return [*row, *(reason if column == "reason" else None for column in _OF_RESULT)]
