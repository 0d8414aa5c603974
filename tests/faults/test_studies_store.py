"""Rows 94, 96 and 97: whatever befell a study's files, good trials keep their numbers, and bad ones are named."""

import json
import os
import random
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from study_texts import WARMUPS_FALL

from widestep.cli.main import run
from widestep.lease import as_slot, lease_of_this_process
from widestep.report import build
from widestep.report.plotted import FigureData
from widestep.study.store import StudyStore
from widestep.study.study import parse

LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
STUDY = f"""
name = "small"
title = "Two questions"
recipe = "digits"
seeds = [0, 1, 2]
margin = 0.5
[set]
epochs = "4ep"
[arms.warm]
axes = {{ warmup = ["0ep", "1ep"] }}
[arms.rule]
set = {{ reference_batch = "none" }}
axes = {{ scaling = ["none", "adascale"] }}{WARMUPS_FALL}"""


@pytest.fixture(scope="module")
def finished(writers, tmp_path_factory):
    """A finished study of 12 runs, two of them diverged, with ledgers."""
    study = parse(STUDY)

    def outcome(cell, seed, rng):
        diverged = cell.settings.get("scaling") == "none" and seed > 0
        return writers.Planned(700 + int(rng.integers(100)), "diverged" if diverged else "complete")

    directory = writers.write_study(tmp_path_factory.mktemp("studies") / "small", study, outcome)
    for number, trial in enumerate(sorted((directory / "trials").iterdir())):
        steps = json.loads((trial / "result.json").read_text())["steps"]
        group = {"name": "all", "num_tensors": 3, "lr": 0.1 * number, "weight_decay": 0.0}
        record = {"images": 32, "batchnorm_images": 8, "gradient_scale": 1.0, "image_ids": "x", "groups": [group]}
        (trial / "ledger.jsonl").write_text("".join(json.dumps({"step": step, **record}) + "\n" for step in (0, steps - 1)))
    (directory / "claims").mkdir()
    return directory


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    """A copy to do harm to; syncing and drawing take time and are other tests' business."""
    drawing = build.draw(FigureData(1, "curves", "T", "C"))
    monkeypatch.setattr(build, "draw", lambda data: drawing)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def copied():
        shutil.rmtree(tmp_path / "study", ignore_errors=True)
        return Path(shutil.copytree(finished, tmp_path / "study"))

    return copied


@pytest.fixture
def say(capsys):
    def execute(*words):
        code = run([str(word) for word in words])
        return code, *capsys.readouterr()

    return execute


def statuses(say, directory):
    code, stdout, stderr = say("study", "status", directory, "--json")
    assert code in (0, 1, 75), stderr
    assert "Traceback" not in stderr
    return {row["fingerprint"]: (row["status"], row["val_accuracy"], row["reason"]) for row in json.loads(stdout)}


JUNK = (
    b"",
    b"\0" * 50,
    b"{",
    b"null",
    b"[]",
    b"3",
    b'"x"',
    b"\xff\xfe\0",
    b'{"a":' * 3000,
    b"[" * 100_000,
    b"nan",
    b"{}\n{}\n",
)
JUNK += (b"9" * 5_000, b"<html>", b" " * 1_000_001)
VALUES = (
    None,
    True,
    -1,
    1e308,
    float("nan"),
    float("inf"),
    "x",
    "<script>",
    "=1+1",
    [],
    {},
    10**30,
    2**70,
    "\x1b[31m",
    {"a": 1},
)


def harm(path, rng, everywhere):
    """Damage one file of a trial; say whether anything was changed."""
    content, kind = path.read_bytes(), rng.randrange(10)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif kind == 2:
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
    elif kind == 3:
        path.write_bytes(rng.choice(JUNK))
    elif kind == 4:
        path.write_bytes(content + rng.choice((content, *JUNK)))
    elif kind == 5:
        path.unlink()
        path.mkdir()
    elif kind == 6:
        path.unlink()
        path.symlink_to(rng.choice(("/nonexistent", path.name, "/etc/passwd")))
    elif kind == 7 and path.suffix == ".json":
        values = json.loads(content)
        name = rng.choice([*values, "foreign"])
        values[name] = rng.choice(VALUES)
        path.write_text(json.dumps(values))
    elif kind == 8 and path.suffix in (".csv", ".jsonl"):
        lines = content.split(b"\n")
        at = rng.randrange(len(lines))
        lines[at : at + 1] = rng.choice(
            ([], [lines[at]] * 2, [lines[at] + b",9"], [b"a,b"], [lines[at][:3]], [b"=1+1,<b>,nan"])
        )
        path.write_bytes(b"\n".join(lines))
    elif kind == 9:
        path.write_bytes(rng.choice([other for other in everywhere if other.name == path.name]).read_bytes())


