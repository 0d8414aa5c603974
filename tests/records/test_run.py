import csv
import errno
import json
import math
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from widestep.errors import EnvironmentFault, StoreError, UsageError
from widestep.plan import recipes
from widestep.plan.recipe import Recipe
from widestep.records import run as module
from widestep.records.run import EPOCH_COLUMNS, Run, move_aside, open_existing

RECIPE = Recipe(seed=3, epochs="600st")
FACTS = {"torch": "2.13.0", "processes": 1}


@pytest.fixture
def place(tmp_path):
    return tmp_path / "runs" / "one"


def opened(place: Path, recipe: Recipe = RECIPE) -> "closing[Run]":
    run = Run(place, recipe)
    run.open(FACTS)
    return closing(run)


def row(epoch: int, **values: object) -> dict[str, object]:
    return {
        "epoch": epoch,
        "step": 30 * epoch,
        "lr": 0.1 + 0.2,
        "train_loss": 1 / 3,
        "val_loss": 0.5,
        "val_correct": 800 + epoch,
        "val_images": 837,
        "val_accuracy": (800 + epoch) / 837,
        **values,
    }


def test_before_the_first_start(place):
    run = Run(place, RECIPE)
    assert (run.status(), run.result(), run.finished(), run.history(), run.read_epochs()) == (None, None, False, [], [])
    run.check_recipe()
    assert not place.exists()


def test_a_first_start(place, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["widestep", "train", "--out", "a b", "x\udcff"])
    with opened(place) as run:
        assert run.status() == "running"
        assert run.checkpoints.is_dir()
    assert sorted(os.listdir(place)) == [".lock", "STATUS", "checkpoints", "command.txt", "environment.json", "recipe.toml"]
    assert recipes.load(str(place / "recipe.toml")).recipe == RECIPE
    assert json.loads((place / "environment.json").read_text()) == FACTS
    assert (place / "command.txt").read_bytes() == b"widestep train --out 'a b' 'x\xff'\n"
    assert (place / "STATUS").read_text() == "running\n"


def test_the_same_recipe_continues(place):
    with opened(place) as run:
        run.set_status("stopped")
        (run.checkpoints / "step-0000007.safetensors").write_text("")
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    again = Run(place, RECIPE)
    again.open({"torch": "another"})
    again.close()
    after = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    del before[".lock"], after[".lock"]
    assert after == {**before, "STATUS": b"running\n"}  # the environment is that of the first start


def test_a_run_that_saved_nothing_begins_again_in_the_environment_of_now(place):
    """It failed of an image, say, that was replaced since; its states are not gone, there were none."""
    with opened(place) as run:
        run.set_status("failed")
    again = Run(place, RECIPE)
    again.open({"torch": "another"})
    again.close()
    assert json.loads((place / "environment.json").read_text()) == {"torch": "another"}
    (again.checkpoints / ".saved").touch()
    with opened(place):
        assert json.loads((place / "environment.json").read_text()) == {"torch": "another"}


def test_another_recipe_is_refused_with_the_keys_that_differ(place):
    """R3."""
    with opened(place):
        pass
    other = RECIPE.model_copy(update={"seed": 4, "base_lr": 0.5})
    with pytest.raises(UsageError) as caught:
        Run(place, other).open(FACTS)
    assert str(caught.value) == (
        f"{place} holds a run of another recipe (seed 3 -> 4, base_lr 0.045 -> 0.5). Choose another --out, or --fresh to "
        "move the old run aside."
    )
    assert caught.value.exit_code == 2
    with opened(place):  # the refusal has not kept the lock, nor changed the run
        assert recipes.load(str(place / "recipe.toml")).recipe == RECIPE


def test_a_directory_with_other_files_is_refused(place):
    place.mkdir(parents=True)
    (place / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is empty or holds a run"):
        Run(place, RECIPE).open(FACTS)
    assert sorted(os.listdir(place)) == [".lock", "thesis.tex"]
    (place / "thesis.tex").unlink()
    with opened(place) as run:
        assert run.status() == "running"


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "one").write_text("")
    with pytest.raises(EnvironmentFault, match="one: File exists"):
        Run(tmp_path / "one", RECIPE).open(FACTS)


class PowerCut(BaseException):
    """Nothing is executed after it, not even what tidies up."""


