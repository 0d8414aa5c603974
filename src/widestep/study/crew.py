"""Run a study on this machine: as many worker processes as cores or devices allow, watched from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from widestep.errors import Stopped, WorkerLost
from widestep.plan.runplan import RunPlan
from widestep.study.estimate import plans
from widestep.study.store import StudyStore, TrialState
from widestep.study.study import Trial
from widestep.workers.launched import attached_environment

_POLL_SECONDS = 0.25
_DEVICES = Path("/dev")


@dataclass(frozen=True)
class StudyProgress:
    """How far a study is.

    Parameters
    ----------
    share
        Of all training images of the study, in [0, 1].
    states
        Of all trials, when they were read.
    coming
        Stand-ins for those that searches have not proposed yet, at most; they count as trials.
    shares
        Of themselves, in [0, 1], that running trials have behind them; by fingerprint.
    """

    num_trials: int
    num_finished: int
    num_running: int
    num_failed: int
    share: float
    states: Sequence[TrialState] = field(default=(), compare=False)
    coming: Sequence[Trial] = field(default=(), compare=False)
    shares: Mapping[str, float] = field(default_factory=dict, compare=False)


class ProgressMeter:
    """Reads a study's progress from the trials' epochs, remembering what is finished."""

    def __init__(self, store: StudyStore, known: Mapping[str, RunPlan]) -> None:
        self.store = store
        self.plans = dict(known)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._finished: dict[str, TrialState] = {}

    def read(self) -> StudyProgress:
        """Return the progress now."""
        done = 0.0
        states, shares = [], {}
        counts = {"running": 0, "failed": 0}
        trials, coming = self.store.trials, self.store.searched.to_come()
        self._measure([*trials, *coming])
        for trial in trials:
            images, evaluations = self._sizes[trial.fingerprint]
            state = self._finished.get(trial.fingerprint) or self.store.state(trial)
            states.append(state)
            if state.finished:
                self._finished[trial.fingerprint] = state
                done += images
                continue
            counts[state.status] = counts.get(state.status, 0) + 1
            if state.status in ("running", "stopped"):
                share = min(1.0, _evaluations_done(state.directory) / evaluations)
                done += images * share
                if state.status == "running":
                    shares[trial.fingerprint] = share
        total = sum(self._sizes[trial.fingerprint][0] for trial in (*trials, *coming))
        num_trials, num_finished, share = len(trials) + len(coming), len(self._finished), done / total
        num_running, num_failed = counts["running"], counts["failed"]
        return StudyProgress(num_trials, num_finished, num_running, num_failed, share, tuple(states), coming, shares)

    def _measure(self, trials: Sequence[Trial]) -> None:
        """Plan trials that were not known before: those that a search has proposed since."""
        if new := [trial for trial in trials if trial.fingerprint not in self.plans]:
            self.plans.update(plans(new))
        for name in [trial.fingerprint for trial in trials if trial.fingerprint not in self._sizes]:
            self._sizes[name] = self.plans[name].total_images, self.plans[name].num_evaluations


def _evaluations_done(directory: Path) -> int:
    try:
        return max(0, (directory / "epochs.csv").read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


class Crew:
    """Worker processes of one study on this machine."""

    def __init__(self, store: StudyStore, num_processes: int, device: str) -> None:
        self._store = store
        self._stopping: signal.Signals | None = None
        self._lost: str | None = None
        self._repeated: set[str] = set()
        self._paused_before: signal._HANDLER = signal.SIG_DFL
        self._gpus = visible_gpus() if device != "cpu" else []
        self._children = {number: self._start(number) for number in range(num_processes)}

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        env = {**os.environ, **attached_environment(), "OMP_NUM_THREADS": "1"}
        if self._gpus:
            env["CUDA_VISIBLE_DEVICES"] = self._gpus[number % len(self._gpus)]
        command = [sys.executable, "-m", "widestep", "study", "work", str(self._store.directory)]
        return subprocess.Popen(command, env=env, start_new_session=True)

    def watch(self, show: Callable[[], None]) -> signal.Signals | None:
        """Wait until all workers have ended, calling `show` every now and then.

        Another takes the place of a worker that died. What it was doing is recorded as failed; where somebody killed it,
        which may have had nothing to do with the trial, it is taken up again once. So every death costs something, and this
        comes to an end.

        Returns
        -------
        The signal that asked to stop, if any.

        Raises
        ------
        WorkerLost
            When workers died before they took a trial, and trials are left.
        """
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        before: dict[int, signal._HANDLER] = {number: signal.signal(number, self._stop) for number in handled}
        before[signal.SIGTSTP] = self._paused_before = signal.signal(signal.SIGTSTP, self._pause)
        try:
            while self._children:
                for number in [number for number, child in self._children.items() if child.poll() is not None]:
                    if self._settle(self._children.pop(number)) and self._stopping is None:
                        self._children[number] = self._start(number)
                        if self._stopping is not None:  # the signal came in between and has missed this one
                            self._children[number].terminate()
                show()
                time.sleep(_POLL_SECONDS)
        finally:
            for child in self._children.values():
                child.kill()
                child.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._lost and self._stopping is None and any(state.runnable for state in self._store.states()):
            raise WorkerLost(
                f"A study's worker processes must start. One ended with {self._lost} before it took a trial; mend what it "
                "says above, then give the same command."
            )
        return self._stopping

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._stopping = self._stopping or signal.Signals(number)
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()

    def _pause(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: stop the workers, which are in sessions of their own, and this process; go on together."""
        for child in self._children.values():
            child.send_signal(signal.SIGSTOP)
        if callable(self._paused_before):
            self._paused_before(number, frame)
        else:
            os.kill(os.getpid(), signal.SIGSTOP)
        for child in self._children.values():
            child.send_signal(signal.SIGCONT)

    def _settle(self, child: "subprocess.Popen[bytes]") -> bool:
        """Settle what a worker was doing when it died; say whether there was something."""
        if child.returncode in (0, Stopped.exit_code):
            return False
        how = signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit code {child.returncode}"
        killed = child.returncode == -signal.SIGKILL

        def spared(trial: Trial) -> bool:
            first_time = trial.fingerprint not in self._repeated
            self._repeated.add(trial.fingerprint)
            return killed and first_time

        left = self._store.settle_claims_of(
            child.pid, f"the process that ran it ended with {how}; perhaps out of memory", spared
        )
        if not left:
            self._lost = how
        return bool(left)


def default_processes(threads: int, device: str) -> int:
    """Return how many workers fit this machine: one a GPU if they use GPUs, otherwise one for every `threads` cores."""
    gpus = visible_gpus() if device != "cpu" else []
    return len(gpus) or max(1, len(os.sched_getaffinity(0)) // threads)


def visible_gpus() -> Sequence[str]:
    """Return the GPUs that may be used, by number, without asking torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [number.strip() for number in chosen.split(",") if number.strip() not in ("", "-1")]
    # In a container only those that it was given; the driver's own list in /proc names all of the machine, or is not there.
    return [str(number) for number in range(len(list(_DEVICES.glob("nvidia[0-9]*"))))]
