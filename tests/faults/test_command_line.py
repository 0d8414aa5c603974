"""G11 and G18: whatever stands on the command line, the answer is a result, or one sentence with a code of the contract."""

import os
import random
import signal
from collections import Counter

import pytest

from widestep.cli.main import run
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe

LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
CODES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 75}
EXAMPLES = """
recipes list
recipes show poster
recipes show mlperf-lars:32768 --json
recipes explain goyal2017:32768
recipes explain digits --grid 40x1x8 --warmup 4ep --json
recipes fields
lr --recipe poster --grid 40x6x128 --warmup 10ep --steps 0:5
lr --recipe digits --grid 40x1x8 --plot rate.svg
lr --recipe poster --json
diff poster poster-as-run
diff runs/one runs/two
train --recipe digits --grid 40x1x8 --warmup 4ep --dry-run
train --recipe poster --data folder:PATH --grid 1x2x8 --epochs 4st --dry-run
train --recipe poster --optimizer lars-tf --dry-run
study plan poster-digits
study plan poster --images-per-second 80000 --json
study status studies/poster-digits
study retry studies/poster-digits
study work studies/poster-digits
report studies/poster-digits
report runs/one runs/two --out comparison
eval runs/wide
data check folder:PATH
data pack folder:PATH OUT
data order --epoch 1 --step 2
verify --processes 0
train --help
study run --help
doctor --help
--version
--help
"""
COMMANDS = [line.split() for line in EXAMPLES.strip().splitlines()]
VALUES = ["1e-3", "no", "nan", "inf", "-1", "0", "", "x" * 300, "9" * 400, "9999999x9999999x9999999", "1000000x1x1"]
VALUES += ["١", "\x1b[31m", "a\nb", "--", "-", "=", "none", "true", "1ep", "999999999999ep", "1000000000000st", "5:3"]
VALUES += [
    "nowhere.toml",
    "/",
    "/dev/null",
    "/dev/zero",
    ".",
    "..",
    "~",
    "$(touch PWNED)",
    "`touch PWNED`",
    "a;b",
    "*",
    "%s",
]
VALUES += ["{}", "\udcff", "folder:/nonexistent", "packed:/dev/null", "parquet:.", "tar:.", "group:3", "net.py:Net"]
OPTIONS = [f"--{name.replace('_', '-')}" for name in [*Recipe.model_fields, *Execution.model_fields]]
OPTIONS += [
    "--recipe",
    "--json",
    "--steps",
    "--plot",
    "--seeds",
    "--jobs",
    "--out",
    "--help",
    "--no-json",
    "--dry-run",
    "-h",
]


def mutated(words, rng):
    for _ in range(rng.randint(1, 3)):
        at, kind = rng.randrange(len(words) or 1), rng.randrange(8)
        word = words[at] if words else ""
        if kind == 0:
            words = words[:at] + words[at + 1 :]
        elif kind == 1:
            words = [*words[:at], word, *words[at:]]
        elif kind == 2:
            words = [*words[:at], rng.choice(VALUES), *words[at + 1 :]]
        elif kind == 3:
            words = [*words[:at], rng.choice(VALUES), *words[at:]]
        elif kind == 4:
            words = [*words, rng.choice(OPTIONS), rng.choice(VALUES)]
        elif kind == 5:
            words = [*words, f"{rng.choice(OPTIONS)}={rng.choice(VALUES)}"]
        elif kind == 6:
            words = [*words, rng.choice(OPTIONS)]
        elif word:
            place = rng.randrange(len(word))
            letter = rng.choice(["", chr(rng.randrange(33, 127)), word[place] * 2])
            words = [*words[:at], word[:place] + letter + word[place + 1 :], *words[at + 1 :]]
    return words


def would_work_for_long(words):
    """Training, packing, measuring and listening are other tests' business."""
    quick = {"--dry-run", "--help", "-h"} & set(words)
    first = [word for word in words if not word.startswith("-")][:2]
    return not quick and (first[:1] in (["train"], ["verify"], ["bench"], ["doctor"]) or first[1:] in (["run"], ["bench"]))


@pytest.fixture
def within_ten_seconds():
    def too_long(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    yield lambda: signal.alarm(10)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_any_command_line_is_answered(within_ten_seconds, tmp_path, monkeypatch, capsys):  # G11
    monkeypatch.chdir(tmp_path)
    rng, codes = random.Random(2_000), Counter()
    while codes.total() < (2_000 if LONG else 250):
        words = mutated(list(rng.choice(COMMANDS)), rng)
        if would_work_for_long(words):
            continue
        within_ten_seconds()
        code = run(words)
        stdout, stderr = capsys.readouterr()
        codes[code] += 1
        assert code in CODES - {1}, (words, stderr)
        assert "Traceback" not in stdout + stderr, words
        if code:
            last = stderr.splitlines()[-1]
            assert last.startswith("widestep: "), (words, stderr)
            assert last.isprintable(), words
            assert len(last) < 2_100, words
        if code == 2:
            assert stdout == "", words
    assert not list(tmp_path.rglob("PWNED"))
    assert codes[0] > 10
    assert codes[2] > 100
    print(dict(codes))


def test_processes_answer_as_this_one_does(program, tmp_path):  # G18
    """The same as a process: arguments are bytes there, and nothing may be left of them."""
    for words, code in (
        (["lr", "--recipe", "\udcff.toml"], 2),
        (["study", "plan", "\x1b]0;title\x07"], 2),
        (["train", "--dry-run", "--momentun", "0.9"], 2),
        (["report", str(tmp_path / "a\nb")], 2),
        (["lr", "--recipe", "poster", "--data", "folder:/nowhere"], 3),
    ):
        found = program(*words)
        assert (found.code, found.stdout) == (code, "")
        assert found.stderr.startswith("widestep: ")
        assert found.stderr.count("\n") == 1
        assert found.stderr.strip().isprintable()


def test_help_is_never_an_error(capsys):
    for words in {tuple(word for word in command[:2] if not word.startswith("-")) for command in COMMANDS}:
        known = words if words[:1] in (("study",), ("data",), ("recipes",)) else words[:1]
        assert run([*known, "--help"]) == 0
        stdout, stderr = capsys.readouterr()
        assert "Usage: widestep" in stdout
        assert stderr == ""
