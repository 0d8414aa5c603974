"""Batch-norm statistics: the same weights under every policy, differences paired by seed, with n."""

import csv
import json
import math

import numpy as np
import pytest
from scipy import stats

from widestep.errors import StoreError
from widestep.plan.recipe import Recipe
from widestep.report.batchnorm import COLUMNS, batchnorm_rows, batchnorm_table, group, lines, read_policies, study_groups
from widestep.report.build import build_report, build_run_report
from widestep.report.results import read_study
from widestep.study import study as studies

VAL = 1000
CORRECT = {
    "mean": [950, 960, 955, 940],
    "worker0": [930, 950, 940, 915],
    "precise": [951, 960, 958, 942],
}


def record(correct, used="mean", loss=0.25):
    policies = {
        name: {"val_correct": right, "val_images": VAL, "val_accuracy": right / VAL, "val_loss": loss}
        for name, right in correct.items()
    }
    return {"step": 100, "evaluated_with": used, "policies": policies}


def of_seed(seed, *, only=("mean", "worker0", "precise")):
    return {name: CORRECT[name][seed] for name in reversed(only)}


@pytest.fixture
def places(tmp_path):
    """`places({seed: record or text or None})` writes files and returns the directories by seed."""

    def write(records):
        found = {}
        for seed, one in records.items():
            found[seed] = tmp_path / str(seed)
            found[seed].mkdir(exist_ok=True)
            if one is not None:
                (found[seed] / "batchnorm.json").write_text(one if isinstance(one, str) else json.dumps(one))
        return found

    return write


def test_differences_are_paired_by_seed(places):
    of = group("arm", "setting", places({seed: record(of_seed(seed)) for seed in range(4)}))
    shown = {one.policy: one for one in lines([of], 0.95)}
    assert list(shown) == ["mean", "worker0", "precise"]  # in the order of the recipe's documentation
    for policy, correct in CORRECT.items():
        percent = 100 * np.array(correct) / VAL
        assert shown[policy].accuracy.mean == pytest.approx(percent.mean())
        low, high = stats.t.interval(0.95, 3, percent.mean(), stats.sem(percent))
        assert (shown[policy].accuracy.low, shown[policy].accuracy.high) == pytest.approx((low, high))
    assert shown["mean"].difference is None
    # worker0 - mean: -2.0, -1.0, -1.5, -2.5 points: mean -1.75, sd 0.6455, t(0.975; 3) = 3.1824
    difference = shown["worker0"].difference
    assert (difference.n, difference.mean) == (4, pytest.approx(-1.75))
    half = 3.18245 * math.sqrt(5 / 12) / 2
    assert (difference.low, difference.high) == pytest.approx((-1.75 - half, -1.75 + half), rel=1e-5)


def test_the_table(places):
    files = {0: record(of_seed(0)), 1: record(of_seed(1), "precise"), 2: None, 3: "{"}
    of = group("arm", "setting", places(files))
    table = batchnorm_table([of], 0.95)
    assert table.headers[:5] == ["arm", "setting", "policy", "used by the runs", "n"]
    assert [row[:6] for row in table.rows] == [
        ["arm", "setting", "mean", "1 of 2", "2", "95.50"],
        ["arm", "setting", "worker0", "", "2", "94.00"],
        ["arm", "setting", "precise", "1 of 2", "2", "95.55"],
    ]
    # -2.0 and -1.0: sd 0.7071, t(0.975; 1) = 12.706, so +-6.35; +0.1 and 0.0 likewise +-0.635
    assert [row[7:] for row in table.rows] == [["–", ""], ["−1.50", "[−7.85, +4.85]"], ["+0.05", "[−0.59, +0.69]"]]
    assert "2 complete run(s) of these settings have no usable batchnorm.json and are left out" in table.words
    assert "t-intervals at 95 % over seeds." in table.words


def test_one_seed_has_no_interval(places):
    table = batchnorm_table([group("", "run", places({7: record(of_seed(0))}))], 0.95)
    assert table.rows[0] == ["run", "mean", "yes", "1", "95.00", "", "–", ""]
    assert table.rows[1] == ["run", "worker0", "", "1", "93.00", "", "−2.00", ""]
    assert "over seeds, which one seed does not have." in table.words


