"""`widestep study work`: be one more worker of a study, several of them, or one of the processes that are one together."""

import os
from collections.abc import Sequence
from pathlib import Path

from widestep.errors import Stopped, UsageError
from widestep.study.cluster import note_log
from widestep.study.crew import Crew
from widestep.study.store import StudyStore
from widestep.study.study import Trial
from widestep.workers.launched import Launch, detect


def work(directory: Path, *, jobs: int | None = None) -> int:
    """Join a study as one more worker: run trials that nobody has claimed until none is left.

    Any number may do so, on any hosts that share the directory. Under srun, jsrun or
    mpirun with several processes, these compute each trial together. The exit code is
    75 when it was asked to stop and trials are left.

    For example:
      widestep study work studies/poster-digits
      srun --ntasks 4 widestep study work studies/poster-digits

    Parameters
    ----------
    directory
        Directory of a study that was started with `widestep study run`.
    jobs
        Start so many workers, one a GPU or core, and look after them.
    """
    store = StudyStore.open(directory)
    launch = detect() or Launch("nobody")
    if jobs is not None and (jobs < 1 or launch.num_processes > 1):
        raise UsageError(
            f"--jobs starts 1 or more workers in one process. It is {jobs}, in {launch.num_processes} process(es); leave it "
            "out where processes compute together."
        )
    idle = not store.doubtful() and not any(state.runnable for state in store.states())
    if launch.num_processes == 1 and idle and store.searched.is_over():
        return 0  # before anything is loaded: one of many tasks of an array, perhaps, that came late
    if jobs is None:
        return _work(store, launch)
    stopped = Crew(store, jobs, store.study.device).watch(lambda: None)
    left = any(state.runnable for state in store.states())
    return Stopped.exit_code if stopped or left else 0


def _work(store: StudyStore, launch: Launch) -> int:
    from widestep.cli.console import SilentWatcher
    from widestep.cli.study_pruning import train_or_prune
    from widestep.data.loading import Kept
    from widestep.study.searching import Giving
    from widestep.study.work import execution_of
    from widestep.study.work import work as work_on
    from widestep.train.loop import train
    from widestep.train.stop import Deadline, StopRequest
    from widestep.workers.world import World

    stop = StopRequest(Deadline.of(None), impatient=launch.launcher == "nobody")
    execution = execution_of(store.study.device, compare_batchnorm=store.study.compare_batchnorm)
    log, kept = os.environ.get("WIDESTEP_JOB_LOG"), Kept()

    with World(launch) as world:
        stop.install()

        def execute(trials: Sequence[Trial]) -> None:
            if log and world.is_first:
                note_log(store.directory, [trial.fingerprint for trial in trials], log)
            giving = Giving(store, list(trials))
            if giving:
                train_or_prune(store, giving, trials, execution, world, stop, kept=kept)
            else:
                train([store.run(trial) for trial in trials], execution, world, SilentWatcher(), stop, kept)

        work_on(store, execute, world)
    return 0
