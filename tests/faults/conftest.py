"""What tests of faults share: recipes that are refused, commands without torch, studies written as training would."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from modules_by_path import module_at

from widestep.cli.main import run
from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.recipe import Recipe


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """`load(text)` reads a recipe from the file mine.toml."""
    monkeypatch.chdir(tmp_path)

    def from_text(text: str | bytes, name: str = "mine.toml") -> Recipe:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return recipes.load(name).recipe

    return from_text


@pytest.fixture
def refusal(load: Callable[..., Recipe]) -> Callable[[str | bytes], str]:
    """`refusal(text)` is the sentence that a recipe is refused with."""

    def sentence(text: str | bytes) -> str:
        with pytest.raises(UsageError) as caught:
            load(text)
        assert len(str(caught.value)) < 2_000
        return str(caught.value)

    return sentence


@pytest.fixture
def say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`say("lr", ...)` runs a command that needs no torch: exit code, stdout and the one line of stderr."""
    monkeypatch.chdir(tmp_path)

    def execute(*words: object) -> tuple[int, str, str]:
        code = run([str(word) for word in words])
        stdout, stderr = capsys.readouterr()
        assert stderr.count("\n") <= 1
        return code, stdout, stderr

    return execute


@pytest.fixture(scope="session")
def writers() -> ModuleType:
    """The writers of runs and studies of tests/report."""
    return module_at(Path(__file__).parents[1] / "report" / "conftest.py")
