"""What all tests share: the program as a process and within this one, and torch's settings put back."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: as everywhere in reproducible training

import contextlib
import io
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from slurm_cluster import SlurmCluster, reason_to_skip, running

import widestep
from widestep.lease_files import Heart

# A busy machine fails no test: see benchmarks for how long things take.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

_SOURCE = Path(widestep.__file__).resolve().parents[1]
_PASSED_ON = ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR", "CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    stdout: str
    stderr: str


class Program:
    """Runs Python programs, `widestep` first of all, in an environment that no launcher or shell has touched."""

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the environment of a process."""
        kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return {**kept, "PYTHONPATH": str(_SOURCE), "OMP_NUM_THREADS": "1", **extra}

    def start(self, *arguments: object, module: str = "widestep", heard: bool = True) -> "subprocess.Popen[str]":
        """Start `python -m MODULE ARGUMENTS` as the leader of a new process group; unheard, it has nowhere to write to."""
        command = [sys.executable, "-m", module, *map(str, arguments)]
        pipe = subprocess.PIPE if heard else subprocess.DEVNULL
        return subprocess.Popen(command, env=self.environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    def __call__(self, *arguments: object, module: str = "widestep", timeout: float = 600.0) -> Outcome:
        """Run to the end; nothing of it is left behind, even when it hangs."""
        child = self.start(*arguments, module=module)
        try:
            stdout, stderr = child.communicate(timeout=timeout)
        finally:
            kill_group(child)
        return Outcome(child.returncode, stdout, stderr)


def kill_group(child: "subprocess.Popen[str]") -> None:
    """End a process started by `Program.start`, and all it started in its group, as a power cut would.

    One that was waited for may have left others in its group; its own number is then free, and perhaps taken by a stranger.
    """
    if child.returncode is None or not Path(f"/proc/{child.pid}").exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    with child:
        child.wait()


def wait_until(true: Callable[[], bool], what: str, seconds: float = 600.0) -> None:
    """Poll until something holds; fails with `what` after a while."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"within {seconds:g} s this did not happen: {what}")
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def no_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths of data start where a test says."""
    monkeypatch.delenv("WIDESTEP_DATA", raising=False)


@pytest.fixture(autouse=True)
def no_heart_beats_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test claimed and never gave back shows no sign of life, and writes no files, in the tests after it."""
    begun: list[Heart] = []
    begin = Heart.__init__

    def noted(heart: Heart, *arguments: Any) -> None:
        begin(heart, *arguments)
        begun.append(heart)

    monkeypatch.setattr(Heart, "__init__", noted)
    yield
    for heart in begun:
        heart.stop()


@pytest.fixture
def held_port() -> Iterator[socket.socket]:
    """A socket whose port the system gives to nobody else, while a process of a job may listen there (SO_REUSEADDR)."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held


@pytest.fixture(scope="session")
def program() -> Program:
    """`program("train", ...)` runs the command line in processes of its own."""
    return Program()


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    return wait_until


@pytest.fixture(scope="session")
def power_cut() -> Callable[..., None]:
    return kill_group


@pytest.fixture
def quiet_torch() -> Iterator[None]:
    """Put back what training sets in torch, so that tests of other packages meet it as it was."""
    import torch

    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.fixture
def command(quiet_torch: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Outcome]]:
    """`command("train", ...)` runs the command line within this process: no start of an interpreter, no other processes."""
    from widestep.cli.main import run
    from widestep.workers import launched

    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in handled}
    monkeypatch.setattr(launched, "_ROWS", {})  # whoever launched the tests has not launched this command

    def execute(*arguments: object) -> Outcome:
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["widestep", *words])
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = run(words)
        return Outcome(code, stdout.getvalue(), stderr.getvalue())

    yield execute
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def options() -> Callable[[Mapping[str, object]], list[str]]:
    """Turn {"base_lr": 0.1} into ["--base-lr", "0.1"]."""

    def written(fields: Mapping[str, object]) -> list[str]:
        return [word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", str(value))]

    return written


@pytest.fixture(scope="session")
def slurm(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A real SLURM of several emulated nodes on this machine, where one can be started."""
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    place = Path(tempfile.mkdtemp(prefix="widestep-slurm-"))  # short, as names of sockets must be, and open to its daemons
    place.chmod(0o755)
    try:
        with running(place, program.environment()) as cluster:
            yield cluster
    finally:
        shutil.rmtree(place, ignore_errors=True)
