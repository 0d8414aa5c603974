"""`widestep verify`: what it compares, and that it tells the truth when there is a difference or no kill."""

import json
import sys
from pathlib import Path

import pytest

from widestep.cli import verify as verify_command
from widestep.cli.verify import _kill_in_the_middle
from widestep.records.compare import Comparison, Difference

RECIPE = """
grid = "3x1x7"
train_images = 200
epochs = "60ep"
warmup = "0"
tail = "short"
dropout = 0.1
scaling = "none"
images_per_evaluation = 1000
"""
KILL = "kill -9 of the whole job"
check_model = verify_command._check_model


@pytest.mark.processes
def test_processes_threads_and_a_kill_change_no_byte(say, empty, quiet_torch):  # W2, D3, R1
    (empty / "tiny.toml").write_text(RECIPE)
    found = say("verify --recipe tiny.toml --epochs 60st --processes 1,2 --keep kept --json")
    assert found.code == 0, found.stderr
    record = json.loads(found.stdout)
    assert list(record) == ["equal", "runs"]
    assert record["equal"] is True
    assert [(run["processes"], run["loader_threads"], run["interruption"]) for run in record["runs"]] == [
        (1, 2, "none"),
        (2, 0, "none"),
        (2, 2, f"{KILL}, continued on 1"),
    ]
    assert all(run["equal"] and run["difference"] is None for run in record["runs"])
    (digest,) = {run["weights_sha256"] for run in record["runs"]}
    assert len(digest) == 64
    assert {run["grid"] for run in record["runs"]} == {"3x1x7"}
    assert sorted(path.name for path in (empty / "kept").glob("3x1x7-*")) == ["3x1x7-1", "3x1x7-2", "3x1x7-2-killed"]
    history = [json.loads(line) for line in (empty / "kept/3x1x7-2-killed/history.jsonl").read_text().splitlines()]
    assert [(event["event"], event.get("processes")) for event in history] == [
        ("started", 2),
        ("resumed", 1),
        ("complete", 1),
    ]
    result = json.loads((empty / "kept/3x1x7-1/result.json").read_text())
    assert (result["steps"], result["val_images"]) == (60, 64)


MODELS = """
import os
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))

class Wild(Net):
    def forward(self, x):
        return super().forward(x + int.from_bytes(os.urandom(4)) / 2**32 * x.flip(3))

class Putting(Net):
    def forward(self, x):
        y = super().forward(x)
        return y + torch.zeros(3).put_(torch.arange(2), torch.ones(2))[2]
"""


@pytest.mark.processes
def test_a_model_with_a_will_of_its_own_is_caught_at_its_step_and_tensor(say, empty, quiet_torch):
    (empty / "net.py").write_text(MODELS)
    found = say("verify --model net.py:Wild --recipe digits --grid 1x2x5 --workers-per-forward 1 --processes 1,2")
    assert found.code == 4
    assert [line.endswith(" DIFFERS") for line in found.lines] == [False, True, True]
    assert "Traceback" not in found.stderr
    doubt, error = found.stderr.splitlines()
    assert doubt.startswith("doubt      the model net.py:Wild is not reproducible: Equal images must give equal gradients")
    assert "With 2 process(es) it did not on this machine: first difference at step 0: loss" in error
    assert "first tensor: gradient conv.weight and" in error


def test_operations_without_a_deterministic_form_are_told_before_training(say, empty, quiet_torch):
    (empty / "net.py").write_text(MODELS)
    found = say("verify --model net.py:Putting --recipe digits --grid 1x2x5 --keep kept")
    assert (found.code, found.stdout) == (5, "")
    assert "these of the model net.py:Putting have no such form: put_. " in found.stderr
    assert not (empty / "kept").exists()


