"""Files and directories with every name a file system allows: they work, or exit code 2 names them escaped."""

import os
import subprocess
import sys

import pytest

OPTIONS = "--grid 2x1x10 --train-images 100 --epochs 2ep --decay-at 1ep --warmup 0ep --device cpu"
TINY = OPTIONS.split()
NAMES = [
    b"with space",
    b"new\nline",
    "Übung-日本".encode(),
    b"bad\xff\xfebytes",
    b"n" * 255,
    b"-dash",
    b"quo'te\"s",
    b"$(touch PWNED)",
    "😀".encode(),
    b"dot.",
    b"a;b&c|d>e",
    b"tab\tescape\x1b[31m",
]
RECIPE = b'warmup = "0ep"\nepochs = "2ep"\ndecay_at = ["1ep"]\ngrid = "2x1x10"\ntrain_images = 100\n'
STUDY = b"""
name = "tiny"
title = "One"
recipe = "digits"
seeds = [0]
margin = 0.5
device = "cpu"
[arms.only]
set = { warmup = "0ep", grid = "2x1x10", train_images = 100, epochs = "2ep", decay_at = ["1ep"] }
"""
NASTIEST = b"$(touch PWNED) '\n\xff\xf0\x9f\x98\x80\""
LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
LOCALES = [{"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}]
STRICT = {"PYTHONIOENCODING": "utf-8:strict"}
"""What Python does in most locales with names that are not text."""

EVERY_NAME = pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[2:22] for name in NAMES])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def as_option(name):
    """A word that is taken as the value of an option even where it begins with a dash."""
    return f"--out={os.fsdecode(name)}"


@EVERY_NAME
def test_a_run_directory(command, here, name):  # row 58
    found = command("train", "--recipe", "digits", *TINY, as_option(name))
    assert found.code == 0, found.stderr
    assert os.listdir(os.fsencode(here)) == [name]
    again = command("train", "--recipe", "digits", *TINY, as_option(name))
    assert (again.code, again.stdout.splitlines()[1]) == (0, found.stdout.splitlines()[1])
    found = command("eval", f"./{os.fsdecode(name)}")
    assert found.code == 0, found.stderr
    assert os.listdir(os.fsencode(here)) == [name]


@EVERY_NAME
def test_a_recipe_file(command, here, name):  # row 58
    """Its run is called after it; a name that leaves no room for the fingerprint is refused."""
    file = name[:250] + b".toml"
    (here / os.fsdecode(file)).write_bytes(RECIPE)
    found = command("train", f"--recipe={os.fsdecode(file)}", "--device", "cpu")
    assert not (here / "PWNED").exists()
    if len(name) == 255:
        assert found.code == 2
        assert "must be a name that a file can have" in found.stderr
        found = command("train", f"--recipe={os.fsdecode(file)}", "--device", "cpu", "--out", "run")
    assert found.code == 0, found.stderr


@EVERY_NAME
def test_a_directory_in_doctor(command, here, name):  # row 58
    found = command("doctor", "--device", "cpu", as_option(name))
    assert found.code == 0
    assert len(found.stdout.splitlines()) == 18
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", ["n" * 256, "Ü" * 128, "a/" * 2500], ids=["256 bytes", "128 letters", "a long path"])
def test_names_no_file_can_have(command, here, name):  # row 58
    for words in (["train", "--recipe", "digits", *TINY, "--out"], ["eval"], ["report"], ["study", "status"]):
        found = command(*words, name)
        assert found.code == 2
        assert found.stderr.startswith("widestep: ")
        assert found.stderr.count("\n") == 1
        assert list(here.iterdir()) == []


def in_a_process(program, here, variables, *words):
    env = program.environment(**variables)
    line = [sys.executable, "-m", "widestep", *words]
    done = subprocess.run(line, cwd=here, env=env, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    return done


@pytest.mark.processes
@pytest.mark.parametrize("variables", LOCALES if LONG else [LOCALES[0] | STRICT], ids=lambda found: "-".join(found.values()))
@pytest.mark.parametrize("name", [*NAMES, NASTIEST] if LONG else [NASTIEST], ids=ascii)
def test_processes_studies_and_reports(program, here, variables, name):  # row 58
    out = b"--out=" + name[:240]
    in_a_process(program, here, variables, "train", "--recipe", "digits", *TINY, "--processes", "2", out)
    in_a_process(program, here, variables, "report", b"./" + name[:240], b"--out=r" + name[:240])
    (here / "tiny.toml").write_bytes(STUDY)
    out = b"s" + name[:240]
    in_a_process(program, here, variables, "study", "run", "./tiny.toml", "--jobs", "1", b"--out=" + out)
    assert b"complete" in in_a_process(program, here, variables, "study", "status", out).stdout
    assert not (here / "PWNED").exists()
    assert sorted(os.listdir(os.fsencode(here))) == sorted([name[:240], b"r" + name[:240], out, b"tiny.toml"])
