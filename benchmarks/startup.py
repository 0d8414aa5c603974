"""From the command to its answer: processor and wall seconds of help, plans and a first training step."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.spread import Row, spread
from benchmarks.wanted import Wanted

_ROOT = Path(__file__).resolve().parent.parent
_WIDESTEP = ("-m", "widestep")
_SHIM = "from benchmarks import peers; peers"
_STEP = ("--epochs", "1st", "--val-images", "10", "--tensorboard", "false")
COMMANDS: dict[str, Sequence[str]] = {
    "python, nothing": ("-c", "pass"),
    "import torch": ("-c", "import torch"),
    "torchrun --help": ("-m", "torch.distributed.run", "--help"),
    "import torchvision": ("-c", f"{_SHIM}.torchvision()"),
    "import timm": ("-c", f"{_SHIM}.timm()"),
    "plain example --help": ("-m", "benchmarks.plain", "--help"),
    "plain example, first step": ("-m", "benchmarks.plain"),
    "widestep --help": (*_WIDESTEP, "--help"),
    "widestep train --help": (*_WIDESTEP, "train", "--help"),
    "widestep lr": (*_WIDESTEP, "lr", "--recipe", "digits", "--steps", "0:5"),
    "widestep train, first step": (*_WIDESTEP, "train", "--recipe", "digits", *_STEP),
}
QUICK = ("python, nothing", "widestep --help")


def run(wanted: Wanted) -> list[Row]:
    """Start every command in turn, after a turn that does not count; those that fail are absent."""
    commands = {name: COMMANDS[name] for name in QUICK} if wanted.quick else COMMANDS
    rounds, first = (1, 0) if wanted.quick else (7, 1)
    used: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    absent: dict[str, str] = {}
    for turn in range(first + rounds):
        for name, command in commands.items():
            if name in absent:
                continue
            code, seconds, cpu, said = _started(command)
            if code:
                absent[name] = f"ended with {code}: {said}"
            elif turn >= first:
                used[name].append((seconds, cpu))
    return [{"case": {"threads": 1}, "rounds": rounds, "commands": _described(used, absent), "absent": absent}]


def _described(used: Mapping[str, Sequence[tuple[float, float]]], absent: Mapping[str, str]) -> dict[str, object]:
    return {
        name: {"seconds": spread([a for a, _ in found]), "cpu_seconds": spread([b for _, b in found])}
        for name, found in used.items()
        if name not in absent
    }


def _started(command: Sequence[str]) -> tuple[int, float, float, str]:
    """Run a command in an empty directory; return its code, wall and processor seconds and the last line it said."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join([str(_ROOT / "src"), str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        said = Path(folder) / "said.txt"
        with said.open("wb") as file:
            began = time.perf_counter()
            child = subprocess.Popen(
                [sys.executable, *command],
                stdout=subprocess.DEVNULL,
                stderr=file,
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            )
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        seconds = time.perf_counter() - began
        return child.returncode, seconds, usage.ru_utime + usage.ru_stime, lines[-1] if lines else "without a word"