@pytest.mark.parametrize("num_calls", range(17))
def test_a_start_cut_off_anywhere_is_taken_up(num_calls, place, monkeypatch):
    """R1: power fails before any one of these calls.

    Three directories and the lock take an fsync each; four files are written, each with two fsyncs and a rename.
    """
    done = 0

    def before(owner, name):
        real = getattr(owner, name)

        def call(*args: object, **named: object) -> object:
            nonlocal done
            if done == num_calls:
                raise PowerCut
            done += name != "unlink"
            return real(*args, **named)

        return call

    run = Run(place, RECIPE)
    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "unlink")):
            patch.setattr(owner, name, before(owner, name))
        if num_calls < 16:
            with pytest.raises(PowerCut):
                run.open(FACTS)
        else:
            run.open(FACTS)
            assert done == 16
    run.close()
    with opened(place) as again:
        assert again.status() == "running"
    assert sorted(os.listdir(place)) == [".lock", "STATUS", "checkpoints", "command.txt", "environment.json", "recipe.toml"]
    assert json.loads((place / "environment.json").read_text()) == FACTS


def test_unfinished_checkpoints_of_a_killed_process_are_removed(place):
    with opened(place) as run:
        (run.checkpoints / ".step-0000007.safetensors.g1.99.0.tmp").write_text("half")
        (run.checkpoints / "step-0000007.safetensors").write_text("whole")
    with opened(place) as run:
        assert os.listdir(run.checkpoints) == ["step-0000007.safetensors"]


