"""The jobs of a study on a cluster: submitted, followed, submitted again where they vanished.

What is done is read from the run directories and claims. The scheduler is only asked whether tasks still wait or run.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from widestep.data.stores.open_store import DATA_DIRECTORY
from widestep.errors import EnvironmentFault, UsageError, WorkerLost
from widestep.files import explained, make_directory, write_atomically
from widestep.lines import LineFile, read_json_lines
from widestep.study.cluster import ArrayJob, Cluster, Queue, Scheduler, SchedulerName, arrays, label_of
from widestep.study.commands import Commands
from widestep.study.lsf import Lsf
from widestep.study.slurm import Slurm
from widestep.study.store import StudyStore
from widestep.study.study import Trial
from widestep.study.work import saved_step, stacks

_LOOK_SECONDS = 10.0
"""Between two questions to the scheduler."""
_SHORT_SECONDS = 60.0
"""How long trials must lie idle, while no task waits in the queue, before more tasks are submitted."""
_GONE_SECONDS = 15.0
"""The same when no task is left at all: claims of a dead node have run out by then."""


def scheduler_named(name: SchedulerName, sleep: Callable[[float], None] = time.sleep) -> Scheduler:
    """Return the scheduler of that name."""
    return Slurm(Commands(sleep)) if name == "slurm" else Lsf(Commands(sleep))


class Campaign:
    """The jobs of one study on one cluster.

    Attributes
    ----------
    queue
        What the scheduler said last.
    """

    def __init__(
        self, store: StudyStore, scheduler: Scheduler, cluster: Cluster, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.queue = Queue()
        self.directory = store.directory / scheduler.name
        self._store = store
        self._scheduler = scheduler
        self._cluster = cluster
        self._clock = clock
        self._looked: float | None = None
        self._short_since: float | None = None
        self._mark: tuple[int, int] | None = None
        threads = max((trial.recipe.threads for trial in store.trials), default=1)
        self._num_slots = cluster.slots(threads, store.study.device)

    def jobs(self) -> list[str]:
        """Return the numbers of all jobs that were submitted, oldest first."""
        return [str(record["job"]) for record in read_json_lines(self.directory / "jobs.jsonl")]

    def scripts(self) -> dict[Path, tuple[str, str]]:
        """Return what would be submitted for what is missing: path -> label and text; asks how large an array may be."""
        return self._scripts(self._num_wanted())

    def _num_wanted(self) -> int:
        """How many tasks have something to do at once."""
        missing = [state.trial for state in self._store.states() if not state.finished and state.status != "failed"]
        return -(-len(stacks(missing, self._store)) // self._num_slots)

    def num_side_by_side(self) -> int:
        """Return how many stacks are computed side by side while all tasks run that have something to do."""
        num_tasks = max(1, self._num_wanted())
        return self._num_slots * min(num_tasks, self._cluster.max_running or num_tasks)

    def _scripts(self, num_tasks: int) -> dict[Path, tuple[str, str]]:
        if num_tasks == 0:
            return {}
        place = self._store.directory.resolve()
        set_to = os.environ.get(DATA_DIRECTORY)
        data = Path(set_to).expanduser().absolute() if set_to else None
        for path in (place, Path.cwd(), *([data] if data else [])):
            if not str(path).isprintable():
                raise UsageError(
                    f"A job script names its directories. {str(path)!r} cannot be written there; choose another."
                )
        number, found = len(self.jobs()), {}
        for index, size in enumerate(arrays(num_tasks, self._cluster.max_array or self._scheduler.max_array())):
            label = label_of(self._store.study.name, place, number + index)
            program = (sys.executable, "-m", "widestep")
            job = ArrayJob(label, program, place, Path.cwd(), size, self._num_slots, data)
            found[self.directory / f"array-{number + index}.sh"] = label, self._scheduler.script(self._cluster, job)
        return found

    def submit(self, num_tasks: int | None = None) -> list[str]:
        """Submit tasks for what is missing, or so many, and return the jobs' numbers.

        Raises
        ------
        EnvironmentFault
            When the scheduler takes none, after some attempts; what it took is kept.
        """
        self._mark = self._progress()
        self._short_since = None
        submitted = []
        for path, (label, text) in self._scripts(self._num_wanted() if num_tasks is None else num_tasks).items():
            with explained(path.parent):
                make_directory(path.parent / "logs")
            write_atomically(path, text)
            path.chmod(0o755)
            submitted.append(self._scheduler.submit(path.resolve(), label))
            record = {"job": submitted[-1], "script": path.name, "name": label}
            file = LineFile(self.directory / "jobs.jsonl")
            file.append(json.dumps(record))
            file.close()
        self._looked = None
        return submitted

    def look(self) -> Queue:
        """Ask what is left of the jobs in the queue; raises EnvironmentFault when nobody answers for minutes."""
        jobs = self.jobs()
        self.queue = self._scheduler.queue(jobs) if jobs else Queue()
        self._looked = self._clock()
        return self.queue

    def step(self) -> bool:
        """Look after the study once and say whether it is over; submits tasks where some vanished.

        Raises
        ------
        WorkerLost
            When all tasks have ended and no trial has come any further since they were submitted.
        """
        states = self._store.states()
        if all(state.finished or state.status == "failed" for state in states):
            return True
        if self._looked is None or self._clock() - self._looked >= _LOOK_SECONDS:
            try:
                self.look()
            except EnvironmentFault:  # it may be down for hours: the jobs go on, and so does what they write
                self._looked = self._clock()
                return False
            self._make_up([state.trial for state in states if state.runnable])
        return False

    def _make_up(self, free: list[Trial]) -> None:
        """Submit tasks for trials that lie idle, once that has lasted for a while."""
        num_idle = -(-len(stacks(free, self._store)) // self._num_slots)
        num_short = min(num_idle - self.queue.pending, self._num_wanted() - self.queue.live)
        if num_short <= 0:
            self._short_since = None
            return
        now = self._clock()
        self._short_since = now if self._short_since is None else self._short_since
        if now - self._short_since < (_SHORT_SECONDS if self.queue.live else _GONE_SECONDS):
            return
        if not self.queue.live and self._mark == self._progress():
            raise WorkerLost(
                f"The jobs of a study must get somewhere. Those of {self._store.directory} have ended, and no trial has "
                f"come further since they were submitted; see {self._newest_log()}, then give the same command again."
            )
        self.submit(num_short)

    def _progress(self) -> tuple[int, int]:
        """A number of trials and steps that grows while anything gets anywhere."""
        states = self._store.states()
        settled = sum(state.finished or state.status == "failed" for state in states)
        return settled, sum(saved_step(self._store, state.trial) for state in states if not state.finished)

    def _newest_log(self) -> Path:
        logs = sorted((self.directory / "logs").glob("*.out"), key=lambda path: path.stat().st_mtime)
        return logs[-1] if logs else self.directory / "logs"


def planned_scripts(store: StudyStore, name: SchedulerName, cluster: Cluster) -> dict[Path, str]:
    """Return the job scripts that `study run` would submit for what is missing, by path; nothing is written.

    Parameters
    ----------
    store
        Need not exist on disk.

    Raises
    ------
    EnvironmentFault
        When the scheduler does not say how large an array may be; `max_array` of the cluster makes it unnecessary.
    """
    scripts = Campaign(store, scheduler_named(name), cluster).scripts()
    return {path: text for path, (_, text) in scripts.items()}
