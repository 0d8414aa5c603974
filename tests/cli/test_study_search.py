"""`study run` of a study that searches, through its whole life, with runs of a known accuracy instead of training."""

import json
from collections import Counter

import pytest

from widestep.cli import study as study_command
from widestep.cli import study_pruning
from widestep.records.run import EPOCH_COLUMNS
from widestep.study import sampling
from widestep.study.searching import Giving, extend
from widestep.study.store import StudyStore
from widestep.study.study import parse
from widestep.study.work import execution_of, work
from widestep.train.stop import StopRequest
from widestep.workers.launched import Launch
from widestep.workers.world import World

TEXT = """
name = "tuned"
title = "The best warmup and rate"
recipe = "digits"
seeds = [0, 1, 2]
margin = 0.5
device = "cpu"

[arms.tune]
axes = { grid = ["4x1x8", "40x1x8"] }
search = { over = { warmup = ["0ep", "20ep"], base_lr = [0.01, 1.0] }, num_trials = 6, seeds = [90], at_a_time = 3 }

[arms.tuned]
from_search = "tune"
set = { stack = 3 }

[arms.usual]
axes = { grid = ["4x1x8", "40x1x8"] }

[claims.falls]
text = "It falls."
test = "falls"
arms = ["tuned"]
axis = "grid"

[[figures]]
number = 1
kind = "final"
arm = "tuned"
title = "At the best"
"""


class PowerCut(BaseException):
    """Ends a command at once, as a killed process ends."""


@pytest.fixture
def life(empty, say, fake, monkeypatch):
    """`life(limit)` runs the study, cutting power after so many trials; `life.executed` counts what was run."""

    class Life:
        def __init__(self):
            self.executed, self.left, self.fails = Counter(), 0, set()

        def __call__(self, *words, limit=10**6, directory="d"):
            (empty / "tuned.toml").write_text(TEXT)
            self.left = limit
            try:
                return say(f"study run tuned.toml --out {directory} --jobs 1", *words)
            except PowerCut:
                return None

    found = Life()

    class Crew:
        def __init__(self, store, number, device):
            self.store = store

        def watch(self, show):
            def execute(trials):
                for trial in trials:
                    if found.left == 0:
                        raise PowerCut
                    found.left -= 1
                    if trial.seed in found.fails:
                        raise OSError("no such luck")
                    right = 800 - int(trial.recipe.warmup.amount) - (100 if trial.recipe.grid.num_workers > 4 else 0)
                    fake.finish(self.store.run(trial), val_correct=right + trial.seed % 3)
                    found.executed[trial.fingerprint] += 1
                    show()

            work(self.store, execute)

    monkeypatch.setattr(study_command, "Crew", Crew)
    return found


def test_the_best_is_sought_and_run_with_the_study_s_seeds(life, empty, say):
    found = life()
    assert found.code == 0, found.stderr
    assert "trials     12 so far, at most 24, 12 to run" in found.stderr
    assert sum(life.executed.values()) == len(life.executed) == 2 * 6 + 2 * 3 + 2 * 3
    lines = [line for line in found.lines if line.startswith("search     tune grid ")]
    assert [line.split(";")[0] for line in lines] == [
        "search     tune grid 4x1x8: 6 of at most 6 tried",
        "search     tune grid 40x1x8: 6 of at most 6 tried",
    ]
    study = StudyStore.open(empty / "d").study
    proposed = [json.loads((empty / f"d/search/tune/{number}.json").read_text())["proposals"] for number in (1, 2)]
    for cell, key in zip(study.cells("tuned"), proposed[0], strict=True):
        warmups = [int(one["warmup"].removesuffix("ep")) for together in proposed for one in together[key]]
        assert cell.settings["warmup"] == f"{min(warmups)}ep"
    status = say("study status d")
    assert (status.code, [line for line in status.lines if line.startswith("search")]) == (0, lines)
    assert "24 complete" in status.lines


def test_the_report_tells_of_the_search(life, empty):
    life()
    findings = json.loads((empty / "d/report/findings.json").read_text())
    assert [one["claim"] for one in findings if one["kind"] == "search"] == [
        "search tune grid 4x1x8",
        "search tune grid 40x1x8",
    ]
    one = next(one for one in findings if one["kind"] == "search")["search"]
    assert (one["num_tried"], one["num_pruned"], len(one["tried"]), len(one["trials"])) == (6, 0, 6, 6)
    highest = max(one["tried"], key=lambda each: each["accuracy"])
    assert one["best"] == {name: highest[name] for name in ("warmup", "base_lr")}
    falls = findings[0]
    assert (falls["claim"], falls["n"]) == ("falls", 3)
    page = (empty / "d/report/index.html").read_text()
    assert "Settings tried for each combination" in page
    assert "12 of 12 trials complete" in page
    table = (empty / "d/report/search.csv").read_text().splitlines()
    assert table[0] == "arm,combination,warmup,base_lr,status,accuracy"
    assert len(table) == 13
    cost = json.loads((empty / "d/report/cost.json").read_text())
    assert cost["arms"].keys() == {"tune", "tuned", "usual"}
    summary = json.loads((empty / "d/report/summary.json").read_text())
    assert [each["settings"] for each in summary["searches"]] == [{"grid": "4x1x8"}, {"grid": "40x1x8"}]