@pytest.fixture
def proofs(monkeypatch, empty):
    """What every run of the comparison comes to, instead of training; returns ways by the run's directory."""
    ways, interruption, differences = {}, [f"{KILL}, continued on 2"], {}

    class FakeRun:
        def __init__(self, directory):
            self.directory = directory

        def result(self):
            return type("Result", (), {"weights_sha256": "a" * 64})

    def train(recipe, parent, way):
        directory = Path(parent) / f"{recipe.grid}-{len(ways)}"
        ways[directory] = way
        return directory, "none" if way.continued_on is None else interruption[0]

    def compare(first, second):
        found = differences.get(ways[second.directory].processes)
        return Comparison(6, 5 if found is None else 2, found is None, found)

    monkeypatch.setattr(verify_command, "_train", train)
    monkeypatch.setattr(verify_command, "_check_model", lambda recipe: None)
    monkeypatch.setattr(verify_command, "open_existing", FakeRun)
    monkeypatch.setattr(verify_command, "compare", compare)
    return ways, interruption, differences


def test_what_is_said_when_all_is_equal(say, proofs):
    found = say("verify")
    assert (found.code, found.stderr) == (0, "")
    assert [line.split()[:2] for line in found.lines[:-1]] == [
        [grid, number] for grid in ("8x1x6", "12x1x5") for number in ("1", "2", "3", "3")
    ]
    assert found.lines[-1].endswith("the same bytes for every number of processes and loader threads and after the kill")
    assert found.lines[0].split()[2:] == ["process(es),", "2", "loader", "thread(s)", "weights", "a" * 16]
    assert f"3 process(es), 2 loader thread(s), {KILL}, continued on 2" in found.lines[3]


def test_a_difference_is_a_failure(say, proofs):
    _, _, differences = proofs
    differences[3] = Difference(3, ("loss",), ("fc.weight",), "gradient", 0.25)
    found = say("verify --json")
    assert found.code == 4
    record = json.loads(found.stdout)
    assert record["equal"] is False
    assert [run["equal"] for run in record["runs"]] == [True, True, False, False] * 2
    assert "With 3 process(es) it did not on this machine: first difference at step 3: loss" in found.stderr
    found = say("verify")
    assert found.code == 4
    assert "equal  " not in found.stdout
    assert found.lines[2].endswith(" DIFFERS")


def test_a_kill_that_did_not_happen_is_not_claimed(say, proofs):
    proofs[1][0] = "none: it ended before the kill"
    assert "and after the kill" not in say("verify").lines[-1]


def test_a_run_that_ends_before_the_kill(tmp_path):
    assert _kill_in_the_middle([sys.executable, "-c", ""], tmp_path) == "none: it ended before the kill"


def test_other_numbers_and_grids(say, proofs):
    lines = say("verify --processes 4,1 --grid 10x1x8").lines
    assert [line.split()[:2] for line in lines[:-1]] == [["10x1x8", "4"], ["10x1x8", "1"], ["10x1x8", "4"]]
    assert [way.continued_on for way in proofs[0].values()] == [None, None, 4]


def test_idle_processes_are_told(say, proofs):
    assert "3 processes share 1 block(s) of workers" in say("verify --recipe digits").stderr


def test_the_example_of_the_help_shares_out_its_workers(say, proofs):
    text = " ".join(say("verify --help").stdout.split())
    (example,) = [part for part in text.split(" widestep ") if part.startswith("verify --recipe digits --grid 10x1x8")]
    found = say(example)
    assert (found.code, found.stderr) == (0, "")
    assert [way.processes for way in proofs[0].values()] == [1, 4, 4]


def test_fast_mode_promises_nothing(say, empty):
    found = say("verify --mode fast")
    assert found.code == 2
    assert "Fast mode does not promise the same bytes" in found.stderr


