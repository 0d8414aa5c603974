"""A study on disk: its definition, and one directory a trial, claimed by one process at a time."""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from widestep.errors import StoreError, UsageError
from widestep.files import explained, write_atomically
from widestep.records.result import RunResult
from widestep.records.run import Run
from widestep.study.study import Study, Trial, parse, to_toml

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

        Seeds and arms may be added or left out at any time: what ran stays valid. What a claim is judged by may not change
        once trials have an outcome.

        Raises
        ------
        UsageError
            When the directory holds another study, or margin, level or claims were changed after the fact.
        """
        store = cls(directory, study)
        path = directory / "study.toml"
        if path.exists():
            old = parse(path.read_text(encoding="utf-8"), str(path))
            store._check_same(old)
            if old == study:
                return store
        elif directory.exists() and any(directory.iterdir()):
            raise UsageError(
                f"A study's directory is empty or holds a study. {directory} holds other files; choose another."
            )
        with explained(directory):
            (directory / "trials").mkdir(parents=True, exist_ok=True)
            (directory / "claims").mkdir(exist_ok=True)
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
        return cls(directory, parse(path.read_text(encoding="utf-8"), str(path)))

    def _check_same(self, old: Study) -> None:
        if old.name != self.study.name:
            raise UsageError(
                f"{self.directory} holds the study '{old.name}', not '{self.study.name}'. Choose another --out."
            )
        changed = [name for name in ("margin", "level", "claims") if getattr(old, name) != getattr(self.study, name)]
        if changed and any(StudyStore(self.directory, old).state(trial).finished for trial in old.trials()):
            raise UsageError(
                f"What a study is judged by is declared before it runs. {', '.join(changed)} changed although trials in "
                f"{self.directory} have finished; choose another --out for the new question."
            )

    def path(self, trial: Trial) -> Path:
        """Return a trial's run directory."""
        return self.directory / "trials" / trial.fingerprint

    def run(self, trial: Trial) -> Run:
        """Return a trial's run."""
        return Run(self.path(trial), trial.recipe)

    def state(self, trial: Trial) -> TrialState:
        """Return how far a trial is, from its directory and claim."""
        run = self.run(trial)
        try:
            result = run.result()
        except StoreError as error:
            return TrialState(trial, "failed", run.directory, reason=str(error))
        status = run.status()
        if result is not None and status in ("complete", "diverged"):
            return TrialState(trial, result.status, run.directory, result.val_accuracy, result.reason)
        if self._holder_lives(trial):
            return TrialState(trial, "running", run.directory)
        failure = run.directory / "failure.json"
        if failure.exists():
            return TrialState(
                trial, "failed", run.directory, reason=json.loads(failure.read_text(encoding="utf-8"))["reason"]
            )
        return TrialState(trial, "missing" if status is None else "stopped", run.directory)

    def states(self) -> list[TrialState]:
        """Return the states of all trials."""
        return [self.state(trial) for trial in self.trials]

    def results(self) -> list[RunResult]:
        """Return the outcomes so far."""
        finished = [state.trial for state in self.states() if state.finished]
        return [result for trial in finished if (result := self.run(trial).result()) is not None]

    def claim(self, trials: Sequence[Trial]) -> list[Trial]:
        """Claim trials for this process and return those that were free."""
        return [trial for trial in trials if self._claim(trial)]

    def release(self, trials: Sequence[Trial]) -> None:
        """Give claims back."""
        for trial in trials:
            self._claim_path(trial).unlink(missing_ok=True)

    def fail(self, trial: Trial, reason: str) -> None:
        """Record that a trial failed and why; its claim is given back."""
        self.path(trial).mkdir(parents=True, exist_ok=True)
        write_atomically(self.path(trial) / "failure.json", json.dumps({"reason": reason}) + "\n")
        if self.run(trial).status() is not None:
            self.run(trial).set_status("failed")
        self.release([trial])

    def forget_failures(self) -> int:
        """Make failed trials ready to be tried again; returns how many."""
        failed = [state.trial for state in self.states() if state.status == "failed"]
        for trial in failed:
            (self.path(trial) / "failure.json").unlink(missing_ok=True)
        return len(failed)

    def claimed_by(self, process: int) -> list[Trial]:
        """Return the trials that a process of this host has claimed."""
        holders = {trial.fingerprint: self._holder(trial) for trial in self.trials}
        mine = {"host": socket.gethostname(), "process": process}
        return [t for t in self.trials if (held := holders[t.fingerprint]) and mine.items() <= held.items()]

    def _claim_path(self, trial: Trial) -> Path:
        return self.directory / "claims" / trial.fingerprint

    def _claim(self, trial: Trial) -> bool:
        """Create the claim as a whole or not at all: written aside, then linked to its name, which fails if it exists."""
        path = self._claim_path(trial)
        path.parent.mkdir(exist_ok=True)
        if path.exists() and not self._holder_lives(trial):
            stale = path.with_name(f"{path.name}.stale.{os.getpid()}")
            try:
                path.rename(stale)  # of several who see a dead holder only one succeeds
            except FileNotFoundError:
                return False
            stale.unlink()
        mine = path.with_name(f"{path.name}.{os.getpid()}")
        mine.write_text(json.dumps(_identity(os.getpid())), encoding="utf-8")
        try:
            os.link(mine, path)
        except FileExistsError:
            return False
        finally:
            mine.unlink()
        if self.run(trial).finished():  # somebody brought it to its end between our look and our claim
            self.release([trial])
            return False
        return True

    def _holder(self, trial: Trial) -> dict[str, Any] | None:
        try:
            held: dict[str, Any] = json.loads(self._claim_path(trial).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return held

    def _holder_lives(self, trial: Trial) -> bool:
        """Say whether the claim's process is alive; on another host it is taken to be."""
        held = self._holder(trial)
        if held is None:
            return False
        return held["host"] != socket.gethostname() or held == _identity(held["process"])


def _identity(process: int) -> dict[str, Any]:
    """Return host, number and start time of a process: a number alone may be used again."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            started = file.read().rpartition(")")[2].split()[19]
    except OSError:
        started = "gone"
    return {"host": socket.gethostname(), "process": process, "started": started}