def test_the_search_is_part_of_the_cost(life, empty, say):
    life("--no-report")
    store = StudyStore.open(empty / "d")
    for trial in store.trials:
        spent = {"time": "2026-01-01T00:00:00+00:00", "seconds": 10.0 if trial.arm == "tune" else 1.0}
        events = [{"event": "started"} | spent, {"event": "complete", "processes": 1, "runs": 1} | spent]
        (store.path(trial) / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    say("report d")
    arms = json.loads((empty / "d/report/cost.json").read_text())["arms"]
    assert [(arms[name]["num_runs"], arms[name]["device_seconds"]) for name in ("tune", "tuned", "usual")] == [
        (12, 120.0),
        (6, 6.0),
        (6, 6.0),
    ]


def test_a_killed_study_searches_the_same(life, empty):
    life("--no-report", directory="undisturbed")
    executed, life.executed = life.executed, Counter()
    for limit in (0, 4, 9, 1):
        assert life("--no-report", limit=limit) is None
    assert life("--no-report").code == 0
    assert life.executed == executed
    for path in (empty / "undisturbed/search/tune").iterdir():
        assert (empty / "d/search/tune" / path.name).read_text() == path.read_text()
    assert (empty / "d/status.csv").read_text() == (empty / "undisturbed/status.csv").read_text()


def test_a_report_before_the_search_is_over(life, empty, say):
    life("--no-report", limit=3)
    found = say("study status d")
    assert found.code == 75
    say("report d")
    page = (empty / "d/report/index.html").read_text()
    assert "waits for what arm tune searches" in page
    assert "of 6, goes on" in page
    assert json.loads((empty / "d/report/findings.json").read_text())[0]["verdict"] == "undecided"


def test_what_failed_holds_the_search_up(life, empty, say):
    life.fails = {90}
    found = life("--no-report")
    assert found.code == 1
    assert not (empty / "d/search/tune/2.json").exists()
    life.fails = set()
    assert say("study retry d --no-report").code == 0
    assert set(life.executed.values()) == {1}


def test_a_plan_counts_what_may_be_tried(say, empty):
    (empty / "tuned.toml").write_text(TEXT)
    found = json.loads(say("study plan tuned.toml --json").stdout)
    assert (found["trials"], found["to_run"]) == (24, 24)
    assert [(row["arm"], row["cell"], row["trials"], row["peak_lr"] is None) for row in found["cells"]] == [
        ("tune", "grid 4x1x8, searched", 6, True),
        ("tune", "grid 40x1x8, searched", 6, True),
        ("tuned", "grid 4x1x8, best found", 3, True),
        ("tuned", "grid 40x1x8, best found", 3, True),
        ("usual", "grid 4x1x8", 3, False),
        ("usual", "grid 40x1x8", 3, False),
    ]
    lines = say("study plan tuned.toml").lines
    assert any(line.startswith("trials     at most 24 different ones (3 seeds), 24 to run in ") for line in lines)
    assert list(empty.iterdir()) == [empty / "tuned.toml"]


def test_a_plan_counts_what_is_left(life, say, empty):
    life("--no-report", limit=14)
    found = json.loads(say("study plan tuned.toml --out d --json").stdout)
    assert (found["trials"], found["to_run"]) == (24, 10)
    life("--no-report")
    found = json.loads(say("study plan tuned.toml --out d --json").stdout)
    assert (found["trials"], found["to_run"]) == (24, 0)


def test_until_decided_is_refused(say, empty):
    (empty / "tuned.toml").write_text(TEXT)
    found = say("study run tuned.toml --until decided")
    assert found.code == 2
    assert "Arm tune of study tuned searches for them; leave out --until decided." in found.stderr


def test_without_optuna_nothing_is_begun(say, empty, monkeypatch):
    (empty / "tuned.toml").write_text(TEXT)
    monkeypatch.setattr(sampling, "find_spec", lambda name: None)
    found = say("study run tuned.toml --out d")
    assert found.code == 5
    assert "pip install 'widestep[search]'" in found.stderr


REAL = """
name = "real"
title = "Pruning of real runs"
recipe = "digits"
seeds = [0]
margin = 0.5
device = "cpu"

[set]
epochs = "4ep"
decay_at = ["3ep"]
train_images = 320
warmup = "0ep"

[arms.tune]
set = { grid = "4x1x8", stack = 2 }
search = { over = { base_lr = [0.001, 0.1] }, num_trials = 8, seeds = [90, 91] }
"""


@pytest.mark.parametrize("rivals", [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0)])
def test_a_real_stack_stops_when_all_of_it_is_given_up(empty, fake, rivals):
    """Rivals, by seed, that have all images right from the first epoch on, or none. Both seeds train in one stack."""
    store = StudyStore.create(empty / "d", parse(REAL))
    assert study_command.search_on(store)
    for trial in store.trials:
        run = store.run(trial)
        fake.finish(run)
        share = rivals[trial.seed - 90]
        rows = [f"{float(epoch)},{10 * epoch},0.1,,0.1,1,837,{share}" for epoch in range(1, 5)]
        (run.directory / "epochs.csv").write_text("\n".join([",".join(EPOCH_COLUMNS), *rows]) + "\n")
    assert study_command.search_on(store)
    stack = store.trials[8:10]
    giving = Giving(store, stack)
    execution = execution_of("cpu", compare_batchnorm=False)
    with World(Launch("nobody")) as world:
        study_pruning.train_or_prune(store, giving, stack, execution, world, StopRequest())
    states = [store.state(trial) for trial in stack]
    assert [state.status for state in states] == ["pruned" if rival else "complete" for rival in rivals]
    num_rows = [len(store.run(trial).read_epochs()) for trial in stack]
    assert num_rows == ([2, 2] if all(rivals) else [4, 4])


def test_what_workers_have_proposed_meanwhile_is_followed(empty, fake):
    store = StudyStore.create(empty / "d", parse(TEXT))
    assert study_command.search_on(store)
    num_known = len(store.trials)
    for trial in store.trials:
        fake.finish(store.run(trial))
    assert extend(store)
    assert study_command.search_on(store, num_known)
    assert not study_command.search_on(store, len(store.trials))
