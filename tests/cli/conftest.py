"""The command line within this process, in an empty directory, and studies that were never trained."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from modules_by_path import module_at

from widestep.cli.main import run


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in."""
    directory = tmp_path / "empty"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], empty: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """`say("lr --recipe poster")` runs a command that does not need torch; more arguments are taken as they are."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def execute(words: str, *arguments: object) -> Said:
        capsys.readouterr()
        code = run([*words.split(), *map(str, arguments)])
        return Said(code, *capsys.readouterr())

    return execute


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The fake runs of tests/study."""
    return module_at(Path(__file__).parents[1] / "study" / "fake_runs.py")


TINY = """
name = "tiny"
title = "Two warmups, two seeds"
recipe = "digits"
seeds = [0, 1]
margin = 0.5
device = "cpu"

[set]
grid = "2x1x10"
train_images = 200
epochs = "15ep"
decay_at = ["12ep"]
stack = 2

[arms.short]
set = { warmup = "0ep" }

[arms.long]
set = { warmup = "1ep" }
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a study of four runs of 150 steps."""
    path = tmp_path_factory.mktemp("definition") / "tiny.toml"
    path.write_text(TINY)
    return path
