"""`study run --until decided` through its whole life, with trials that come to what a plan says instead of being trained."""

import json
from collections import Counter

import pytest

from widestep.cli import study as study_command
from widestep.cli.main import run
from widestep.report import sequential
from widestep.study.store import StudyStore
from widestep.study.study import parse
from widestep.study.work import work

TEXT = """
name = "planted"
title = "One large effect, one small, one at the margin"
recipe = "digits"
seeds = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
margin = 1.0
device = "cpu"

[sequential]
first = 4
step = 3

[arms.batch]
axes = { grid = ["4x1x8", "10x1x8", "40x1x8"] }

[arms.warm]
set = { grid = "40x1x8" }
axes = { warmup = ["0ep", "2ep", "4ep"] }

[arms.rule]
set = { grid = "20x1x8" }
axes = { scaling = ["linear", "none"] }

[claims.falls]
text = "Accuracy falls."
test = "falls"
arms = ["batch"]
axis = "grid"

[claims.worst]
text = "No warmup is worst."
test = "worst"
arms = ["warm"]
axis = "warmup"

[claims.same]
text = "Scaling makes no difference."
test = "equivalent"
arms = ["rule"]
axis = "scaling"

[[figures]]
number = 1
kind = "final"
arm = "warm"
title = "Warmup"
"""

NOISE = {
    "batch": [[0, 2, -1, 1, 0, 2, -2, 1, 0, 1], [0] * 10, [1, -1, 0, 2, -1, 0, 1, 0, -2, 1]],
    "warm": [[0, 2, 1, -2, 1, -1, 0, 2, 1, -1], None, [-1, 1, 2, 0, -1, 2, 1, -1, 0, 2]],
    "rule": [[3, -8, 6, -7, 9, -4, 2, -9, 8, -3], [-6, 7, -5, 8, -9, 3, -4, 9, -7, 5]],
}
"""Right images of 837 beside the cell's usual number, by seed; warmup 2ep is the last batch."""
USUAL = {"batch": [800, 790, 740], "warm": [600, None, 748], "rule": [780, 788]}


def planted(study):
    """Right images of every trial by fingerprint."""
    found = {}
    for arm, rows in NOISE.items():
        for cell, noise, usual in zip(study.cells(arm), rows, USUAL[arm], strict=True):
            for place, seed in enumerate(study.seeds):
                if noise is not None:
                    found[cell.fingerprint(seed)] = usual + noise[place]
    return found


class PowerCut(BaseException):
    """Ends a command at once, as a killed process ends."""


@pytest.fixture
def life(empty, say, fake, monkeypatch):
    """`life(limit)` runs the study, cutting power after so many trials; `life.executed` counts what was run."""

    class Life:
        def __init__(self):
            self.executed, self.stages, self.fails, self.left = Counter(), [], set(), 0

        def __call__(self, *words, limit=10**6, directory="d"):
            (empty / "planted.toml").write_text(TEXT)
            self.left = limit
            try:
                return say(f"study run planted.toml --until decided --out {directory} --jobs 1", *words)
            except PowerCut:
                return None

        def store(self, directory="d"):
            return StudyStore.open(empty / directory)

    found = Life()

    class Crew:
        def __init__(self, store, number, device):
            self.store = store

        def watch(self, show):
            right = planted(self.store.study)
            found.stages.append(len(self.store.trials))

            def execute(trials):
                for trial in trials:
                    if found.left == 0:
                        raise PowerCut
                    found.left -= 1
                    if trial.fingerprint in found.fails:
                        raise OSError("no such luck")
                    fake.finish(self.store.run(trial), val_correct=right[trial.fingerprint])
                    found.executed[trial.fingerprint] += 1

            work(self.store, execute)
            show()

    monkeypatch.setattr(study_command, "Crew", Crew)
    return found


def looks(directory):
    return [path.read_text() for path in sorted((directory / "looks").glob("*.json"))]


