"""Faults as sentences: `job.fail_at(process=1, step=7, how="kill")`, then train and look."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = Path(__file__).with_name("failing_program.py")
FIELDS = {
    "grid": "1x6x4",
    "train_images": 240,
    "epochs": "4",
    "workers_per_forward": 1,
    "dropout": 0.1,
    "evaluate_every": "2ep",
    "val_images": 100,
}
"""40 steps of a network with batch normalisation and dropout."""
EXECUTION = {"tensorboard": "false", "checkpoint_every": "5st"}


@dataclass
class Job:
    """A training command and what shall go wrong in it."""

    directory: Path
    environment: dict[str, str]
    options: Callable[..., list[str]]
    faults: list[dict[str, Any]] = field(default_factory=list)
    children: list["subprocess.Popen[str]"] = field(default_factory=list)
    python: str = sys.executable

    def fail_at(self, *, process: int, how: str, **when: Any) -> "Job":
        """Let something happen to a process."""
        self.faults.append({"process": process, "how": how, **when})
        return self

    def words(self, **changes: Any) -> list[str]:
        """Return the program and its arguments."""
        fields = {**FIELDS, **EXECUTION, **changes, "out": self.directory}
        return [str(_PROGRAM), json.dumps(self.faults), "train", *self.options(fields)]

    def start(self, processes: int = 1, *, under: Sequence[str] = (), **changes: Any) -> "subprocess.Popen[str]":
        """Start the command as the leader of a new session, by itself or under another launcher."""
        command = [sys.executable, *under, *self.words(**changes, processes=processes)]
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
        self.children.append(child)
        return child

    def train(self, processes: int = 1, **changes: Any) -> "Ended":
        """Run the command to its end."""
        child = self.start(processes, **changes)
        _, stderr = child.communicate(timeout=900)
        return Ended(child.returncode, stderr.splitlines())

    @property
    def events(self) -> list[dict[str, Any]]:
        """What history.jsonl tells."""
        return [json.loads(line) for line in (self.directory / "history.jsonl").read_text().splitlines()]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    lines: list[str]
    """Of stderr."""

    @property
    def restarts(self) -> list[str]:
        return [line.removeprefix("restart    ") for line in self.lines if line.startswith("restart ")]


@pytest.fixture
def job(program: Any, options: Any, power_cut: Any, tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path / "run", program.environment(), options)
    yield job
    for child in job.children:
        power_cut(child)


class Uninterrupted:
    """A run that nothing happened to, made once, and what to compare with it."""

    def __init__(self, make: Callable[[], Path], kept: Callable[[Path], dict[str, Any]]) -> None:
        self._make, self._kept = make, kept
        self._held: dict[str, Any] | None = None

    def __call__(self, directory: Path) -> None:
        """The run wrote what this one did."""
        if self._held is None:
            self._held = self._kept(self._make())
        assert self._kept(directory) == self._held

    def same(self, directory: Path, other: Path) -> None:
        """Two runs wrote the same."""
        assert self._kept(directory) == self._kept(other)


@pytest.fixture(scope="session")
def uninterrupted(program: Any, options: Any, kept_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    def make() -> Path:
        whole = tmp_path_factory.mktemp("whole") / "run"
        found = program("train", *options({**FIELDS, **EXECUTION, "out": whole}))
        assert found.code == 0, found.stderr
        return whole

    return Uninterrupted(make, kept_run)


@pytest.fixture(scope="session")
def kept_run() -> Callable[[Path], dict[str, Any]]:
    """Everything that a run wrote, without the times in it."""

    def read(directory: Path) -> dict[str, Any]:
        result = json.loads((directory / "result.json").read_text())
        for name in ("images_per_second", "wall_seconds", "interruptions"):
            del result[name]
        metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        for record in metrics:
            del record["seconds"]
        files = ("epochs.csv", "ledger.jsonl", "checkpoints/best.safetensors", "checkpoints/final.safetensors", "STATUS")
        return {"result": result, "metrics": metrics, **{name: (directory / name).read_bytes() for name in files}}

    return read


@pytest.fixture(scope="session")
def record() -> Iterator[Callable[..., None]]:
    """Keep figures of the long form in the file that WIDESTEP_CHAOS_FIGURES names."""
    held: list[dict[str, Any]] = []

    def keep(what: str, **figures: Any) -> None:
        held.append({"what": what, **figures})

    yield keep
    path = os.environ.get("WIDESTEP_CHAOS_FIGURES")
    if path and held:
        before = json.loads(Path(path).read_text()) if Path(path).exists() else []
        Path(path).write_text(json.dumps([*before, *held], indent=2) + "\n")