def test_a_policy_that_not_every_run_has(places):
    files = {
        0: record(of_seed(0)),
        1: record(of_seed(1, only=("worker0",)), "worker0"),
        2: record(of_seed(2, only=("mean",))),
    }
    rows = batchnorm_table([group("", "run", places(files))], 0.95).rows
    assert [row[1:5] for row in rows] == [
        ["mean", "yes", "2", "95.25"],
        ["worker0", "1 of 2", "2", "94.00"],
        ["precise", "", "1", "95.10"],
    ]
    assert [row[6] for row in rows] == ["–", "−2.00 (n = 1)", "+0.10"]


def test_numbers_for_a_spreadsheet(places):
    of = group("arm", "setting", places({5: record(of_seed(0), loss=None), 6: record(of_seed(1))}))
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in batchnorm_rows([of], 0.95)]
    assert [(row["policy"], row["seed"], row["n"]) for row in rows[3:6]] == [
        ("worker0", "all", 2),
        ("worker0", 5, 1),
        ("worker0", 6, 1),
    ]
    assert (rows[4]["accuracy_percent"], rows[4]["minus_mean_points"]) == pytest.approx((93.0, -2.0))
    assert (rows[4]["val_loss"], rows[5]["val_loss"]) == (None, 0.25)
    assert (rows[0]["num_used"], rows[1]["num_used"], rows[4]["num_used"]) == (2, 1, 0)
    assert rows[0]["minus_mean_points"] is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"policies": {}}', '{"evaluated_with": "mean", "policies": [1]}']
    + [
        json.dumps({"evaluated_with": "mean", "policies": {"mean": {"val_accuracy": value, "val_loss": 0.1}}})
        for value in (None, "x", -0.1, 1.5)
    ],
)
def test_damage_is_named(tmp_path, text):
    (tmp_path / "batchnorm.json").write_text(text)
    with pytest.raises(StoreError, match=r"batchnorm\.json.*damaged"):
        read_policies(tmp_path)


def test_no_file_is_no_damage(tmp_path):
    assert read_policies(tmp_path) is None


@pytest.fixture
def study(tmp_path, small_text, fakes):
    found = studies.changed(studies.parse(small_text.partition("[[figures]]")[0]), seeds=4)
    return found, fakes.study(
        tmp_path / "s", found, lambda cell, seed, rng: fakes.planned(800 + seed, "complete" if seed else "diverged")
    )


def test_a_study(study):
    found, directory = study
    build_report(directory)
    page = (directory / "report" / "index.html").read_text()
    assert "Batch-norm statistics" not in page
    assert not (directory / "report" / "batchnorm.csv").exists()
    for cell in found.cells("rule"):
        for seed in found.seeds:
            (directory / "trials" / cell.fingerprint(seed) / "batchnorm.json").write_text(json.dumps(record(of_seed(seed))))
    groups = study_groups(read_study(directory))
    assert [(one.arm, one.setting, list(one.runs)) for one in groups][-3:] == [
        ("rule", f"scaling {rule}", [1, 2, 3]) for rule in ("linear", "sqrt", "none")
    ]  # a diverged run has no accuracy, whatever lies beside it
    build_report(directory)
    assert "<h2>Batch-norm statistics</h2>" in (directory / "report" / "index.html").read_text()
    with (directory / "report" / "batchnorm.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["n"] for row in rows if row["seed"] == "all"} == {"3"}
    assert len(rows) == len(groups) * 3 * 4


def test_single_runs_of_one_setting_are_seeds_of_it(tmp_path, fakes):
    recipe, places = Recipe(train_images=960, epochs="4ep"), []
    for seed, rate in ((0, 0.1), (1, 0.1), (2, 0.2)):
        place = tmp_path / f"run-{seed}"
        changed = recipe.model_copy(update={"seed": seed, "base_lr": rate})
        fakes.run(place, changed, fakes.planned(800), np.random.default_rng(1))
        (place / "batchnorm.json").write_text(json.dumps(record(of_seed(seed))))
        places.append(place)
    summary = build_run_report(places, tmp_path / "report")
    assert "<h2>Batch-norm statistics</h2>" in summary.page.read_text()
    with (tmp_path / "report" / "batchnorm.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "all" and row["policy"] == "worker0"]
    assert [(row["setting"], row["n"]) for row in rows] == [("run-0 and run-1", "2"), ("run-2", "1")]
    assert [float(row["minus_mean_points"]) for row in rows] == pytest.approx([-1.5, -1.5])