def test_seeds_are_added_where_a_claim_is_open(life, empty):
    """Seven settings. Batch: -60 of 837 images, spread 2: decided by 4 seeds. Warmup: -140 to -148: too. Rule: -8 of
    837 are 0.96 points, spread 1.6: 10 seeds leave it open. The middle batch serves no claim."""
    found = life()
    assert found.code == 0, found.stderr
    study = life.store().study
    assert life.stages == [28, 28 + 2 * 3, 28 + 2 * 6]
    assert set(life.executed.values()) == {1}
    expected = {cell.fingerprint(seed) for arm in study.arms for cell in study.cells(arm) for seed in study.seeds[:4]}
    expected |= {cell.fingerprint(seed) for cell in study.cells("rule") for seed in study.seeds}
    assert set(life.executed) == expected
    assert [line for line in found.stderr.splitlines() if line.startswith("look")] == [
        "look       1 after 4 seeds, decided: falls supported, worst supported; open: same",
        "look       2 after 7 seeds, nothing new decided; open: same",
        "look       3 after 10 seeds, nothing new decided; open: same",
    ]
    assert "Until decided: 40 of 70 runs after look 3; saved 30." in found.lines


def test_the_report_says_how_it_was_judged(life, empty, say):
    life()
    assert say("report d --poster").code == 0
    findings = {one["claim"]: one for one in json.loads((empty / "d" / "report" / "findings.json").read_text())}
    assert [findings[name]["verdict"] for name in ("falls", "worst", "same")] == ["supported", "supported", "undecided"]
    assert findings["falls"]["look"] == {"look": 1, "num_looks": 3, "seeds": 4, "num_seeds": 10}
    assert (findings["falls"]["n"], findings["same"]["n"]) == (4, 10)
    assert findings["falls"]["test"] == "group-sequential paired t, Holm over 3 claims"
    assert findings["falls"]["detail"].startswith("Decided at look 1, after 4 of at most 10 seeds.")
    assert findings["same"]["detail"].startswith("Not decided by the 10 seeds that the study may use.")
    saved = findings["sequential"]["sequential"]
    assert (saved["num_runs"], saved["num_runs_fixed"], saved["num_saved"]) == (40, 70, 30)
    page = (empty / "d" / "report" / "index.html").read_text()
    assert "Until decided: 40 of 70 runs after look 3; saved 30." in page
    assert "Lan and DeMets" in page
    assert "missing</li>" not in page
    assert "p: no difference (paired t, over all looks so far)" in page
    poster = json.loads((empty / "d" / "report" / "poster.json").read_text())
    method = next(one["text"] for one in poster["texts"] if "compared in pairs" in one["text"])
    assert "up to 10 seeds" in method
    assert "× up to 10 seeds" in poster["texts"][1]["text"]
    assert "Wilcoxon" not in method
    status = say("study status d")
    assert status.code == 0
    assert "look       2 after 7 seeds, nothing new decided; open: same" in status.lines


@pytest.mark.parametrize("limits", [[0, 1, 27], [30, 2, 0, 5]])
def test_a_killed_study_decides_the_same(life, empty, limits):
    life("--no-report", directory="undisturbed")
    executed, life.executed = life.executed, Counter()
    for limit in limits:
        assert life("--no-report", limit=limit) is None
    assert life("--no-report").code == 0
    assert life.executed == executed
    assert looks(empty / "d") == looks(empty / "undisturbed")
    assert (empty / "d" / "status.csv").read_text() == (empty / "undisturbed" / "status.csv").read_text()


@pytest.mark.parametrize("number", [1, 3])
def test_killed_while_a_look_is_written(life, empty, monkeypatch, number):
    life("--no-report", directory="undisturbed")
    life.executed.clear()
    write = sequential.write_look

    def cut(directory, look):
        if look.look == number:
            raise PowerCut
        write(directory, look)

    with monkeypatch.context() as patch:
        patch.setattr(sequential, "write_look", cut)
        assert life("--no-report") is None
    assert len(looks(empty / "d")) == number - 1
    assert life("--no-report").code == 0
    assert looks(empty / "d") == looks(empty / "undisturbed")
    assert set(life.executed.values()) == {1}


