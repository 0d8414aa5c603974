"""Nothing from outside becomes code, nobody outside this machine is listened to, and no secret is written down."""

import ast
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import widestep
from widestep.errors import EnvironmentFault
from widestep.records import environment

PACKAGE = Path(widestep.__file__).parent
BANNED = re.compile(
    r"pickle|weights_only ?= ?False|allow_pickle|yaml\.load|_object\(|\beval\(|\bexec\(|shell ?= ?True|extractall|os\.system"
    r"|marshal|shelve|0\.0\.0\.0|joblib|dill\b|torch\.load\(|__import__|tempfile\.mktemp"
)
BANNED_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "yaml", "xml", "telnetlib", "http.server"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "extractall", "extract", "system", "popen", "mktemp", "breakpoint"}
SMALL = ("--recipe", "digits", "--grid", "4x1x8", "--tensorboard", "false")


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), path.read_text(encoding="utf-8")


def test_no_word_of_the_package_runs_what_others_have_written():
    found = [f"{name}: {match[0]}" for name, text in modules() for match in BANNED.finditer(text)]
    assert found == []


def name_of(function):
    return function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""


def test_no_call_of_the_package_runs_what_others_have_written():
    """The same by what is called and imported: another spelling is found too, and `re.compile` is not it."""
    found = []
    for name, text in modules():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                called = name_of(node.func)
                plain = called in ("compile", "system") and not (called == "compile" and isinstance(node.func, ast.Name))
                plain = plain and ast.unparse(node.func) not in ("os.system", "subprocess.system")
                if called in BANNED_CALLS and not plain:
                    found.append(f"{name}: {ast.unparse(node.func)}")
                arguments = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if arguments.get("shell") not in (None, "False") or arguments.get("weights_only") == "False":
                    found.append(f"{name}: {ast.unparse(node)}")
            imported = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{name}: {one}" for one in imported if one in BANNED_MODULES or one.split(".")[0] in BANNED_MODULES]
    assert found == []


def test_the_search_finds_what_it_looks_for():
    bad = "import pickle\nx = eval('1')\nrun('x', shell=True)\n"
    assert [match[0] for match in BANNED.finditer(bad)] == ["pickle", "eval(", "shell=True"]


def test_no_secret_of_the_environment_is_written_down(program, tmp_path):
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "canary-1",
        "HF_TOKEN": "canary-2",
        "SSH_AUTH_SOCK": "canary-3",
        "MY_PASSWORD": "canary-4",
    }
    (tmp_path / "one.toml").write_text(
        'name = "one"\ntitle = "T"\nrecipe = "digits"\nseeds = [0]\nmargin = 0.5\ndevice = "cpu"\n[set]\nepochs = "1ep"\n'
        '[arms.a]\n[[figures]]\nnumber = 1\nkind = "final"\narm = "a"\ntitle = "T"\n'
    )
    for words in (
        ("train", *SMALL, "--epochs", "1", "--out", tmp_path / "run"),
        ("study", "run", tmp_path / "one.toml", "--out", tmp_path / "study"),
        ("report", tmp_path / "run", "--out", tmp_path / "report"),
    ):
        command = [sys.executable, "-m", "widestep", *map(str, words)]
        found = subprocess.run(command, env=program.environment(**secrets), capture_output=True, timeout=600, check=False)
        assert found.returncode == 0, found.stderr.decode()[-500:]
        assert b"canary" not in found.stdout + found.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if b"canary" in path.read_bytes()] == []


def processes_of(leader):
    """A process with all that it has started, and all that these have, whatever groups and sessions they are in."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [leader]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def listeners(processes):
    """Addresses, as the kernel writes them, and ports on which processes listen."""
    inodes = set()
    for process in processes:
        try:
            links = [os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir()]
        except OSError:
            continue
        inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                address, port = words[1].split(":")
                found.add((address, int(port, 16)))
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def molest(port, rng):
    """Say to a port what scanners, browsers and strangers say."""
    for words in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 64, rng.randbytes(200_000), b"", b"\x01" + b"\xff" * 40):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as stranger:
                stranger.sendall(words)
                stranger.settimeout(0.05)
                stranger.recv(100)
        except OSError:
            continue


@pytest.mark.processes
def test_only_this_machine_is_listened_to_and_strangers_change_nothing(
    program, command, until, power_cut, tmp_path
):  # row 34
    words = ("train", *SMALL, "--epochs", "30", "--base-lr", "0.02")
    child = program.start(*words, "--processes", 2, "--out", tmp_path / "two", heard=False)
    seen, rng = set(), random.Random(34)
    try:
        while child.poll() is None:
            now = listeners(processes_of(child.pid))
            seen |= now
            for _, port in now:
                molest(port, rng)
            time.sleep(0.02)
        assert child.wait(600) == 0
    finally:
        power_cut(child)
    assert {address for address, _ in seen} <= LOOPBACK
    alone = json.loads(command(*words, "--out", tmp_path / "one", "--json").stdout)
    beside = json.loads((tmp_path / "two" / "result.json").read_text())
    assert beside["weights_sha256"] == alone["weights_sha256"]
    assert beside["status"] == "complete"


@pytest.mark.parametrize(
    ("version", "least"), [("2.9.1", False), ("1.13.0+cu117", False), ("2.10.0a0+git", True), ("3.0", True)]
)
def test_a_torch_that_is_too_old_is_refused_with_versions(monkeypatch, version, least):  # row 92
    monkeypatch.setattr(environment.metadata, "version", lambda name: version)
    if least:
        environment.require_torch()
        return
    with pytest.raises(
        EnvironmentFault, match=rf"needs torch 2\.10 or later\. This is {re.escape(version)}; run pip install"
    ):
        environment.require_torch()


def test_without_torch_training_is_refused_before_anything(program, tmp_path):  # rows 91 and 92
    hidden = "import sys; from importlib import metadata\n"
    hidden += "known = metadata.version\n"
    hidden += (
        "def version(name):\n    if name == 'torch': raise metadata.PackageNotFoundError(name)\n    return known(name)\n"
    )
    hidden += "metadata.version = version\nfrom widestep.cli.main import main\nmain(sys.argv[1:])\n"
    words = [sys.executable, "-c", hidden, "train", "--out", str(tmp_path / "run")]
    found = subprocess.run(words, env=program.environment(), capture_output=True, text=True, timeout=600, check=False)
    assert (found.returncode, found.stdout) == (5, "")
    assert found.stderr == (
        "widestep: Training needs torch 2.10 or later. It is not installed; run pip install 'torch>=2.10'.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_its_package_names_the_extra(program, tmp_path):  # row 91
    hidden = "import sys; sys.modules['pyarrow'] = None\nfrom widestep.cli.main import main\nmain(sys.argv[1:])\n"
    words = [sys.executable, "-c", hidden, "train", "--recipe", "poster", "--data", f"parquet:{tmp_path}", "--dry-run"]
    found = subprocess.run(words, env=program.environment(), capture_output=True, text=True, timeout=600, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert 'pip install "widestep[parquet]"' in found.stderr


def test_a_python_that_is_too_old_is_refused_with_versions(monkeypatch):  # row 92
    text = (PACKAGE / "__init__.py").read_text()
    monkeypatch.setattr(sys, "version_info", (3, 10, 2, "final", 0))
    with pytest.raises(ImportError, match=r"widestep 0\.1\.0 needs Python 3\.11 or later\. This is 3\."):
        exec(compile(text, "__init__.py", "exec"), {})
