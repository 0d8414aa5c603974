"""Promise: what docs/results publishes follows from the study file there, and comes out again."""

import csv
import json
import os
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from widestep.plan.recipes import to_toml
from widestep.records.environment import environment
from widestep.records.result import RunResult
from widestep.study.study import Trial, parse, source_text

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs/results/cifar10-cpu"
DATA = Path(os.environ.get("WIDESTEP_DATA") or ROOT.parent / "shared/data")
TOLERANCE = 3.0
"""Points of accuracy: where torch, decoder or processor differ, sums are rounded otherwise; then a seed is another run."""
OF_BYTES = ("torch", "pillow", "simplejpeg", "processor", "system")
STUDY = parse((RESULTS / "study.toml").read_text(encoding="utf-8"))
ROWS = list(csv.DictReader((RESULTS / "trials.csv").read_text(encoding="utf-8").splitlines()))
PAGE = (RESULTS / "README.md").read_text(encoding="utf-8")
T_OF_95 = {5: 2.7764451}
SUMMARY = json.loads((RESULTS / "summary.json").read_text())


def is_like_there() -> bool:
    here = environment()
    return all(SUMMARY["environment"][name] == [str(here[name])] for name in OF_BYTES)


def trial_of(arm: str, seed: int, **settings: str) -> Trial:
    cells = [cell for cell in STUDY.cells(arm) if all(str(cell.settings[name]) == value for name, value in settings.items())]
    (found,) = [trial for trial in STUDY.trials() if trial.fingerprint == cells[0].fingerprint(seed)]
    return found


def test_the_study_is_the_one_that_is_shipped() -> None:
    assert parse(source_text("poster-cifar10-cpu")) == STUDY


def test_the_fingerprints_follow_from_the_study() -> None:
    wanted = [(arm, seed, cell.fingerprint(seed)) for arm in STUDY.arms for cell in STUDY.cells(arm) for seed in STUDY.seeds]
    assert [(row["arm"], int(row["seed"]), row["fingerprint"]) for row in ROWS] == wanted
    assert {row["outcome"] for row in ROWS} <= {"complete", "diverged"}


def test_the_name_that_changed_nothing_has_the_same_weights() -> None:
    """The audit of the knobs: 'none-as-run' trained to the bytes of linear scaling, every seed."""
    of_seed: dict[str, dict[str, str]] = {}
    for row in ROWS:
        if row["arm"] == "as-poster-1200":
            of_seed.setdefault(row["seed"], {})[row["setting"]] = row["weights_sha256"]
    for weights in of_seed.values():
        (as_run,) = (digest for setting, digest in weights.items() if "as-run" in setting)
        (linear,) = (digest for setting, digest in weights.items() if "per-worker" in setting)
        assert as_run == linear
        assert len(set(weights.values())) == 2


@pytest.mark.skipif(
    not (DATA / "cifar10-jpeg").is_dir(), reason="set WIDESTEP_DATA to the directory that holds cifar10-jpeg"
)
def test_a_published_cell_comes_out_again(command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WIDESTEP_DATA", str(DATA))
    trial = trial_of("baseline", 1, grid="40x6x5")
    (tmp_path / "recipe.toml").write_text(to_toml(trial.recipe))
    found = command("train", "--recipe", tmp_path / "recipe.toml", "--device", "cpu", "--out", tmp_path / "run")
    assert found.code == 0, found.stderr
    result = RunResult.read(tmp_path / "run/result.json")
    (published,) = (row for row in ROWS if row["arm"] == "baseline" and row["fingerprint"] == result.recipe_fingerprint)
    if is_like_there():
        assert result.weights_sha256 == published["weights_sha256"]
        assert result.val_correct == int(published["val_correct"])
    else:
        assert 100 * abs(result.val_accuracy - float(published["val_accuracy"])) < TOLERANCE


def percent(values: list[float]) -> str:
    """Mean with its 95 % t-interval, from a table of the t distribution."""
    half = T_OF_95[len(values)] * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):.2f} [{fmean(values) - half:.2f}, {fmean(values) + half:.2f}]"


def test_the_page_says_what_the_trials_came_to() -> None:
    expected: dict[tuple[str, str], list[float]] = {}
    for row in ROWS:
        expected.setdefault((row["arm"], row["setting"]), []).append(100 * float(row["val_accuracy"]))
    text = PAGE.partition("## Every setting")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")][1:]
    rows = [[arm, "adascale-1200" if arm == "adascale-1200" else setting, *rest] for arm, setting, *rest in rows]
    assert [(arm, setting) for arm, setting, *_ in rows] == list(expected)
    assert [accuracy for _, _, accuracy, *_ in rows] == [percent(values) for values in expected.values()]


def test_the_page_says_what_was_found() -> None:
    findings = json.loads((RESULTS / "findings.json").read_text())
    lines = {line[2]: line for line in PAGE.splitlines() if re.match(r"\| [a-e]\. ", line)}
    assert {*lines} <= {found["claim"] for found in findings}
    for found in findings:
        if found["claim"] in lines:
            line, (low, high) = lines[found["claim"]], found["interval"]
            assert f"**{found['verdict']}**" in line
            assert f"{found['effect']:+.2f}" in line
            assert f"[{low:.2f}, {high:.2f}]" in line
    assert sorted(lines) == sorted(STUDY.claims) == list("abcde")
