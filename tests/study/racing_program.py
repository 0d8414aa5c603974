"""Works on a study as `widestep study work` does, with runs that are never trained. Arguments: study, log file, go file.

A fourth one names a host: then this is a process of another one, without locks, with signs of life every four seconds.

Started many times by the tests; reaches neither torch nor the command line. Every run that is executed becomes a line of the
log: FINGERPRINT PROCESS.
"""

import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fake_runs import begin, finish

from widestep import locks
from widestep.study import claims
from widestep.study.store import StudyStore
from widestep.study.study import Trial
from widestep.study.work import work

directory, log, go = map(Path, sys.argv[1:4])
os.fsync = os.fdatasync = lambda descriptor: None


def no_locks(_descriptor: int, _how: int) -> None:
    raise OSError(errno.ENOLCK, "no locks available")


for host in sys.argv[4:]:
    socket.gethostname = lambda host=host: host
    fcntl.lockf = no_locks
    claims.BEAT_SECONDS = locks.BEAT_SECONDS = 4.0
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