SECOND = """
import sys
from pathlib import Path
from widestep.errors import WidestepError
from widestep.plan.recipe import Recipe
from widestep.records.run import Run, move_aside
try:
    if sys.argv[2] == "open":
        Run(Path(sys.argv[1]), Recipe(seed=3, epochs="600st")).open({})
    else:
        move_aside(Path(sys.argv[1]))
except WidestepError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("purpose", ["open", "move"])
def test_a_second_process_is_refused(purpose, place):
    """Exit code 7, and nothing has moved under the feet of the first."""
    with opened(place) as run:
        run.set_status("stopped")
        second = subprocess.run(
            [sys.executable, "-c", SECOND, str(place), purpose], capture_output=True, text=True, check=False
        )
        assert (second.returncode, second.stderr) == (7, "")
        assert f"{place} is held by host {os.uname().nodename}, process {os.getpid()}" in second.stdout
        assert run.status() == "stopped"
        assert os.listdir(place.parent) == ["one"]
    done = subprocess.run([sys.executable, "-c", SECOND, str(place), purpose], check=False)
    assert done.returncode == 0


def test_a_run_killed_while_it_holds_the_directory(place):
    program = f"{SECOND}\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", program, str(place), "open"], check=False)
    assert killed.returncode == -signal.SIGKILL
    with opened(place) as run:
        assert run.status() == "running"


def test_records_are_cut_back_to_the_checkpoint(place):
    """R1: steps 3 and 4 came after the checkpoint; they are taken again and stand in the log once."""
    with opened(place) as run:
        run.open_records({})
        for step in range(5):
            run.metrics({"step": step, "loss": 1 / (step + 3)})
            run.ledger({"step": step, "groups": []})
            if step == 2:
                run.epoch(row(1))
                lengths = run.record_lengths()
    with opened(place) as run:
        run.open_records(lengths)
        assert run.record_lengths() == lengths
        for step in range(3, 6):
            run.metrics({"step": step, "loss": 1 / (step + 3)})
            run.ledger({"step": step, "groups": []})
        run.epoch(row(2))
    for name in ("metrics.jsonl", "ledger.jsonl"):
        assert [json.loads(line)["step"] for line in (place / name).read_text().splitlines()] == [0, 1, 2, 3, 4, 5]
    losses = [json.loads(line)["loss"] for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert losses == [1 / (step + 3) for step in range(6)]
    assert [found["epoch"] for found in run.read_epochs()] == [1, 2]


def test_without_a_checkpoint_the_records_begin_again(place):
    for _ in range(2):
        with opened(place) as run:
            run.open_records({})
            run.metrics({"step": 0})
            run.epoch(row(1))
    assert (place / "metrics.jsonl").read_text() == '{"step": 0}\n'
    assert len(run.read_epochs()) == 1


def test_epochs_come_back_bit_for_bit(place):
    rows = [row(1), row(2, val_loss=None), row(3, lr=5e-324, val_loss=1e300), row(4, train_loss=math.pi)]
    with opened(place) as run:
        run.open_records({})
        for values in rows:
            run.epoch(values)
    assert run.read_epochs() == rows
    with (place / "epochs.csv").open(newline="") as file:
        assert next(csv.reader(file)) == list(EPOCH_COLUMNS)
    assert ",".join(EPOCH_COLUMNS) == "epoch,step,lr,train_loss,val_loss,val_correct,val_images,val_accuracy"


def test_a_torn_last_row_is_left_out(place):
    with opened(place) as run:
        run.open_records({})
        run.epoch(row(1))
        run.epoch(row(2))
    text = (place / "epochs.csv").read_text()
    header, first, _ = text.splitlines(keepends=True)
    for length in range(len(header) + len(first), len(text)):
        (place / "epochs.csv").write_text(text[:length])
        assert run.read_epochs() == [row(1)]
    for length in range(len(header) + 1):
        (place / "epochs.csv").write_text(text[:length])
        assert run.read_epochs() == []


@pytest.mark.parametrize(
    "text",
    ["a,b\n1,2\n", ",".join(EPOCH_COLUMNS) + "\n1,2\n", ",".join(EPOCH_COLUMNS) + "\n" + ",".join(["x"] * 8) + "\n"],
    ids=["columns", "short", "words"],
)
def test_damaged_epochs_are_noticed(text, place):
    place.mkdir(parents=True)
    (place / "epochs.csv").write_text(text)
    with pytest.raises(StoreError, match=r"epochs\.csv must have the columns epoch, step, .* It is damaged\."):
        Run(place, RECIPE).read_epochs()


def test_history(place):
    with opened(place) as run:
        run.event("started", step=0, processes=2)
        with (place / "history.jsonl").open("a") as file:
            file.write('{"event": "stop')  # the disk was full
        assert [event["event"] for event in run.history()] == ["started"]
        run.event("resumed", step=7)
    first, second = run.history()
    assert (first["event"], first["step"], first["processes"], first["process"]) == ("started", 0, 2, os.getpid())
    assert (second["event"], second["step"]) == ("resumed", 7)
    assert first["time"] < second["time"] or first["time"] == second["time"]
    assert first["time"].endswith("+00:00")


def test_the_log_has_a_time_on_every_line(place):
    with opened(place) as run:
        run.log("loss 2.31 é")
        run.log("loss 2.30")
    lines = (place / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["loss 2.31 é", "loss 2.30"]
    assert all(line.split(" ")[0].endswith("+00:00") for line in lines)


@pytest.mark.parametrize("status", ["complete", "diverged"])
def test_an_outcome(status, place, result):
    with opened(place) as run:
        assert not run.finished()
        run.finish(result(status=status))
        assert run.finished()
    assert (run.status(), run.result()) == (status, result(status=status))


def test_the_outcome_is_written_before_the_status_that_vouches_for_it(place, result, monkeypatch):
    with opened(place) as run:
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_json", lambda *_: (_ for _ in ()).throw(PowerCut))
            with pytest.raises(PowerCut):
                run.finish(result())
        assert (run.status(), run.result(), run.finished()) == ("running", None, False)
        run.finish(result())
    with opened(place) as run:  # started again although complete: only a caller who asks for it does so
        assert run.status() == "running"
        assert not run.finished()


def test_closing_lets_go_even_when_the_disk_is_full(place, monkeypatch):
    run = Run(place, RECIPE)
    run.open(FACTS)
    run.open_records({})
    run.metrics({"step": 0})
    real = os.write

    def full_but_for_the_lock(descriptor: int, data: bytes) -> int:
        return real(descriptor, data) if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".lock") else full()

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_but_for_the_lock)
        run.close()
    assert (place / "metrics.jsonl").read_bytes() == b""
    run.close()
    assert subprocess.run([sys.executable, "-c", SECOND, str(place), "open"], check=False).returncode == 0


def full(*_args: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_lines_wait_for_space_and_nothing_is_torn(place, monkeypatch):
    """Records, log and history alike; what waits is told, and a checkpoint cannot speak of it."""
    with opened(place) as run:
        run.open_records({})
        run.metrics({"step": 0})
        assert run.flush_records() is None
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            run.metrics({"step": 1})
            run.log("one")
            run.event("stopped", step=1)
            told = run.flush_records()
            assert told is not None
            assert "metrics.jsonl could not be written: No space left on device (" in told
            assert told.endswith("Its lines wait in memory.")
            with pytest.raises(EnvironmentFault, match=r"metrics\.jsonl could not be written"):
                run.record_lengths()
        run.log("two")
        assert run.flush_records() is None
        assert run.record_lengths()["metrics.jsonl"] == 2 * len('{"step": 0}\n')
    assert [line.split()[-1] for line in (place / "log.txt").read_text().splitlines()] == ["one", "two"]
    assert [event["event"] for event in run.history()] == ["stopped"]


def test_an_outcome_waits_for_its_records(place, result, monkeypatch):
    with opened(place) as run:
        run.open_records({})
        run.metrics({"step": 0})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(EnvironmentFault):
                run.finish(result())
        assert not run.finished()
        run.finish(result())
        assert run.finished()


def test_missing_records_are_told(place):  # row 42
    with opened(place) as run:
        run.open_records({})
        run.metrics({"step": 0})
        lengths = run.record_lengths()
    (place / "metrics.jsonl").unlink()
    with opened(place) as run:
        assert run.open_records(lengths) == [
            "metrics.jsonl lacks 12 bytes that were there at the last save; records of steps are missing"
        ]


def test_a_run_without_its_recipe_is_not_begun_again(place):  # row 42
    with opened(place):
        pass
    (place / "recipe.toml").unlink()
    with pytest.raises(StoreError, match=r"holds a run whose recipe\.toml is missing; restore it, or use --fresh"):
        Run(place, RECIPE).open(FACTS)


def test_a_run_without_its_status_keeps_its_environment(place):  # row 42
    with opened(place) as run:
        (run.checkpoints / "step-0000007.safetensors").write_text("")
    (place / "STATUS").unlink()
    run = Run(place, RECIPE)
    run.open({"torch": "another"})
    run.close()
    assert json.loads((place / "environment.json").read_text()) == FACTS


def test_files_of_others_are_not_taken_for_leftovers(place):
    """What looks like an unfinished file is removed only where a run is, or nothing else."""
    place.mkdir(parents=True)
    (place / ".notes.tmp").write_text("mine")
    (place / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"):
        Run(place, RECIPE).open(FACTS)
    assert (place / ".notes.tmp").read_text() == "mine"


def test_moving_aside_never_deletes(place):
    assert move_aside(place) is None
    for number in range(1, 4):
        with opened(place) as run:
            run.log(f"run {number}")
        assert move_aside(place) == place.with_name(f"one.old{number}")
        assert not place.exists()
    assert sorted(os.listdir(place.parent)) == ["one.old1", "one.old2", "one.old3"]
    for number in range(1, 4):
        assert (place.with_name(f"one.old{number}") / "log.txt").read_text().endswith(f" run {number}\n")


def test_a_gap_is_filled_and_nothing_is_overwritten(place):
    for name in ("one", "one.old1", "one.old3"):
        (place.parent / name).mkdir(parents=True)
        (place.parent / name / name).write_text("")
    assert move_aside(place) == place.with_name("one.old2")
    assert {path.parent.name: path.name for path in place.parent.glob("*/one*")} == {
        "one.old1": "one.old1",
        "one.old2": "one",
        "one.old3": "one.old3",
    }


@pytest.mark.parametrize("directory", [".", ".."])
def test_a_directory_without_a_name_cannot_be_moved_aside(directory, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(UsageError, match=r"--fresh renames the old run's directory. Got '\.+'; give the directory"):
        move_aside(Path(directory))


def test_moving_aside_where_one_may_not(place, monkeypatch):
    def forbidden(*_args: object) -> None:
        raise PermissionError(1, "Operation not permitted", str(place))

    place.mkdir(parents=True)
    monkeypatch.setattr(Path, "rename", forbidden)
    with pytest.raises(EnvironmentFault, match="one: Operation not permitted"):
        move_aside(place)


def test_an_existing_run_is_read(place, result):
    with opened(place) as run:
        run.finish(result())
        read = open_existing(place)  # while another has it open
    assert (read.recipe, read.status(), read.result()) == (RECIPE, "complete", result())
    with pytest.raises(UsageError, match=r"A run directory holds recipe\.toml\. .*runs does not"):
        open_existing(place.parent)


def test_directories_are_independent(place):
    with opened(place), opened(place.with_name("two")) as other:
        assert other.status() == "running"