def test_between_two_looks_it_is_not_over(life, empty, say):
    life("--no-report", limit=27)
    found = say("study status d")
    assert (found.code, found.lines[-1]) == (75, "27 complete, 1 missing")
    say("report d")
    page = (empty / "d" / "report" / "index.html").read_text()
    assert "no look was taken yet, and 28 of at most 70 runs are wanted so far" in page
    findings = json.loads((empty / "d" / "report" / "findings.json").read_text())
    assert {one["verdict"] for one in findings} == {"undecided"}


def test_a_look_waits_for_what_failed(life, empty, say):
    (empty / "planted.toml").write_text(TEXT)
    trial = parse(TEXT).trials()[1]
    life.fails.add(trial.fingerprint)
    found = life("--no-report")
    assert found.code == 1
    assert "look       number 1 waits for an outcome of every trial; 1 have none" in found.stderr
    assert looks(empty / "d") == []
    assert not (empty / "d" / "looks").exists()
    life.fails.clear()
    assert say("study retry d --no-report").code == 0
    assert len(looks(empty / "d")) == 3
    assert set(life.executed.values()) == {1}


def test_a_sequential_study_is_not_judged_as_a_fixed_one(life, empty, say):
    life("--no-report", limit=10)
    found = say("study run planted.toml --out d --jobs 1")
    assert found.code == 2
    assert "d was begun with --until decided and has results; give --until decided again" in found.stderr
    found = life("--seeds", 6)
    assert found.code == 2
    assert "They changed although trials in d have finished" in found.stderr


def test_a_fixed_study_is_not_judged_as_a_sequential_one(life, empty, say):
    (empty / "planted.toml").write_text(TEXT)
    life.left = 5
    with pytest.raises(PowerCut):
        run(["study", "run", "planted.toml", "--out", "d", "--jobs", "1"])
    found = life()
    assert found.code == 2
    assert "begun with all seeds at once and has results; leave out --until decided" in found.stderr


def test_all_seeds_run_without_the_option(life, empty, say):
    (empty / "planted.toml").write_text(TEXT)
    life.left = 1000
    assert say("study run planted.toml --out d --jobs 1").code == 0
    assert len(life.executed) == 70
    assert not (empty / "d" / "looks").exists()
    assert "Until decided" not in (empty / "d" / "report" / "index.html").read_text()


def test_fewer_seeds_are_the_most_that_there_may_be(life, empty):
    assert life("--seeds", 5, "--no-report").code == 0
    assert [json.loads(look)["seeds"] for look in looks(empty / "d")] == [4, 5]


def test_a_lost_run_is_noticed_in_the_report(life, empty, say):
    life()
    cell = life.store().study.cells("batch")[2]
    for seed in (10, 11, 12):
        (empty / "d" / "trials" / cell.fingerprint(seed) / "result.json").unlink()
        (empty / "d" / "trials" / cell.fingerprint(seed) / "STATUS").unlink()
    say("report d")
    assert "no longer give the verdicts that the last look recorded on falls" in (empty / "d/report/index.html").read_text()


def test_a_plan_shows_how_many_runs_to_expect(say, empty):
    (empty / "planted.toml").write_text(TEXT)
    found = json.loads(say("study plan planted.toml --until decided --json").stdout)
    planned = found["until_decided"]
    assert (planned["looks"], planned["fewest"], planned["most"]) == ([4, 7, 10], 28, 70)
    assert (found["trials"], found["to_run"]) == (28, 28)
    runs = [one["num_runs"] for one in planned["expected"]]
    assert runs == sorted(runs, reverse=True)
    assert 60 < runs[0] <= 64  # six settings that a claim compares have 10 seeds when nothing differs, the other has 4
    lines = say("study plan planted.toml --until decided").lines
    assert "looks      after 4, 7, 10 seeds, obrien-fleming spending" in lines
    assert "now        the next look needs 28 trials, 28 to run" in lines
    assert list(empty.iterdir()) == [empty / "planted.toml"]
