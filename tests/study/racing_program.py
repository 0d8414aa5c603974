"""Works on a study as `widestep study work` does, with runs that are never trained. Arguments: study, log file, go file.

Started many times by the tests; reaches neither torch nor the command line. Every run that is executed becomes a line of the
log: FINGERPRINT PROCESS.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fake_runs import begin, finish

from widestep.study.store import StudyStore
from widestep.study.study import Trial
from widestep.study.work import work

directory, log, go = map(Path, sys.argv[1:])
os.fsync = lambda descriptor: None
store = StudyStore.open(directory)


def execute(trials: Sequence[Trial]) -> None:
    for trial in trials:
        with log.open("a") as file:
            file.write(f"{trial.fingerprint} {os.getpid()}\n")
        begin(store.run(trial))
    for trial in trials:
        finish(store.run(trial))


print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
work(store, execute)
