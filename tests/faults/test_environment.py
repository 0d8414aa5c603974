"""Machines as users find them: full, closed, small, read-only, without names or a network. They work, or a line says why."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

LONG = os.environ.get("WIDESTEP_CHAOS") == "long"

TINY = "--recipe digits --grid 2x1x10 --train-images 100 --epochs 2ep --decay-at 1ep --warmup 0ep --device cpu"
STUDY = """
name = "tiny"
title = "Two warmups"
recipe = "digits"
seeds = [0]
margin = 0.5
device = "cpu"

[set]
grid = "2x1x10"
train_images = 100
epochs = "2ep"
decay_at = ["1ep"]

[arms.short]
set = { warmup = "0ep" }

[arms.long]
set = { warmup = "1ep" }
"""


@cache
def why_not_isolated(flags: str) -> str:
    """Why `unshare FLAGS` does not work here; empty when it does."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    done = subprocess.run(["unshare", *flags.split(), "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() and f"unshare is not allowed here: {done.stderr.strip()}"


class Shell:
    """Runs lines of a shell in which `widestep` is the program, in a directory of its own."""

    def __init__(self, program, directory):
        self.program, self.directory = program, directory

    def __call__(self, script, *, isolated="", variables=None, without=()):
        if isolated and (reason := why_not_isolated(isolated)):
            pytest.skip(reason)
        env = {**self.program.environment(), **(variables or {})}
        for name in without:
            env.pop(name, None)
        lines = f'widestep() {{ {shlex.quote(sys.executable)} -m widestep "$@"; }}\n{script}'
        words = ["unshare", *isolated.split()] if isolated else []
        return subprocess.run(
            [*words, "bash", "-c", lines],
            cwd=self.directory,
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@pytest.fixture
def shell(program, tmp_path):
    (tmp_path / "tiny.toml").write_text(STUDY)
    return Shell(program, tmp_path)


def worked(found):
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr


def refused(found, code, *words):
    assert found.returncode == code, found.stderr
    assert "Traceback" not in found.stderr
    last = found.stderr.splitlines()[-1]
    assert last.startswith("widestep: ")
    for word in words:
        assert word in last


@pytest.fixture(scope="module")
def weights(program, tmp_path_factory):
    """The hash of the weights of an untroubled run."""
    directory = tmp_path_factory.mktemp("untroubled")
    found = program("train", *TINY.split(), "--out", directory / "run")
    assert found.code == 0, found.stderr
    return found.stdout.splitlines()[1]


def test_a_strict_umask_and_no_home(shell, weights):  # row 59
    found = shell(f"umask 077; widestep train {TINY} --out run", without=["HOME"])
    worked(found)
    assert weights in found.stdout
    assert (shell.directory / "run").stat().st_mode & 0o077 == 0


def test_a_home_that_cannot_be_written_and_no_temporary_directory(shell):  # row 59
    variables = {"HOME": "/proc", "TMPDIR": "/nowhere", "TERM": "dumb"}
    worked(shell("widestep study run ./tiny.toml --jobs 1 --out study && widestep report study", variables=variables))
    assert (shell.directory / "study/report/index.html").exists()


def test_a_full_temporary_directory(shell, weights):  # row 59
    full = "mkdir full; mount -t tmpfs -o size=4k none full; head -c 9999 /dev/zero > full/x 2> /dev/null;"
    found = shell(f"{full} TMPDIR=$PWD/full widestep train {TINY} --processes 2 --out run", isolated="-m")
    worked(found)
    assert weights in found.stdout


@pytest.fixture
def open_place():
    """A directory that everybody may enter; those of pytest are closed again by whoever starts it next."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_another_user(shell, weights, open_place, monkeypatch):  # row 59
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user")
    monkeypatch.setattr(shell, "directory", open_place)
    (shell.directory / "his").mkdir()
    os.chown(shell.directory / "his", 65534, 65534)
    become = f"setpriv --reuid=65534 --regid=65534 --clear-groups {shlex.quote(sys.executable)} -m widestep"
    worked(shell(f"{become} train {TINY} --out his/run"))
    refused(shell(f"{become} train {TINY} --out run"), 5, "The run directory must be writable. 'run'", "Permission denied")


def test_few_descriptors(shell, weights):  # row 61
    found = shell(f"ulimit -n 64; widestep train {TINY} --processes 2 --out run")
    worked(found)
    assert weights in found.stdout
    refused(shell(f"ulimit -n 20; widestep train {TINY} --out another"), 5, "It may open 20 (ulimit -n)", "raise that limit")
    for limit in (10, 16):
        told = shell(f"ulimit -n {limit}; widestep train {TINY} --processes 2 --out another")
        refused(told, 5, f"It may open {limit} (ulimit -n)", "raise that limit")
    assert not (shell.directory / "another").exists()


def test_a_soft_limit_is_raised(shell):  # row 61
    worked(shell(f"ulimit -Sn 20; widestep train {TINY} --out run"))


def test_only_the_loopback_interface(shell, weights):  # row 32
    found = shell(f"ip link set lo up; widestep train {TINY} --processes 2 --out run", isolated="-n")
    worked(found)
    assert weights in found.stdout


def test_no_network_at_all(shell, weights):  # row 32
    found = shell(f"widestep train {TINY} --out run", isolated="-n")
    worked(found)
    assert weights in found.stdout
    found = shell(f"widestep train {TINY} --processes 2 --out two", isolated="-n")
    refused(found, 5, "127.0.0.1 cannot be reached", "ip link set lo up")
    found = shell("widestep doctor --device cpu", isolated="-n")
    assert found.returncode == 0
    assert "warning  loopback    127.0.0.1 cannot be reached" in found.stdout
    refused(shell("widestep doctor --device cpu --processes 2", isolated="-n"), 5, "loopback")


def test_a_host_whose_name_has_no_address(shell, weights):  # row 32
    found = shell(f"hostname nobody.invalid; widestep train {TINY} --processes 2 --out run", isolated="-u")
    worked(found)
    assert weights in found.stdout


def test_a_read_only_directory(shell):  # row 37
    locked = "mkdir ro; mount -t tmpfs -o size=8m none ro; mount -o remount,ro ro;"
    found = shell(f"{locked} widestep train {TINY} --out ro/run", isolated="-m")
    refused(found, 5, "The run directory must be writable. 'ro/run' is not (Read-only file system)")
    refused(shell(f"{locked.replace('mkdir ro;', '')} widestep study run ./tiny.toml --out ro/s", isolated="-m"), 5, "ro/s")
    found = shell(f"{locked.replace('mkdir ro;', '')} widestep doctor --device cpu --out ro/run", isolated="-m")
    refused(found, 5, "directory")
    assert "problem  directory   The run directory must be writable." in found.stdout


def test_no_space_for_two_checkpoints(shell):  # row 35, before the start
    small = "mkdir small; mount -t tmpfs -o size=96k none small;"
    found = shell(f"{small} widestep train {TINY} --out small/run; code=$?; ls -A small; exit $code", isolated="-m")
    refused(found, 5, "Two checkpoints and the records must fit on the disk of small/run", "96 KiB are free")
    assert found.stdout == ""


def test_no_inodes(shell):  # row 35, before the start
    small = "mkdir small; mount -t tmpfs -o size=9m,nr_inodes=20 none small;"
    refused(shell(f"{small} widestep train {TINY} --out small/run", isolated="-m"), 5, "19 inodes left")


def test_files_may_not_be_as_large_as_a_checkpoint(shell):  # row 39
    refused(shell(f"ulimit -f 16; widestep train {TINY} --out run"), 5, "(ulimit -f)", "A checkpoint of this recipe takes")
    assert not (shell.directory / "run").exists()


@pytest.mark.parametrize("options", ["size=8m", "size=4k,ro"] if LONG else ["size=8m"])
def test_tiny_shared_memory(shell, weights, options):  # row 74
    found = shell(f"mount -t tmpfs -o {options} none /dev/shm; widestep train {TINY} --processes 2 --out run", isolated="-m")
    worked(found)
    assert weights in found.stdout


def test_the_working_directory_was_deleted(shell):  # row 56
    for command in ("train", "doctor"):
        found = shell(f"mkdir -p gone; cd gone; rmdir ../gone; widestep {command}")
        refused(found, 5, "The working directory must exist.", "cd to one that does")
        assert found.stdout == ""


def test_no_gpu(shell):  # row 90
    found = shell(
        "widestep train --recipe digits --device cuda --processes 2 --out run", variables={"CUDA_VISIBLE_DEVICES": ""}
    )
    refused(found, 5, "device cuda: 0 found; use --device cpu")
    assert not (shell.directory / "run").exists()


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams(shell, weights, closed):  # row 22
    """What is opened next takes the number of what is closed: nothing may be printed into a checkpoint."""
    worked(shell(f"widestep train {TINY} --out run {closed}"))
    assert json.loads((shell.directory / "run/result.json").read_text())["weights_sha256"] in weights
    assert weights in shell("widestep eval run").stdout


def test_results_that_cannot_be_written(shell):  # row 36
    found = shell("widestep lr --recipe poster > /dev/full")
    refused(found, 5, "Results go to standard output. It cannot be written (No space left on device)")
    found = shell(f"widestep train {TINY} --out run > /dev/full")
    refused(found, 5, "Results go to standard output.")
    worked(shell(f"widestep train {TINY} --out run"))


def test_what_is_merely_said_may_be_lost(shell, weights):  # row 36
    found = shell(f"widestep train {TINY} --out run 2> /dev/full")
    worked(found)
    assert weights in found.stdout
    found = shell("widestep lr --zzz 1 2> /dev/full")
    assert (found.returncode, found.stdout) == (2, "")


def test_a_reader_that_goes_away(shell):  # row 22
    worked(shell(f"set -o pipefail; widestep train {TINY} --out run 2>&1 | true"))
    worked(shell("set -o pipefail; PYTHONUNBUFFERED=1 widestep lr --recipe poster | head -1"))
    worked(shell("test $(cat run/STATUS) = complete"))
