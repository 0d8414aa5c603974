"""Planning, studying, reporting and help never wait for torch, and work where it is not installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import widestep

SOURCE = Path(widestep.__file__).parent
PACKAGES = ("plan", "records", "study", "report")
MODULES = [
    *(f"widestep.{package}.{path.stem}" for package in PACKAGES for path in sorted((SOURCE / package).glob("[!_]*.py"))),
    *(f"widestep.data.stores.{path.stem}" for path in sorted((SOURCE / "data" / "stores").glob("[!_]*.py"))),
    *("widestep.files", "widestep.errors", "widestep.data.facts", "widestep.workers.launched", "widestep.workers.launcher"),
    *("widestep.cli.main", "widestep.cli.options", "widestep.cli.data"),
]
HELP = ("", "train", "eval", "lr", "verify", "doctor", "report", "certify", "study", "data", "recipes")
STUDY, DATA, RECIPES = ("run", "plan", "status", "retry", "work"), ("check", "pack", "order"), ("list", "show", "fields")
COMMANDS = [
    "--version",
    *(f"{name} --help".strip() for name in HELP),
    *(f"study {name} --help" for name in STUDY),
    *(f"data {name} --help" for name in DATA),
    *(f"recipes {name} --help" for name in RECIPES),
    *("recipes list", "recipes show poster", "recipes fields"),
    *("lr --recipe poster --json", "train --recipe digits --dry-run"),
]

IMPORT_ALL = """
import importlib, json, sys
at_fault = []
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    if "torch" in sys.modules:
        at_fault.append(name)
        break
print(json.dumps(at_fault))
"""

WITHOUT_TORCH = """
import contextlib, io, json, sys
sys.modules["torch"] = None  # whoever imports it fails
from widestep.cli.main import run
codes = {}
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            code = run(command.split())
        except Exception as error:
            code = repr(error)
    codes[command] = [code, len(said.getvalue())]
print(json.dumps(codes))
"""


def in_a_fresh_interpreter(program: str, given: list[str]) -> object:
    command = [sys.executable, "-c", program, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_planning_studying_and_reporting_do_not_reach_torch():
    assert len(MODULES) > 40
    assert in_a_fresh_interpreter(IMPORT_ALL, MODULES) == []


@pytest.fixture(scope="module")
def codes() -> object:
    return in_a_fresh_interpreter(WITHOUT_TORCH, COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_works_without_torch(command, codes):
    code, length = codes[command]
    assert code == 0
    assert length > 5


def test_the_program_itself_does_not_import_torch():
    """The whole of `python -m widestep --help`, as the interpreter itself lists its imports."""
    program = [sys.executable, "-X", "importtime", "-m", "widestep", "--help"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=600)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "widestep.cli.main" in imported
    assert not [name for name in imported if name.split(".")[0] in ("torch", "matplotlib", "scipy")]
    assert "train" in done.stdout
