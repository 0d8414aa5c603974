"""Studies of trials that are never trained: fake runs, a disk that does not wait, and programs without torch."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from modules_by_path import module_at

from widestep.study.store import StudyStore
from widestep.study.study import Study, Trial, parse

HERE = Path(__file__).parent

TWELVE = """
name = "twelve"
title = "Three warmups, four seeds"
recipe = "digits"
seeds = [0, 1, 2, 3]
margin = 0.5
device = "cpu"

[arms.warm]
axes = { warmup = ["0ep", "2ep", "4ep"] }

[claims.worst]
text = "No warmup is worst."
test = "worst"
arms = ["warm"]
axis = "warmup"
"""


@pytest.fixture(autouse=True)
def disk_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here survives the test, so nothing needs to survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """`fake.finish(run)` and `fake.begin(run)`; programs of this directory import the same file."""
    return module_at(HERE / "fake_runs.py")


@pytest.fixture(scope="session")
def twelve_text() -> str:
    return TWELVE


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., StudyStore]:
    """`make(text)` begins a study in a directory of its own; `make(("old", "new"), ...)` changes the text of TWELVE."""

    def begun(*changes: tuple[str, str], text: str = TWELVE, directory: Path | None = None) -> StudyStore:
        return StudyStore.create(directory or tmp_path / "study", parse(edited(text, *changes)))

    return begun


def edited(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="session")
def edit() -> Callable[..., str]:
    return edited


@pytest.fixture(scope="session")
def parsed() -> Callable[..., Study]:
    """`parsed(("old", "new"), ...)` parses TWELVE with changes."""
    return lambda *changes, text=TWELVE: parse(edited(text, *changes))


@pytest.fixture
def place() -> Callable[[Trial], tuple[Any, int]]:
    """A trial by its warmup and seed."""
    return lambda trial: (trial.settings["warmup"], trial.seed)


@pytest.fixture
def start(program: Any) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """`start("racing_program.py", ...)` starts a program of this directory; none outlives the test."""
    with ExitStack() as stack:

        def started(name: str, *arguments: object) -> "subprocess.Popen[str]":
            child = subprocess.Popen(
                [sys.executable, str(HERE / name), *map(str, arguments)],
                env=program.environment(),
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(child.wait)
            stack.callback(child.kill)
            stack.callback(child.stdout.close)  # type: ignore[union-attr]
            return child

        yield started
