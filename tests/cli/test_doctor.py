"""`widestep doctor`: one line a fact, a remedy for every problem, the same under every launcher, nothing left behind."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import widestep
from widestep.cli import doctor
from widestep.records import machine, place
from widestep.records.fact import Fact

ALONE = [
    *("processes", "agreement", "versions", "torch", "device", "directory", "filesystem", "space", "locks", "tmpdir"),
    *("memory", "cores", "descriptors", "shm", "loopback", "hostname", "shared", "reduction"),
]


def lines_of(text):
    """state -> names, and name -> the rest of its line."""
    rows = [line.split(None, 2) for line in text.splitlines()]
    assert {row[0] for row in rows} <= {"ok", "warning", "problem"}
    return [row[1] for row in rows], {row[1]: row[2] for row in rows}, {row[1]: row[0] for row in rows}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_line_for_every_fact(command, here):
    found = command("doctor", "--device", "cpu")
    names, said, states = lines_of(found.stdout)
    assert names == ALONE
    assert (found.code, found.stderr) == (0, "")
    assert "problem" not in states.values()
    assert widestep.__version__ in said["versions"]
    assert socket.gethostname() in said["processes"]
    assert said["directory"] == "'runs' does not exist and can be made"
    assert list(here.iterdir()) == []


def test_json_is_stable(command, here):
    found = command("doctor", "--device", "cpu", "--out", here / "a" / "b", "--json")
    record = json.loads(found.stdout)
    assert sorted(record) == ["facts", "launcher", "num_processes", "state"]
    assert (record["launcher"], record["num_processes"]) == ("nobody", 1)
    assert [fact["name"] for fact in record["facts"]] == ALONE
    assert all(sorted(fact) == ["name", "remedy", "state", "text", "values", "where"] for fact in record["facts"])
    values = {fact["name"]: fact["values"] for fact in record["facts"]}
    assert values["space"]["free"] > 0
    assert values["descriptors"]["needed"] == machine.needed_descriptors(1)
    assert values["torch"]["torch"] == values["versions"]["torch"]
    assert values["filesystem"]["kind"] == place.space(here).kind
    assert list(here.iterdir()) == []


def test_every_problem_has_a_remedy_and_exit_code_5(command, here):
    (here / "file").write_text("mine")
    found = command("doctor", "--device", "cuda", "--out", here / "file" / "runs", "--json")
    problems = {fact["name"]: fact for fact in json.loads(found.stdout)["facts"] if fact["state"] == "problem"}
    assert found.code == 5
    assert "directory" in problems
    assert all(fact["remedy"] for fact in problems.values())
    (line,) = found.stderr.splitlines()
    assert line.startswith("widestep: Training needs an environment without problems. ")
    assert all(name in line for name in problems)
    assert (here / "file").read_text() == "mine"


def test_no_gpu(command, here, monkeypatch):  # row 90
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    found = command("doctor", "--device", "cuda")
    assert found.code == 5
    assert "problem  device      cuda: 0 found; use --device cpu" in found.stdout
    found = command("train", "--recipe", "digits", "--device", "cuda")
    assert found.code == 5
    assert found.stderr.startswith("widestep: device cuda: 0 found; use --device cpu")
    assert list(here.iterdir()) == []


def test_torch_that_is_too_old(command, here, monkeypatch):  # row 92
    monkeypatch.setattr("torch.__version__", "2.9.1+cu126")
    found = command("doctor")
    names, said, states = lines_of(found.stdout)
    assert found.code == 5
    assert states["versions"] == "problem"
    assert "torch 2.9.1+cu126 is too old; widestep needs torch 2.10 or later: pip install 'torch>=2.10'" in said["versions"]
    assert "reduction" not in names


@pytest.mark.parametrize("error", [ImportError("No module named 'torch'"), OSError("libcudart.so.13: cannot open")])
def test_torch_that_cannot_be_imported(command, here, monkeypatch, error):  # row 91
    def fail(name):
        raise error

    monkeypatch.setattr(doctor, "importlib", type("", (), {"import_module": staticmethod(fail)}))
    found = command("doctor")
    assert found.code == 5
    assert f"torch cannot be imported: {error}" in found.stdout
    assert "ok       loopback" in found.stdout


@pytest.mark.parametrize("words", [["--processes", "0"], ["--processes", "5000"], ["--device", "gpu"], ["--outt", "x"]])
def test_what_cannot_be_asked(command, here, words):
    found = command("doctor", *words)
    assert (found.code, found.stdout) == (2, "")
    assert found.stderr.startswith("widestep: ")


def test_names_cannot_command_the_terminal(command, here):
    found = command("doctor", "--device", "cpu", "--out", here / "a\x1b[31m\nb")
    assert found.code == 0
    assert "\x1b" not in found.stdout
    assert len(found.stdout.splitlines()) == len(ALONE)


@pytest.mark.processes
def test_several_processes(program, here):
    found = program("doctor", "--processes", 2, "--device", "cpu", "--out", here / "new" / "runs")
    names, said, _ = lines_of(found.stdout)
    assert (found.code, names) == (0, ALONE)
    assert said["processes"].startswith("2 by widestep on 1 host(s)")
    assert said["shared"] == "all processes see the same directory"
    assert " ms for the 25.6 million gradients of ResNet-50 over 2 processes" in said["reduction"]
    assert list(here.iterdir()) == []


def started_by_hand(program, port, process, command, **extra):
    """One of two processes on this host, as a launcher such as torchrun starts them."""
    place = {"RANK": process, "LOCAL_RANK": process, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    env = program.environment(**{name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1", **extra)
    pipe, directory = subprocess.PIPE, extra.get("PWD")
    words = [sys.executable, "-m", "widestep", *command]
    return subprocess.Popen(words, env=env, cwd=directory, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def pair(program, held_port):
    """`pair(command, extra)` runs two processes of one job, the second one with other variables; returns their outcomes."""

    def run(command, **extra):
        port = held_port.getsockname()[1]
        children = [started_by_hand(program, port, 0, command), started_by_hand(program, port, 1, command, **extra)]
        try:
            return [(*child.communicate(timeout=600), child.returncode) for child in children]
        finally:
            for child in children:
                child.kill()

    return run


@pytest.fixture(scope="module")
def another_version(tmp_path_factory):
    """A folder with a copy of the package that calls itself another version."""
    folder = tmp_path_factory.mktemp("another")
    source = Path(widestep.__file__).parent
    shutil.copytree(source, folder / "widestep", ignore=shutil.ignore_patterns("__pycache__"))
    start = folder / "widestep" / "__init__.py"
    start.write_text(start.read_text().replace(f'"{widestep.__version__}"', '"0.0.9"'))
    return folder


@pytest.mark.processes
def test_mixed_versions_are_named_with_their_hosts(pair, another_version, here):
    (text, complaint, code), (silent, nothing, other) = pair(["doctor", "--device", "cpu"], PYTHONPATH=str(another_version))
    host = socket.gethostname()
    _, said, states = lines_of(text)
    assert states["agreement"] == "problem"
    assert f"widestep is {widestep.__version__} on {host} (process 0) and 0.0.9 on {host} (process 1)" in said["agreement"]
    assert complaint.splitlines()[-1].startswith("widestep: Training needs an environment without problems.")
    assert (code, other, silent, nothing) == (5, 5, "", "")


@pytest.mark.processes
def test_training_refuses_mixed_versions(pair, another_version, here):
    command = ["train", "--recipe", "digits", "--device", "cpu", "--out", str(here / "run")]
    (_, complaint, code), (_, nothing, other) = pair(command, PYTHONPATH=str(another_version))
    assert "widestep: All processes of a job run the same versions. Here widestep is" in complaint.splitlines()[-1]
    assert (code, other, nothing) == (5, 5, "")
    assert not (here / "run").exists()


@pytest.mark.processes
def test_training_refuses_processes_that_see_different_directories(pair, here):
    (here / "elsewhere").mkdir()
    command = ["train", "--recipe", "digits", "--device", "cpu", "--out", "run"]
    (_, complaint, code), (_, nothing, other) = pair(command, PWD=str(here / "elsewhere"))
    assert complaint.splitlines()[-1].startswith(
        "widestep: All processes must see the same run directory. What process 0 on"
    )
    assert f"is not seen by process 1 on {socket.gethostname()}; give an --out" in complaint
    assert (code, other, nothing) == (5, 5, "")
    assert list((here / "elsewhere").iterdir()) == []


def test_facts_of_several_hosts_name_the_host(capsys):
    from widestep.workers.launched import Launch

    facts = [Fact("memory", "ok", "much", where="a"), Fact("memory", "warning", "little", "buy some", where="b")]
    assert doctor._shown(facts, Launch("srun"), as_json=False) == 0
    assert capsys.readouterr().out == "ok       memory@a    much\nwarning  memory@b    little; buy some\n"
