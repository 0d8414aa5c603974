"""trials.csv: one row for every arm and seed, with what the run wrote down."""

import csv
import io
import json

import pytest

from widestep.report.results import read_study
from widestep.report.trials import COLUMNS, trials_csv
from widestep.study.study import parse

STUDY = """
name = "two"
title = "Two arms that share a cell"
recipe = "digits"
seeds = [3, 4]
margin = 0.5

[arms.batch]
axes = { grid = ["4x1x8", "40x1x8"] }

[arms.warm]
set = { grid = "40x1x8" }
axes = { warmup = ["2ep", "4ep"] }
"""


@pytest.fixture
def table(fakes, tmp_path):
    """Right images: 800 + seed; at 40 workers seed 4 diverged; warmup 4ep never ran with seed 4."""

    def outcome(cell, seed, _rng):
        if str(cell.recipe.warmup) == "4ep" and seed == 4:
            return None
        return fakes.planned(800 + seed, "diverged" if cell.recipe.grid.num_nodes == 40 and seed == 4 else "complete")

    directory = fakes.study(tmp_path / "study", parse(STUDY), outcome)
    return directory, list(csv.DictReader(io.StringIO(trials_csv(read_study(directory)))))


def test_a_row_for_every_arm_and_seed(table):
    _, rows = table
    assert list(rows[0]) == COLUMNS
    found = [(row["arm"], row["seed"], row["outcome"], row["val_correct"]) for row in rows]
    assert found == [
        ("batch", "3", "complete", "803"),
        ("batch", "4", "complete", "804"),
        ("batch", "3", "complete", "803"),
        ("batch", "4", "diverged", ""),
        ("warm", "3", "complete", "803"),
        ("warm", "4", "diverged", ""),
        ("warm", "3", "complete", "803"),
        ("warm", "4", "missing", ""),
    ]
    assert rows[2]["fingerprint"] == rows[4]["fingerprint"] != rows[0]["fingerprint"]
    assert rows[7]["reason"] == "not started"
    assert rows[5]["reason"] == "the loss is not finite at step 12"


def test_the_numbers_are_those_of_the_runs(table):
    directory, rows = table
    for row in rows[:7]:
        result = json.loads((directory / "trials" / row["fingerprint"] / "result.json").read_text())
        for column in COLUMNS[5:]:
            is_hidden = row["outcome"] == "diverged" and ("accuracy" in column or column in ("val_correct", "val_loss"))
            assert row[column] == ("" if is_hidden or result[column] is None else str(result[column]))
