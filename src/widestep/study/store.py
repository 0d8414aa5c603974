"""A study on disk: its definition, and one directory a trial, claimed by one process at a time."""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from widestep.errors import EnvironmentFault, StoreError, UsageError
from widestep.files import explained, write_atomically
from widestep.plan.settings_file import read_text
from widestep.records.reading import read_record
from widestep.records.result import RunResult, Status
from widestep.records.run import Run
from widestep.study.amendments import amendment, changed_question, write_amendment
from widestep.study.study import Study, Trial, parse, to_toml

_CLAIM = {"host": str, "process": int, "started": str}

TrialStatus = Literal["missing", "running", "complete", "diverged", "failed", "stopped"]


@dataclass(frozen=True)
class TrialState:
    """How far one trial is."""

    trial: Trial
    status: TrialStatus
    directory: Path
    val_accuracy: float | None = None
    reason: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the trial has an outcome (complete or diverged): it is never run again."""
        return self.status in ("complete", "diverged")

    @property
    def runnable(self) -> bool:
        """Whether a worker may take the trial up."""
        return self.status in ("missing", "stopped")

    def as_dict(self) -> dict[str, Any]:
        """Return the row of `study status --json`."""
        return {
            "fingerprint": self.trial.fingerprint,
            "arm": self.trial.arm,
            "settings": self.trial.settings,
            "seed": self.trial.seed,
            "status": self.status,
            "val_accuracy": self.val_accuracy,
            "directory": str(self.directory),
            "reason": self.reason,
        }


class StudyStore:
    """The directory of a study: study.toml, trials/FINGERPRINT/, claims/, status.csv, report/."""

    def __init__(self, directory: Path, study: Study) -> None:
        self.directory = directory
        self.study = study
        self.trials = study.trials()

    @classmethod
    def create(cls, directory: Path, study: Study) -> "StudyStore":
        """Begin a study in a directory, or take up the one that is there.

        Seeds, arms, values of axes, claims and figures may be added, and seeds and arms left out at any time: what ran stays
        valid and is found by its fingerprint. What a claim is judged by may not change once trials have an outcome, and what
        is changed then is written down (`amendments`).

        Raises
        ------
        UsageError
            When the directory holds another study, or margin, level or declared claims were changed after the fact.
        """
        store = cls(directory, study)
        path = directory / "study.toml"
        if path.exists():
            old = parse(read_text(path), str(path))
            num_finished = len(list((directory / "trials").glob("*/result.json")))
            store._check_same(old, num_finished)
            if old == study:
                return store
            if num_finished and (found := amendment(old, study, num_finished)):
                write_amendment(directory, found)
        with explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
            foreign = [item for item in directory.iterdir() if not item.name.startswith(".")]  # begun but killed: a dot file
        if foreign and not path.exists():
            raise UsageError(
                f"A study's directory is empty or holds a study. {directory} holds other files; choose another."
            )
        write_atomically(path, to_toml(study))
        return store

    @classmethod
    def open(cls, directory: Path) -> "StudyStore":
        """Open the study of a directory; raises UsageError when there is none."""
        path = directory / "study.toml"
        if not path.is_file():
            raise UsageError(
                f"A study's directory holds study.toml. {directory} does not; start it with `widestep study run`."
            )
        return cls(directory, parse(read_text(path), str(path)))

    def _check_same(self, old: Study, num_finished: int) -> None:
        if old.name != self.study.name:
            raise UsageError(
                f"{self.directory} holds the study '{old.name}', not '{self.study.name}'. Choose another --out."
            )
        changed = changed_question(old, self.study) if num_finished else []
        if changed:
            raise UsageError(
                f"What a study is judged by is declared before it runs. {', '.join(changed)} changed although trials in "
                f"{self.directory} have finished; add a claim beside the old ones, or choose another --out for the new "
                "question."
            )

    def path(self, trial: Trial) -> Path:
        """Return a trial's run directory."""
        return self.directory / "trials" / trial.fingerprint

    def run(self, trial: Trial) -> Run:
        """Return a trial's run."""
        return Run(self.path(trial), trial.recipe)

    def state(self, trial: Trial) -> TrialState:
        """Return how far a trial is, from its directory and claim."""
        directory = self.path(trial)
        held = self._holder_lives(trial)  # before the outcome is read: a claim is given back only after it was written
        try:
            result, status = self._outcome(trial)
            if result is not None:
                return TrialState(trial, result.status, directory, result.val_accuracy, result.reason)
            if held:
                return TrialState(trial, "running", directory, reason=self._elsewhere(trial))
        except StoreError as error:
            return TrialState(trial, "failed", directory, reason=str(error))
        if os.path.lexists(directory / "failure.json"):
            return TrialState(trial, "failed", directory, reason=_reason(directory / "failure.json"))
        return TrialState(trial, "missing" if status is None else "stopped", directory)

    def _outcome(self, trial: Trial) -> tuple[RunResult | None, Status | None]:
        """Return the outcome of a trial, if it has one, and what its STATUS says; raises StoreError when it is damaged."""
        run = self.run(trial)
        try:
            result, status = run.result(), run.status()
        except (OSError, ValueError) as error:
            raise StoreError(f"{run.directory} must hold a run. It is damaged: {error}.") from None
        if result is None and status in ("complete", "diverged"):
            raise StoreError(f"{run.directory} must hold result.json, because its STATUS is {status}. It is damaged.")
        if result is None or status not in ("complete", "diverged"):
            return None, status
        if result.recipe_fingerprint != trial.fingerprint:
            raise StoreError(f"{run.directory} must hold its own outcome. Its result.json belongs to another recipe.")
        if result.status != status:
            raise StoreError(f"{run.directory} is damaged: STATUS says {status}, result.json {result.status}.")
        return result, status

    def states(self) -> list[TrialState]:
        """Return the states of all trials."""
        return [self.state(trial) for trial in self.trials]

    def results(self) -> list[RunResult]:
        """Return the outcomes so far; what is damaged is none."""
        found = []
        for trial in self.trials:
            with suppress(StoreError):
                found.append(self._outcome(trial)[0])
        return [result for result in found if result is not None]

    def claim(self, trials: Sequence[Trial]) -> list[Trial]:
        """Claim trials for this process and return those that were free."""
        with self._alone():
            return [trial for trial in trials if self._claim(trial)]

    def release(self, trials: Sequence[Trial]) -> None:
        """Give this process's claims back."""
        mine = _identity(os.getpid())
        for trial in trials:
            if self._holder(trial) == mine:
                with explained(self.directory):
                    self._claim_path(trial).unlink(missing_ok=True)

    def fail(self, trial: Trial, reason: str, traceback: str = "") -> None:
        """Record that a trial failed and why; one that has an outcome keeps it. This process's claim is given back.

        The reason goes into failure.json, and with the traceback into the trial's log.
        """
        run = self.run(trial)
        if not self.state(trial).finished:
            with explained(run.directory):
                run.directory.mkdir(parents=True, exist_ok=True)
            self.tell(trial, f"failed: {reason}\n{traceback}")
            write_atomically(run.directory / "failure.json", json.dumps({"reason": reason}) + "\n")
            if (run.directory / "STATUS").is_file():
                run.set_status("failed")
        self.release([trial])

    def tell(self, trial: Trial, text: str) -> None:
        """Append lines to the log of a trial that nobody is at; on a full disk there are none."""
        run = self.run(trial)
        with suppress(EnvironmentFault):
            for line in filter(None, text.splitlines()):
                run.log(line)
            run.close()

    def settle_claims_of(self, process: int, reason: str, spared: Callable[[Trial], bool]) -> list[Trial]:
        """Record as failed what an ended process of this host had claimed, and return it; called by whoever started it.

        Parameters
        ----------
        spared
            Says which trials are left for the next worker instead; they are returned, too.
        """
        with self._alone():
            left = [trial for trial in self.trials if self._left_behind(trial, process)]
            unfinished = [trial for trial in left if not self.state(trial).finished]
            for trial in left:
                if trial in unfinished and spared(trial):
                    self.tell(trial, f"{reason}; it is taken up again")
                else:
                    self.fail(trial, reason)
                self._claim_path(trial).unlink(missing_ok=True)
        return unfinished

    def forget_failures(self, chosen: Callable[[Trial], bool] = lambda trial: True) -> int:
        """Make failed trials ready to be tried again; returns how many. A damaged result is kept beside the new one."""
        failed = [state.trial for state in self.states() if state.status == "failed" and chosen(state.trial)]
        for trial in failed:
            run = self.run(trial)
            with explained(run.directory):
                for name in ("failure", "result"):
                    path = run.directory / f"{name}.json"
                    if name == "failure" and path.is_file():
                        path.unlink()
                    elif os.path.lexists(path):
                        path.replace(path.with_name(f"{name}.damaged.json"))
                status = run.directory / "STATUS"
                if os.path.lexists(status) and not status.is_file():
                    status.replace(run.directory / "STATUS.damaged")
                elif status.is_file():
                    run.set_status("failed")
        return len(failed)

    def _claim_path(self, trial: Trial) -> Path:
        return self.directory / "claims" / trial.fingerprint

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process is looking at claims in order to change them."""
        path = self.directory / "claims" / ".lock"
        with explained(path):
            path.parent.mkdir(exist_ok=True)
            with path.open("a") as file:
                fcntl.lockf(file, fcntl.LOCK_EX)  # freed by the kernel, however this process ends
                yield

    def _claim(self, trial: Trial) -> bool:
        """Claim a trial that nobody is working on and that has neither an outcome nor failed since we looked."""
        if not self.state(trial).runnable:
            return False
        self._claim_path(trial).write_text(json.dumps(_identity(os.getpid())), encoding="utf-8")
        return True

    def _holder(self, trial: Trial) -> dict[str, Any] | None:
        try:
            held = read_record(self._claim_path(trial), "who runs a trial")
        except StoreError:
            return None
        if held is None or {name: type(value) for name, value in held.items()} != _CLAIM:
            return None
        return held

    def _holder_lives(self, trial: Trial) -> bool:
        """Say whether the claim's process is alive; on another host it is taken to be."""
        held = self._holder(trial)
        if held is None:
            return False
        return held["host"] != socket.gethostname() or held == _identity(held["process"])

    def _elsewhere(self, trial: Trial) -> str | None:
        """Say who holds a claim that this host cannot look at, and what to do when it is gone."""
        held = self._holder(trial)
        if held is None or held["host"] == socket.gethostname():
            return None
        claim = self._claim_path(trial)
        return f"by process {held['process']} on host {held['host']}; if that has ended, delete {claim}"

    def _left_behind(self, trial: Trial, process: int) -> bool:
        held = self._holder(trial)
        return held is not None and held["process"] == process and not self._holder_lives(trial)


def _reason(failure: Path) -> str:
    with suppress(StoreError, KeyError, TypeError):
        return str(read_record(failure, "why a trial failed")["reason"])  # type: ignore[index]
    return f"{failure} is damaged"


def _identity(process: int) -> dict[str, Any]:
    """Return host, number and start time of a process: a number alone may be used again."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        fields = []
    lives = fields and fields[0] not in "ZX"  # a zombie has ended, though nobody may ever have taken note
    return {"host": socket.gethostname(), "process": process, "started": fields[19] if lives else "gone"}
