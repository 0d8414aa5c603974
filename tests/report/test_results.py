"""Reading a study directory: what counts, what is missing and why, and what never enters a mean."""

import json

import numpy as np
import pytest

from widestep.errors import UsageError
from widestep.report.results import Diverged, Missing, SeedRun, read_environments, read_study, setting_words
from widestep.study import study as studies
from widestep.study.store import StudyStore
from widestep.study.study import parse


@pytest.fixture
def study(small_text):
    return studies.changed(studies.parse(small_text), seeds=6)


@pytest.fixture
def directory(tmp_path, study, fakes):
    return fakes.study(tmp_path / "s", study, lambda cell, seed, rng: fakes.planned(800 + seed))


def trial(directory, study, arm, index, seed):
    return directory / "trials" / study.cells(arm)[index].fingerprint(seed)


def test_accuracies_and_curves_are_those_of_the_files(directory, study):
    results = read_study(directory)
    cell = results.arms["batch"][1]
    assert cell.accuracies.tolist() == pytest.approx([100 * (800 + seed) / 837 for seed in range(6)])
    lines = (trial(directory, study, "batch", 1, 3) / "epochs.csv").read_text().splitlines()[1:]
    rows = [[float(value) for value in line.split(",")] for line in lines]
    run = cell.complete[3]
    assert run.curves.epochs.tolist() == list(range(1, 37))
    assert run.curves.accuracy.tolist() == pytest.approx([100 * row[7] for row in rows])
    assert run.curves.lr.tolist() == [row[2] for row in rows]
    assert run.steps_per_epoch == 960 // 80
    assert run.median_last5 == pytest.approx(100 * np.median([row[7] for row in rows[-5:]]))
    assert run.best == pytest.approx(100 * max(row[7] for row in rows))


def test_arms_share_trials(directory, study):
    results = read_study(directory)
    assert results.count(SeedRun) == len(results.outcomes) == len(study.trials())
    assert results.arms["batch"][1].complete[0] is results.arms["warm-10"][1].complete[0]


def test_a_diverged_run_has_no_accuracy(tmp_path, study, fakes):
    outcome = fakes.planned(700, "diverged")
    directory = fakes.study(tmp_path / "d", study, lambda cell, seed, rng: outcome if seed == 2 else fakes.planned(800))
    cell = read_study(directory).arms["batch"][0]
    assert cell.outcomes[2] == Diverged("the loss is not finite at step 12")
    assert cell.diverged == [2]
    assert cell.accuracies.tolist() == pytest.approx([100 * 800 / 837] * 5)


def test_collapsed_runs_are_counted_and_kept(tmp_path, study, fakes):
    directory = fakes.study(tmp_path / "c", study, lambda cell, seed, rng: fakes.planned(400 if seed < 2 else 800))
    cell = read_study(directory).arms["batch"][0]
    assert cell.collapsed == [0, 1]
    assert len(cell.accuracies) == 6


def damage_result(**changes):
    def apply(run):
        path = run / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


def fail(run, status):
    (run / "STATUS").write_text(status)
    (run / "result.json").unlink()
    (run / "failure.json").write_text(json.dumps({"reason": "the model <b>\x1b[1m broke"}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: (run / "STATUS").write_text("running\n"), "running"),
        (lambda run: (run / "STATUS").write_text("failed\n"), "failed"),
        (lambda run: (run / "STATUS").unlink(), "not started"),
        (lambda run: fail(run, "failed\n"), "failed: the model <b> [1m broke"),
        (lambda run: fail(run, ""), "failed: the model"),
        (lambda run: (run / "STATUS").write_bytes(b"\xff\xfe"), "must say how the run stands"),
        (lambda run: (run / "result.json").unlink(), "absent"),
        (lambda run: (run / "result.json").write_text('{"status": "comp'), "damaged"),
        (damage_result(recipe_fingerprint="f" * 16), "another recipe"),
        (damage_result(val_accuracy=float("nan")), "finite"),
        (damage_result(val_accuracy=97.1), "at most 1"),
        (damage_result(val_accuracy="0.9"), "val_accuracy is '0.9'"),
        (damage_result(epochs=0), "accuracies after some epochs"),
        (lambda run: (run / "epochs.csv").write_text("epoch,step\n1,2\n"), "columns"),
    ],
)
def test_a_trial_that_cannot_be_used_is_missing_with_its_reason(directory, study, change, reason):
    change(trial(directory, study, "rule", 0, 4))
    results = read_study(directory)
    outcome = results.arms["rule"][0].outcomes[4]
    assert isinstance(outcome, Missing)
    assert reason in outcome.reason
    assert results.count(Missing) == 1


def test_a_torn_last_line_of_the_epochs_is_left_out(directory, study):
    path = trial(directory, study, "rule", 0, 4) / "epochs.csv"
    path.write_text(path.read_text()[:-4])
    assert len(read_study(directory).arms["rule"][0].complete[4].curves.epochs) == 35


def test_two_evaluations_in_one_epoch_count_once(directory, study):
    path = trial(directory, study, "rule", 0, 4) / "epochs.csv"
    lines = path.read_text().splitlines()
    early = lines[2].split(",")
    early[7] = "0.125"
    path.write_text("\n".join([*lines[:2], ",".join(early), *lines[2:]]) + "\n")
    assert read_study(directory).arms["rule"][0].complete[4].curves.epochs.tolist() == list(range(1, 37))
    assert 12.5 not in read_study(directory).arms["rule"][0].complete[4].curves.accuracy


def test_a_directory_without_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds study\.toml"):
        read_study(tmp_path)


def test_environments_are_pooled_without_the_host(tmp_path):
    for name, torch in (("a", "2.12"), ("b", "2.13"), ("c", "2.13")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "environment.json").write_text(json.dumps({"torch": torch, "host": "h"}))
    (tmp_path / "d").mkdir()
    assert read_environments(tmp_path / name for name in "abcd") == {"torch": ["2.12", "2.13"]}


@pytest.mark.parametrize(
    ("arm", "index", "words"),
    [
        ("batch", 2, "320 images a step (40x1x8)"),
        ("warm-40", 0, "no warmup"),
        ("warm-40", 1, "warmup 2 epochs"),
        ("warm-40", 2, "warmup 12 steps"),
        ("rule", 2, "scaling none"),
    ],
)
def test_settings_in_words(study, arm, index, words):
    cell = study.cells(arm)[index]
    [(name, value)] = cell.settings.items()
    assert setting_words(cell.recipe, name, value) == words


SEARCHED = """
name = "searched"
title = "The best warmup is looked for first"
recipe = "digits"
seeds = [0, 1, 2]
margin = 0.5

[arms.best]
from_search = "tune"

[arms.tune]
axes = { grid = ["4x1x8", "40x1x8"] }

[arms.tune.search]
over = { warmup = ["0ep", "4ep"] }
num_trials = 4
seeds = [9]
"""


def test_trials_that_wait_for_a_search_are_missing(tmp_path):
    """Two settings of three seeds, which have no fingerprints yet."""
    StudyStore.create(tmp_path / "s", parse(SEARCHED))
    results = read_study(tmp_path / "s")
    assert (results.num_wanted, results.count(Missing), results.count(SeedRun)) == (6, 6, 0)
