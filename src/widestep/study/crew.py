"""Run a study on this machine: as many worker processes as cores or devices allow, watched from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from widestep.plan.runplan import RunPlan
from widestep.study.store import StudyStore, TrialState
from widestep.workers.launched import attached_environment

_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class StudyProgress:
    """How far a study is.

    Parameters
    ----------
    share
        Of all training images of the study, in [0, 1].
    """

    num_trials: int
    num_finished: int
    num_running: int
    num_failed: int
    share: float


class ProgressMeter:
    """Reads a study's progress from the trials' epochs, remembering what is finished."""

    def __init__(self, store: StudyStore, plans: Mapping[str, RunPlan]) -> None:
        self._store = store
        self._sizes = {name: (plan.total_images, plan.num_evaluations) for name, plan in plans.items()}
        self._finished: dict[str, TrialState] = {}

    def read(self) -> StudyProgress:
        """Return the progress now."""
        done = 0.0
        counts = {"running": 0, "failed": 0}
        for trial in self._store.trials:
            images, evaluations = self._sizes[trial.fingerprint]
            state = self._finished.get(trial.fingerprint) or self._store.state(trial)
            if state.finished:
                self._finished[trial.fingerprint] = state
                done += images
                continue
            counts[state.status] = counts.get(state.status, 0) + 1
            if state.status in ("running", "stopped"):
                done += images * min(1.0, _evaluations_done(state.directory) / evaluations)
        total = sum(images for images, _ in self._sizes.values())
        return StudyProgress(len(self._sizes), len(self._finished), counts["running"], counts["failed"], done / total)


def _evaluations_done(directory: Path) -> int:
    try:
        return max(0, (directory / "epochs.csv").read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


class Crew:
    """Worker processes of one study on this machine."""

    def __init__(self, store: StudyStore, num_processes: int, device: str) -> None:
        self._store = store
        self._children: list[subprocess.Popen[bytes]] = []
        self._stopping: signal.Signals | None = None
        command = [sys.executable, "-m", "widestep", "study", "work", str(store.directory)]
        gpus = visible_gpus() if device != "cpu" else []
        for number in range(num_processes):
            env = {**os.environ, **attached_environment(), "OMP_NUM_THREADS": "1"}
            if gpus:
                env["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            self._children.append(subprocess.Popen(command, env=env, start_new_session=True))

    def watch(self, show: Callable[[], None]) -> signal.Signals | None:
        """Wait until all workers have ended, calling `show` every now and then.

        Returns
        -------
        The signal that asked to stop, if any.
        """
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        before: dict[int, signal._HANDLER] = {number: signal.signal(number, self._stop) for number in handled}
        try:
            while any(child.poll() is None for child in self._children):
                show()
                time.sleep(_POLL_SECONDS)
        finally:
            for child in self._children:
                child.kill()
                child.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
        for child in self._children:
            self._settle(child)
        return self._stopping

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._stopping = self._stopping or signal.Signals(number)
        for child in self._children:
            if child.poll() is None:
                child.terminate()

    def _settle(self, child: "subprocess.Popen[bytes]") -> None:
        """Record as failed what a worker was doing when it died."""
        if child.returncode in (0, 75):
            return
        how = signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit code {child.returncode}"
        for trial in self._store.claimed_by(child.pid):
            self._store.fail(trial, f"the process that ran it ended with {how}; perhaps out of memory")


def default_processes(threads: int, device: str) -> int:
    """Return how many workers fit this machine: one a GPU if they use GPUs, otherwise one for every `threads` cores."""
    gpus = visible_gpus() if device != "cpu" else []
    return len(gpus) or max(1, len(os.sched_getaffinity(0)) // threads)


def visible_gpus() -> Sequence[str]:
    """Return the GPUs that may be used, by number, without asking torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [number for number in chosen.split(",") if number.strip() not in ("", "-1")]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(folder.iterdir())))] if folder.is_dir() else []
