"""Stands in for `widestep study work DIRECTORY` under a crew: its fate is in the file `fate` beside the study.

The fate maps fingerprints to what befalls the worker that takes the trial: a signal's number, or an exit code as text; in a
list what happens the first time only. The key "start" is for before it takes one. Every start becomes a line of the file
`starts`: the worker's GPUs.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fake_runs import begin, finish

from widestep.errors import Stopped
from widestep.study.store import StudyStore
from widestep.study.study import Trial
from widestep.study.work import work

directory = Path(sys.argv[1])
fate = json.loads((directory.parent / "fate").read_text())
os.fsync = lambda descriptor: None
store = StudyStore.open(directory)
stopping = []
signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))


def meet(name: str) -> None:
    met = fate.get(name)
    if isinstance(met, list):
        before = directory.parent / f"met-{name}"
        met = None if before.exists() else met[0]
        before.touch()
    if isinstance(met, int):
        os.kill(os.getpid(), met)
    elif met == "wait":
        while not stopping:
            time.sleep(0.001)
        raise Stopped("Stopped by SIGTERM")
    elif met is not None:
        os._exit(int(met))


def execute(trials: Sequence[Trial]) -> None:
    for trial in trials:
        begin(store.run(trial))
        meet(trial.fingerprint)
    for trial in trials:
        finish(store.run(trial))


with (directory.parent / "starts").open("a") as file:
    file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "") + "\n")
meet("start")
try:
    work(store, execute)
except Stopped:
    sys.exit(75)
