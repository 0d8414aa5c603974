"""Works on a study as `widestep study work` does, with runs of milliseconds and numbers that follow from the recipe.

Arguments: the study, a file that a line is added to for every run, and how many such processes must have begun a run before
any goes on. Trials of a poisonous momentum end as real ones may: 0.1 diverges, 0.2 has no memory, 0.3 has bad data.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from widestep.errors import DataError
from widestep.study.store import StudyStore
from widestep.study.study import Trial
from widestep.study.work import work

spec = importlib.util.spec_from_file_location("fake_runs", Path(__file__).parents[1] / "study" / "fake_runs.py")
assert spec is not None
assert spec.loader is not None
fake = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake)

directory, log = map(Path, sys.argv[1:3])
num_processes = int(sys.argv[3])
store = StudyStore.open(directory)


def wait_for_the_others() -> None:
    (log.parent / f"begun-{os.getpid()}").touch()
    while len([*log.parent.glob("begun-*")]) < num_processes:
        time.sleep(0.001)


def execute(trials: Sequence[Trial]) -> None:
    for trial in trials:
        wait_for_the_others()
        run = store.run(trial)
        if trial.recipe.momentum == 0.2:
            raise MemoryError
        if trial.recipe.momentum == 0.3:
            raise DataError("An image must decode.\nIt does not.")
        fake.begin(run)
        time.sleep(int(trial.fingerprint[:2], 16) / 8_000)
        with log.open("a") as file:
            file.write(f"{trial.fingerprint} {os.getpid()}\n")
        status = "diverged" if trial.recipe.momentum == 0.1 else "complete"
        fake.finish(run, status, 700 + int(trial.fingerprint[:4], 16) % 100)


print("ready", flush=True)
work(store, execute)
