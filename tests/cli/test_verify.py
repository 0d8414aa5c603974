"""`widestep verify`: what it compares, and that it tells the truth when there is a difference or no kill."""

import json
import sys

import pytest

from widestep.cli import verify as verify_command
from widestep.cli.verify import Proof, _kill_in_the_middle

RECIPE = """
grid = "3x1x7"
train_images = 200
epochs = "60st"
warmup = "0"
tail = "short"
dropout = 0.1
evaluate_every = "60st"
scaling = "none"
images_per_evaluation = 1000
"""


@pytest.mark.processes
def test_processes_and_a_kill_change_no_byte(say, empty):  # W2, R1
    (empty / "tiny.toml").write_text(RECIPE)
    found = say("verify --recipe tiny.toml --processes 1,2 --keep kept --json")
    assert found.code == 0, found.stderr
    record = json.loads(found.stdout)
    assert list(record) == ["equal", "runs"]
    assert record["equal"] is True
    assert [(run["processes"], run["interruption"]) for run in record["runs"]] == [
        (1, "none"),
        (2, "none"),
        (2, "kill -9 of the whole job"),
    ]
    for name in ("weights_sha256", "losses_sha256"):
        (digest,) = {run[name] for run in record["runs"]}
        assert len(digest) == 64
    assert {run["grid"] for run in record["runs"]} == {"3x1x7"}
    assert sorted(path.name for path in (empty / "kept").glob("3x1x7-*")) == ["3x1x7-1", "3x1x7-2", "3x1x7-2-killed"]
    history = [json.loads(line)["event"] for line in (empty / "kept/3x1x7-2-killed/history.jsonl").read_text().splitlines()]
    assert history == ["started", "resumed", "complete"]


@pytest.fixture
def proofs(monkeypatch):
    """What every run of the comparison comes to, instead of training."""
    made = []

    def train(recipe, parent, num_processes, *, killed):
        weights, losses = made[0](str(recipe.grid), num_processes, killed)
        return Proof(str(recipe.grid), num_processes, made[1] if killed else "none", weights, losses)

    monkeypatch.setattr(verify_command, "_train", train)
    made.extend((lambda grid, processes, killed: ("a" * 64, "b" * 64), "kill -9 of the whole job"))
    return made


def test_what_is_said_when_all_is_equal(say, proofs):
    found = say("verify")
    assert (found.code, found.stderr) == (0, "")
    assert [line.split()[:2] for line in found.lines[:-1]] == [
        [grid, number] for grid in ("8x1x6", "12x1x5") for number in ("1", "2", "3", "3")
    ]
    assert found.lines[-1].endswith("the same bytes for every number of processes and after the kill")
    assert found.lines[0].split()[2:] == ["process(es)", "weights", "a" * 24, "losses", "b" * 16]
    assert "3 process(es), kill -9 of the whole job" in found.lines[3]


def test_two_grids_may_differ_from_one_another(say, proofs):
    proofs[0] = lambda grid, processes, killed: (grid, grid)
    assert say("verify").code == 0


@pytest.mark.parametrize(
    "differs",
    [
        lambda grid, processes, killed: ("a" if processes < 3 else "c", "b"),
        lambda grid, processes, killed: ("a", "b" if not killed else "c"),
        lambda grid, processes, killed: ("a", f"b{grid}{killed}"),
    ],
)
def test_a_difference_is_a_failure(say, proofs, differs):
    proofs[0] = differs
    found = say("verify --json")
    assert found.code == 4
    assert json.loads(found.stdout)["equal"] is False
    assert found.stderr.startswith("widestep: Weights and losses must be the same bytes")
    found = say("verify")
    assert found.code == 4
    assert "equal  " not in found.stdout


def test_a_kill_that_did_not_happen_is_not_claimed(say, proofs):
    proofs[1] = "none: it ended before the kill"
    assert "and after the kill" not in say("verify").lines[-1]


def test_a_run_that_ends_before_the_kill(tmp_path):
    assert _kill_in_the_middle([sys.executable, "-c", ""], tmp_path) == "none: it ended before the kill"


def test_other_numbers_and_grids(say, proofs):
    lines = say("verify --processes 4,1 --grid 10x1x8").lines
    assert [line.split()[:2] for line in lines[:-1]] == [["10x1x8", "4"], ["10x1x8", "1"], ["10x1x8", "4"]]


def test_a_run_that_fails_is_told(say, empty, monkeypatch):
    failing = [sys.executable, "-c", "import sys; sys.exit('Traceback\\nwidestep: The disk is full.')"]
    done = verify_command.subprocess.run
    monkeypatch.setattr(verify_command.subprocess, "run", lambda command, **options: done(failing, **options))
    found = say("verify --processes 1 --keep kept")
    assert found.code == 1
    assert found.stderr == ("widestep: A run of the comparison failed with exit code 1: widestep: The disk is full.\n")


def test_earlier_runs_are_moved_aside(say, empty, monkeypatch):
    """What is compared was computed now, not found."""
    (empty / "kept/8x1x6-1").mkdir(parents=True)
    (empty / "kept/8x1x6-1/result.json").write_text("{}")
    seen = []

    def run(command, **options):
        seen.append((empty / "kept/8x1x6-1").exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(verify_command.subprocess, "run", run)
    assert say("verify --processes 1 --keep kept").code == 75
    assert seen == [False]
    assert (empty / "kept/8x1x6-1.old1/result.json").exists()


@pytest.mark.parametrize(
    ("epochs", "cadence"), [("1st", 1), ("3st", 1), ("8st", 2), ("12st", 3), ("19st", 4), ("20st", 5), ("36ep", 5)]
)
def test_short_runs_save_often_enough_to_be_killed(epochs, cadence):
    recipe = verify_command._recipes("digits", {"epochs": epochs})[0]
    assert verify_command._cadence(recipe) == cadence
