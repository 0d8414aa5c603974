"""Help: every command has it, on a screen, with examples that are commands of this program."""

import importlib
import itertools
import re
import shlex

import pytest

from widestep.cli import main
from widestep.cli.main import app
from widestep.cli.options import request
from widestep.study import study as studies


def all_commands(parent=app, path=()):
    """Every command by walking the program's own table."""
    found = [path] if path else []
    for name in parent:
        if not name.startswith("-"):
            found += all_commands(parent[name], (*path, name))
    return found


COMMANDS = all_commands()
GROUPS = [("study",), ("data",), ("recipes",)]
LEAVES = [command for command in COMMANDS if command not in GROUPS]


def examples(text):
    """The lines below `For example:`; a line that was broken is put together again."""
    block = text.partition("For example:\n")[2].split("\n\n")[0].splitlines()
    whole = []
    for line in block:
        if line.startswith("  widestep "):
            whole.append(line.strip())
        else:
            whole[-1] += f" {line.strip()}"
    return whole


def test_these_are_all_commands():
    names = {" ".join(command) for command in COMMANDS}
    study = {f"study {name}" for name in ("run", "plan", "status", "retry", "work")}
    data = {f"data {name}" for name in ("check", "pack", "order", "bench")}
    recipes = {f"recipes {name}" for name in ("list", "show", "explain", "fields")}
    assert (
        names
        == {"train", "eval", "lr", "verify", "diff", "bench", "doctor", "report", "certify", "study", "data", "recipes"}
        | study
        | data
        | recipes
    )


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_help_fits_a_screen(say, command, flag):
    found = say(" ".join((*command, flag)))
    assert found.code == 0
    assert found.stderr == ""
    assert 4 <= len(found.lines) <= 60
    assert max(map(len, found.lines)) <= 80


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_help_has_examples_of_this_command(say, command):
    found = examples(say(" ".join((*command, "--help"))).stdout)
    assert found
    for line in found:
        words = shlex.split(line)
        assert words[: 1 + len(command)] == ["widestep", *command]


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_help_explains_every_option(say, command):
    text = say(" ".join((*command, "--help"))).stdout
    rows = re.findall(r"^│ (?:\*  )?(\S.*?)(?:  +(\S.*?))? *│$", text, flags=re.MULTILINE)
    assert rows or command == ("recipes", "list") or command == ("recipes", "fields")
    for name, explained in rows:
        assert explained[:1].isupper(), name


def test_the_fields_in_examples_exist(say):
    for command in (("train",), ("lr",), ("verify",)):
        for line in examples(say(" ".join((*command, "--help"))).stdout):
            words = [word for word in shlex.split(line)[2:] if word != "--explain-optimizer"]
            given = dict(itertools.pairwise([*words, ""]))
            names = {"--recipe", "--steps", "--plot", "--json", "--processes"}
            fields = {key: value for key, value in given.items() if key.startswith("--") and key not in names}
            if fields and given.get("--recipe") != "my.toml":
                request(given.get("--recipe", "digits"), fields)


def test_the_studies_in_examples_exist(say):
    for command in ("run", "plan"):
        for line in examples(say(f"study {command} --help").stdout):
            name = shlex.split(line)[3]
            assert name in studies.names() or name == "my-study.toml"


@pytest.mark.parametrize("command", [(), *GROUPS])
def test_a_list_of_commands_has_a_line_each(say, command):
    """As in a process that has loaded none of them: a command that was asked for help once says all in the list, too."""
    importlib.reload(main)
    text = say(" ".join((*command, "--help"))).stdout
    for name in (path[-1] for path in COMMANDS if path[:-1] == command):
        (line,) = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
        assert len(line.strip("│ ").split(None, 1)[1]) > 10


@pytest.mark.parametrize("words", ["", "study", "data", "recipes"])
def test_a_command_alone_helps(say, words):
    found = say(words)
    assert found.code == 0
    assert "Commands" in found.stdout


def test_the_version(say):
    assert say("--version").lines == ["0.1.0"]
