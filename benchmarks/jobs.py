"""Start the processes of a measurement; they meet at a socket bound to the loopback address, which no other host reaches.

A benchmark's `run` calls `start`, which runs the same module's `measure(world, settings)` in new processes of one thread
each and returns what process 0 found.
"""

import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from widestep.train.setting import keep_freed_memory
from widestep.workers.launched import Launch, attached_environment, die_with_parent
from widestep.workers.world import World

_ROOT = Path(__file__).resolve().parent.parent
_SECONDS = 600.0


def start(module: str, num_processes: int, settings: dict[str, Any]) -> Any:
    """Run `measure` of a module in some processes and return process 0's answer.

    Raises
    ------
    RuntimeError
        When a process failed; the others are ended.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(num_processes)
        listener.set_inheritable(True)
        port, descriptor = listener.getsockname()[1], listener.fileno()
        answer = Path(folder) / "answer.json"
        children = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.jobs", module, json.dumps(settings), str(answer)),
                    *map(str, (process, num_processes, port, descriptor)),
                ],
                env={**os.environ, "OMP_NUM_THREADS": "1", **attached_environment()},
                pass_fds=(descriptor,) if process == 0 else (),
                cwd=_ROOT,
            )
            for process in range(num_processes)
        ]
        try:  # when one fails, the others lose contact with it and fail, too
            codes = [child.wait(_SECONDS) for child in children]
        finally:
            for child in children:
                child.kill()
                child.wait()
        if any(codes):
            raise RuntimeError(f"{module} {settings} failed: its processes ended with {codes}; see what they said.")
        return json.loads(answer.read_text(encoding="utf-8"))


def main() -> None:
    """Take part in a measurement."""
    module, settings, answer = sys.argv[1:4]
    process, num_processes, port, descriptor = map(int, sys.argv[4:])
    die_with_parent()
    torch.set_num_threads(1)
    gc.freeze()  # what was imported stays: collecting garbage between measurements is then quick
    keep_freed_memory()
    held = descriptor if process == 0 else None
    with World(Launch("widestep", process, num_processes, process, port=port, listen_descriptor=held)) as world:
        found = importlib.import_module(module).measure(world, json.loads(settings))
        if world.is_first:
            Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