def test_a_recipe_of_ones_own_is_proved_with_a_few_steps(say, empty):
    one = verify_command._recipes("poster", {"grid": "1x2x8"})[0]
    assert (str(one.epochs), str(one.evaluate_every), one.val_images, one.batchnorm_images) == ("6st", "6st", 64, 16)
    longer = verify_command._recipes("digits", {"epochs": "2ep", "val_images": "10", "worker_ramp": "1ep:8"})[0]
    assert (str(longer.epochs), longer.val_images, len(longer.worker_ramp)) == ("2ep", 10, 1)


LOST = "All 2 processes of a job must live. Process 0 lost another one (reset); see what that one said."
KILLED = "All processes of a job must live. Process 1 of 2 was ended by SIGKILL."


@pytest.mark.parametrize(
    ("code", "lines", "told", "exit_code"),
    [
        (5, ["ep 1.0/2 step 1/2", "widestep: The disk is full."], ": The disk is full.", 5),
        (2, ["widestep: A: widestep: B."], ": A: widestep: B.", 2),
        (
            3,
            ["widestep: The data changed.", f"widestep: {LOST}"],
            ": The data changed.",
            3,
        ),  # the cause, not what came of it
        (8, [f"widestep: {LOST}", f"widestep: {KILLED}"], f": {KILLED}", 8),
        (4, ["widestep: Replicas have drifted apart."], ": Replicas have drifted apart.", 4),  # no outcome: nothing diverged
        (1, ["Traceback", "ValueError: 3"], " with exit code 1: ValueError: 3", 1),
        (-9, [], " with exit code -9: it gave no reason", 1),
    ],
)
def test_a_run_that_fails_is_told_once_and_with_its_exit_code(say, empty, monkeypatch, code, lines, told, exit_code):
    monkeypatch.setattr(verify_command, "_check_model", lambda recipe: None)
    ended = verify_command.subprocess.CompletedProcess([], code, "", "".join(f"{line}\n" for line in lines))
    monkeypatch.setattr(verify_command.subprocess, "run", lambda command, **options: ended)
    found = say("verify --processes 1 --keep kept")
    assert (found.code, found.stdout) == (exit_code, "")
    assert found.stderr == f"widestep: A run of the comparison failed{told}\n"


def test_earlier_runs_are_moved_aside(say, empty, monkeypatch):
    """What is compared was computed now, not found."""
    (empty / "kept/8x1x6-1").mkdir(parents=True)
    (empty / "kept/8x1x6-1/result.json").write_text("{}")
    seen = []

    def run(command, **options):
        seen.append((empty / "kept/8x1x6-1").exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(verify_command, "_check_model", lambda recipe: None)
    monkeypatch.setattr(verify_command.subprocess, "run", run)
    assert say("verify --processes 1 --keep kept").code == 75
    assert seen == [False]
    assert (empty / "kept/8x1x6-1.old1/result.json").exists()


def test_the_small_recipe_asks_nothing_of_a_model_of_ones_own(say, empty, proofs, quiet_torch):
    """Its dropout is for the shipped model; a user's own is not refused for what nobody set."""
    assert {one.dropout for one in verify_command._recipes(None, {})} == {0.1}
    assert [(one.dropout, str(one.grid)) for one in verify_command._recipes(None, {"model": "net.py:Net"})] == [
        (0.0, "8x1x6"),
        (0.0, "12x1x5"),
    ]
    (empty / "net.py").write_text(MODELS)
    for one in verify_command._recipes(None, {"model": "net.py:Net"}):
        check_model(one)
    assert verify_command._recipes(None, {"model": "net.py:Net", "dropout": "0.2"})[0].dropout == 0.2


@pytest.mark.parametrize(
    ("epochs", "cadence"), [("1st", 1), ("3st", 1), ("8st", 2), ("12st", 3), ("19st", 4), ("20st", 5), ("36ep", 5)]
)
def test_short_runs_save_often_enough_to_be_killed(epochs, cadence):
    recipe = verify_command._recipes("digits", {"epochs": epochs})[0]
    assert verify_command._cadence(recipe) == cadence
