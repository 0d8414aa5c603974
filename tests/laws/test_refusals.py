"""Promise: what cannot be done is refused in a sentence, with an exit code of its own, and nothing is lost by it (R3)."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FIELDS = {"train_images": 128, "epochs": "2", "seed": 3, "tensorboard": "false"}


@pytest.fixture
def train(command: Any, options: Any, tmp_path: Path) -> Callable[..., Any]:
    """Run `widestep train` on one directory, with some options changed."""

    def execute(*words: str, **fields: Any) -> Any:
        return command("train", *words, *options({"out": tmp_path / "run", **FIELDS, **fields}))

    return execute


def refused(found: Any, code: int, *said: str) -> None:
    assert found.code == code, found
    assert len(found.stderr.splitlines()) == 1, found.stderr
    assert found.stdout == ""
    for words in said:
        assert words in found.stderr


def content(directory: Path) -> dict[str, bytes]:
    """What a directory holds, but for the lock, which says who was there last."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_another_recipe_in_the_directory(train: Any, tmp_path: Path) -> None:
    assert train().code == 0
    before = content(tmp_path / "run")
    refused(
        train(seed=4, base_lr=0.1),
        2,
        f"{tmp_path / 'run'} holds a run of another recipe",
        "seed 3 -> 4",
        "base_lr 0.045 -> 0.1",
        "--fresh",
    )
    assert content(tmp_path / "run") == before


def test_fresh_moves_the_old_run_aside(train: Any, tmp_path: Path) -> None:
    first = train("--json")
    before = content(tmp_path / "run")
    second = train("--json", "--fresh", seed=4)
    assert (first.code, second.code) == (0, 0)
    assert content(tmp_path / "run.old1") == before
    assert json.loads(first.stdout)["weights_sha256"] != json.loads(second.stdout)["weights_sha256"]


def test_a_job_that_slurm_starts_again_goes_on(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was told --fresh once; what it has trained since is not moved aside by a preemption, what others did is."""
    for job, restarts, num_aside in (("7", "0", 0), ("7", "1", 0), ("7", "0", 1), ("8", "1", 2), ("8", "2", 2)):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        assert train("--fresh").code == 0
        assert len([*tmp_path.glob("run.old*")]) == num_aside


def test_a_directory_of_something_else(train: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/holiday.jpg").write_bytes(b"do not touch")
    refused(train(), 2, "holds other files; choose another")
    assert (tmp_path / "run/holiday.jpg").read_bytes() == b"do not touch"


def test_a_complete_run_is_left_as_it_is(train: Any, tmp_path: Path) -> None:
    first = train("--json")
    before = content(tmp_path / "run")
    again = train("--json")
    assert (again.code, again.stdout, again.stderr) == (0, first.stdout, "")
    assert content(tmp_path / "run") == before


def test_a_complete_run_is_told_without_importing_torch(train: Any, program: Any, options: Any, tmp_path: Path) -> None:
    assert train().code == 0
    words = ["train", *options({"out": tmp_path / "run", **FIELDS}), "--processes", "2"]
    script = f"import sys; from widestep.cli.main import run; assert run({words!r}) == 0; sys.exit('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", script], env=program.environment(), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("complete ")


def test_a_diverged_run_is_left_as_it_is(train: Any, tmp_path: Path) -> None:
    first = train("--json", base_lr=1e30)
    assert first.code == 4
    assert json.loads(first.stdout)["status"] == "diverged"
    before = content(tmp_path / "run")
    again = train("--json", base_lr=1e30)
    assert (again.code, again.stdout) == (4, first.stdout)
    assert content(tmp_path / "run") == before
    shown = train(base_lr=1e30)
    assert shown.stderr.startswith("diverged   loss ")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[int]:
    """Another process that works in the directory."""
    (tmp_path / "run").mkdir()
    script = (
        "import sys; from pathlib import Path; from widestep.locks import DirectoryLock\n"
        "lock = DirectoryLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")], stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder.pid
        holder.kill()


def test_a_directory_in_use(train: Any, held: int, tmp_path: Path) -> None:
    refused(train(), 7, f"{tmp_path / 'run'} is held by host {socket.gethostname()}, process {held}, since ")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_missing_folder(train: Any, tmp_path: Path) -> None:
    found = train(data=f"folder:{tmp_path / 'nowhere'}", train_images="none", model="resnet18")
    refused(found, 3, f"{tmp_path / 'nowhere'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "resnet19"}, "Perhaps you meant resnet18."),
        ({"train_images": 20}, "20 training images are fewer than 32"),
        ({"data": "imagenet", "train_images": "none"}, "folder:PATH"),
        ({"momentun": 0.9}, "Perhaps you meant 'momentum'."),
        ({"grid": "40x6"}, "NODESxWORKERSxIMAGES"),
    ],
    ids=["model", "train_images", "imagenet", "spelling", "grid"],
)
def test_a_recipe_that_cannot_be(train: Any, tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    """Nothing is written, so that the corrected command finds no run of another recipe in its way."""
    refused(train(**fields), 2, said)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def unfinished(train: Any, tmp_path: Path) -> Path:
    """A run that was saved but, as far as its files say, never finished."""
    assert train(checkpoint_every="3st").code == 0
    (tmp_path / "run/result.json").unlink()
    (tmp_path / "run/STATUS").write_text("running\n")
    return tmp_path / "run"


def test_damaged_checkpoints(train: Any, unfinished: Path) -> None:
    paths = sorted((unfinished / "checkpoints").glob("step-*.safetensors"))
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    refused(train(), 6, *(f"checkpoints/{path.name} is damaged (size)" for path in paths), "--fresh")


def test_a_damaged_environment_record(train: Any, unfinished: Path) -> None:
    (unfinished / "environment.json").write_text("{")
    refused(train(), 6, "environment.json")


def test_a_result_that_is_no_result(train: Any, tmp_path: Path) -> None:
    assert train().code == 0
    (tmp_path / "run/result.json").write_text('{"status": "complete"}')
    refused(train(), 6, "result.json")


@pytest.mark.processes
def test_a_fault_is_told_once_whatever_the_processes(program: Any, options: Any, tmp_path: Path) -> None:
    fields = {**FIELDS, "data": f"folder:{tmp_path / 'nowhere'}", "train_images": "none", "model": "resnet18"}
    found = program("train", *options({"out": tmp_path / "run", **fields}), "--processes", 3)
    refused(found, 3, f"{tmp_path / 'nowhere'}")
