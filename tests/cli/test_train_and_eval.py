"""`widestep train`, `eval` and `report` of one run, from the first command to the last, within this process."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from contract_names import RESULT_NAMES

from widestep.plan import recipes

FIELDS = ["--grid", "2x1x10", "--train-images", "200", "--decay-at", "2ep", "--tensorboard", "false"]
WORDS = ["train", *FIELDS, "--epochs", "3"]
SHORT = ["train", *FIELDS, "--epochs", "2st"]
LONG = ["train", *FIELDS, "--epochs", "40", "--out", "run"]


@pytest.fixture
def trained(command, empty):
    """A run of 30 steps in the directory `run`, and what the command said."""
    found = command(*WORDS, "--out", "run")
    assert found.code == 0, found.stderr
    return found


def result():
    return json.loads(Path("run/result.json").read_text())


def test_a_dry_run_shows_the_plan_and_writes_nothing(say, empty):
    found = say(" ".join([*WORDS, "--dry-run"]))
    assert (found.code, found.stderr) == (0, "")
    assert found.lines[0] == "data       digits: 200 training and 1,597 validation images"
    assert any(line.startswith("epochs     3 = 30 steps, 10 an epoch") for line in found.lines)
    assert found.lines[-1].startswith("files      runs/digits-")
    assert list(empty.iterdir()) == []


OWN = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.parametrize(
    "words",
    [
        "--model nowhere.py:Net",
        "--model nowhere.module:Net",
        "--model :Net",
        "--model net.py:a-b",
        "--model nowhere.py:Net --stack 2",
        "--model net.py:Net --dropout 0.1",
        "--model net.py:Net --stack 2 --dropout 0.1 --zero-gamma true",
        "--model net.py:Net --zero-gamma true --classifier-std 0.1",
        "--model net.py:Net --classifier-std 0.1",
    ],
)
def test_a_dry_run_refuses_a_model_in_the_words_of_training(command, empty, words):
    (empty / "net.py").write_text(OWN)
    trained = command(*WORDS, *words.split(), "--out", "run")
    planned = command(*WORDS, *words.split(), "--out", "run", "--dry-run")
    assert (planned.code, planned.stdout) == (2, "")
    assert planned.stderr == trained.stderr
    assert trained.code == 2
    assert command(*WORDS, "--model", "net.py:Net", "--dry-run").code == 0


def test_a_run_says_what_came_out(trained):
    final = result()
    words = (
        f"{100 * final['val_accuracy']:.2f} % of 1,597 validation images ({final['val_correct']:,}) after 30 steps; best "
    )
    assert trained.stdout.splitlines()[0].startswith(f"complete   {words}")
    assert trained.stdout.splitlines()[1:] == [f"weights    {final['weights_sha256']}", "files      run"]
    assert trained.stderr.splitlines()[-1].startswith("ep 3.0/3 step 30/30 loss ")
    assert "\r" not in trained.stderr
    names = [*RESULT_NAMES, "reason"]
    assert list(final) == names


def test_the_same_command_again_changes_nothing(trained, command, empty):
    before = {path: path.stat().st_mtime_ns for path in empty.rglob("*")}
    again = command(*WORDS, "--out", "run", "--json")
    assert again.code == 0
    assert json.loads(again.stdout) == result()
    assert {path: path.stat().st_mtime_ns for path in empty.rglob("*")} == before
    assert command(*WORDS, "--out", "run").stdout == trained.stdout


def test_the_directory_is_found_again_by_the_settings(command, empty):
    first = command(*SHORT, "--seed", 3)
    fingerprint = recipes.load("digits").recipe.fingerprint
    (directory,) = (empty / "runs").iterdir()
    assert directory.name.startswith("digits-")
    assert directory.name != f"digits-{fingerprint[:8]}"
    assert f"files      runs/{directory.name}" in first.stdout
    command(*SHORT, "--seed", 3)
    command(*SHORT, "--seed", 4)
    assert len(list((empty / "runs").iterdir())) == 2


def test_another_recipe_does_not_mix_in(trained, command):
    found = command(*WORDS, "--momentum", 0.5, "--out", "run")
    assert (found.code, found.stdout) == (2, "")
    assert "run holds a run of another recipe (momentum 0.9 -> 0.5)" in found.stderr
    assert result()["status"] == "complete"


def test_begun_again_the_old_run_is_kept(trained, command, empty):
    before = result()
    assert command(*WORDS, "--out", "run", "--fresh").code == 0
    assert json.loads((empty / "run.old1/result.json").read_text()) == before
    assert result()["weights_sha256"] == before["weights_sha256"]


def test_a_recipe_file_is_the_recipe(trained, command, empty):
    """The resolved recipe that a run keeps gives the same run again."""
    again = command("train", "--recipe", "run/recipe.toml", "--out", "again", "--tensorboard", "false", "--json")
    assert json.loads(again.stdout)["weights_sha256"] == result()["weights_sha256"]


def test_eval_counts_what_training_counted(trained, command):
    found = command("eval", "run")
    final = result()
    assert found.code == 0
    assert found.stdout.splitlines() == [
        f"{100 * final['val_accuracy']:.2f} % of 1,597 validation images ({final['val_correct']:,})",
        f"loss       {final['val_loss']}",
        f"weights    {final['weights_sha256']}",
    ]
    assert json.loads(command("eval", "run", "--json").stdout) == final


def test_eval_of_the_best_weights(trained, command):
    found = json.loads(command("eval", "run/checkpoints/best.safetensors", "--json").stdout)
    assert found["val_accuracy"] == result()["best_val_accuracy"]


def test_eval_of_a_damaged_checkpoint(trained, command, empty):
    path = empty / "run/checkpoints/final.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = command("eval", "run")
    assert (found.code, found.stdout) == (6, "")
    assert found.stderr.startswith("widestep: ")
    assert "final.safetensors" in found.stderr
    path.unlink()
    assert command("eval", "run").code == 6


def test_a_report_of_one_run(trained, say):
    found = say("report run --out page")
    assert (found.code, found.stderr) == (0, "")
    assert found.lines == ["1 of 1 complete", "report: page/index.html"]
    page = Path("page/index.html").read_text()
    assert f"{100 * result()['val_accuracy']:.2f}" in page
    assert say("report run").lines[-1] == "report: report/index.html"


def test_a_run_that_diverges(command, empty):
    found = command(*WORDS, "--base-lr", "1e18", "--out", "run")
    assert found.code == 4
    assert result()["status"] == "diverged"
    assert found.stdout.startswith("diverged   ")
    assert result()["reason"] in found.stderr
    again = command(*WORDS, "--base-lr", "1e18", "--out", "run")
    assert (again.code, again.stdout) == (4, found.stdout)


def test_a_run_that_is_stopped_goes_on(command, empty, until):
    def send():
        until((empty / "run/epochs.csv").exists, "the run begins")
        until(lambda: len((empty / "run/epochs.csv").read_text().splitlines()) > 2, "the run is under way")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    stopped = command(*LONG)
    thread.join()
    assert (stopped.code, stopped.stdout) == (75, "")
    last = stopped.stderr.splitlines()[-1]
    assert last.startswith("widestep: Stopped by SIGTERM after step ")
    assert last.endswith(" of 400; everything is saved. The same command goes on from there.")
    step = int(last.split()[6])
    assert (empty / "run/STATUS").read_text() == "stopped\n"
    found = command(*LONG)
    assert found.code == 0
    assert f"resumed    at step {step} of 400" in found.stderr
    assert result()["interruptions"] == 1