def test_2000_damages_leave_the_good_trials_alone(study, say):  # row 96, G11
    rng, seen = random.Random(96), Counter()
    before = statuses(say, study())
    for _ in range(2_000 if LONG else 60):
        directory = study()
        trials = sorted((directory / "trials").iterdir())
        hurt = rng.sample(trials, rng.choice((1, 1, 2, 4)))
        everywhere = sorted(path for path in directory.rglob("*") if path.is_file())
        for trial in hurt:
            harm(rng.choice(sorted(path for path in trial.iterdir())), rng, everywhere)
        if rng.random() < 0.1:
            (directory / "claims" / f"{rng.choice(trials).name}.1").write_bytes(rng.choice(JUNK))
        after = statuses(say, directory)
        for name, row in before.items():
            if directory / "trials" / name not in hurt:
                assert after[name] == row
            elif after[name][0] == "failed":
                assert after[name][2]
        code, stdout, stderr = say("report", directory)
        assert code == 0, stderr
        num_lost = int(stdout.split(" missing")[0].rsplit(" ", 1)[-1]) if " missing" in stdout.splitlines()[0] else 0
        assert num_lost <= len(hurt)
        page = (directory / "report" / "index.html").read_text()
        assert page.count("<script") in (0, 3), "the page's own, or none where no figure is left"
        assert ("This report is partial" in page) == (num_lost > 0)
        seen.update(row[0] for row in after.values())
        store = StudyStore.open(directory)
        store.forget_failures()
        assert all(state.status != "failed" for state in store.states())
    assert seen["failed"] > 10
    assert seen["complete"] > 100
    print(dict(seen))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("result.json", b"{", "must be a run's result. It is damaged: "),
        ("result.json", b"", "must be a run's result. It is damaged: "),
        ("result.json", b"[1]", "must be a run's result. It is damaged: it holds no named values."),
        ("result.json", b'{"status": "complete"}', "must be a run's result. It is damaged: recipe_fingerprint is missing; "),
        ("result.json", None, "must hold result.json, because its STATUS is complete."),
        ("STATUS", b"diverged\n", "STATUS says diverged, result.json complete."),
        ("STATUS", b"\xff\xfe", "must say how the run stands, in a word. It is damaged"),
    ],
)
def test_a_bad_trial_is_named_with_its_reason(study, say, name, content, reason):  # row 96
    directory = study()
    trial = next(path for path in sorted((directory / "trials").iterdir()) if (path / "STATUS").read_text() == "complete\n")
    if content is None:
        (trial / name).unlink()
    else:
        (trial / name).write_bytes(content)
    assert statuses(say, directory)[trial.name][0] == "failed"
    assert reason in statuses(say, directory)[trial.name][2]
    code, _, stderr = say("study", "status", directory)
    assert code == 1
    assert "failed     " in stderr
    assert str(trial) in stderr.splitlines()[-1]
    code, stdout, _ = say("report", directory)
    assert code == 0
    assert stdout.startswith("9 of 12 complete, 2 diverged, 1 missing\n")
    assert f"damaged  trials/{trial.name}" in stdout


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("val_accuracy", 1.5, "val_accuracy is not at most 1"),
        ("val_accuracy", float("nan"), "val_accuracy is not a finite number of at least 0"),
        ("val_accuracy", "0.9", "val_accuracy is '0.9'"),
        ("val_accuracy", True, "val_accuracy is no such number"),
        ("steps", 10.0, "steps is 10.0"),
        ("steps", -1, "steps is not a finite number of at least 0"),
        ("recipe_fingerprint", "0" * 16, "Its result.json belongs to another recipe."),
        ("foreign", 1, "'foreign' is no part of it"),
        ("status", "perfect", "status is unknown"),
        ("epochs", 10**40, "epochs is not a finite number"),
    ],
)
def test_a_result_holds_what_a_run_can_come_to(study, say, field, value, said):  # row 96
    directory = study()
    trial = sorted((directory / "trials").iterdir())[0]
    values = json.loads((trial / "result.json").read_text())
    (trial / "result.json").write_text(json.dumps({**values, field: value}))
    state, _, reason = statuses(say, directory)[trial.name]
    assert state == "failed"
    assert said in reason


def test_a_report_of_part_of_a_study_says_so_and_one_seed_has_no_interval(study, say):  # row 97
    directory = study()
    kept = {json.loads((path / "result.json").read_text())["seed"]: path.name for path in (directory / "trials").iterdir()}
    assert set(kept) == {0, 1, 2}
    for trial in (directory / "trials").iterdir():
        seed = json.loads((trial / "result.json").read_text())["seed"]
        if seed == 1:
            (trial / "STATUS").write_text("running\n")
        elif seed == 2:
            shutil.rmtree(trial)
    code, stdout, _ = say("report", directory)
    assert code == 0
    assert stdout.startswith("4 of 12 complete, 8 missing\n")
    (finding,) = [one for one in json.loads((directory / "report" / "findings.json").read_text()) if one["claim"] == "falls"]
    assert (finding["n"], finding["interval"], finding["p"], finding["verdict"]) == (1, None, None, "undecided")
    rows = (directory / "report" / "figures" / "figure-1.csv").read_text().splitlines()
    assert rows[0].startswith("setting,seed,accuracy_percent,low,high,n,")
    assert all(row.split(",")[3:5] == ["", ""] for row in rows[1:])
    page = (directory / "report" / "index.html").read_text()
    assert "This report is partial: 8 of 12 trials have no result yet" in page
    assert "n = 1: no interval" in page


def test_a_claim_from_another_host_is_named_with_the_remedy(study, say):  # row 94
    directory = study()
    trial = sorted((directory / "trials").iterdir())[0]
    shutil.rmtree(trial)
    claim = directory / "claims" / f"{trial.name}.1"
    claim.write_bytes(as_slot(replace(lease_of_this_process(1), host="elsewhere", process=7)))
    assert statuses(say, directory)[trial.name][::2] == ("running", "by process 7 on host elsewhere")
    os.utime(claim, (time.time() - 7_200,) * 2)
    words = "without a sign of life for 120 min; whoever works on the study next takes it over"
    assert statuses(say, directory)[trial.name][::2] == ("running", f"by process 7 on host elsewhere, {words}")
    for content in JUNK:
        claim.write_bytes(content)
        assert statuses(say, directory)[trial.name][0] == "missing"
