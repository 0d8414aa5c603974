"""A study on disk: its definition, and one directory a trial, claimed by one process at a time."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from widestep.errors import EnvironmentFault, StoreError, UsageError
from widestep.files import explained, write_atomically
from widestep.plan.settings_file import read_text
from widestep.records.reading import read_record
from widestep.records.result import RunResult, Status
from widestep.records.run import Run, move_aside
from widestep.study.amendments import amendment, changed_question, write_amendment
from widestep.study.claims import Claims
from widestep.study.cluster import log_of
from widestep.study.pruning import read_pruned
from widestep.study.searched import Searched
from widestep.study.sequential import Look, check_same_design, is_concluded, num_wanted, read_looks, wanted_seeds
from widestep.study.study import Cell, Study, Trial, parse, to_toml

TrialStatus = Literal["missing", "running", "complete", "diverged", "pruned", "failed", "stopped"]


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
        """Whether the trial has an outcome (complete, diverged, or given up by a search): it is never run again."""
        return self.status in ("complete", "diverged", "pruned")

    @property
    def runnable(self) -> bool:
        """Whether a worker may take the trial up."""
        return self.status in ("missing", "stopped")

    @property
    def job_log(self) -> Path | None:
        """The log of the cluster's job that ran the trial last; None when no job did."""
        return log_of(self.directory.parents[1], self.trial.fingerprint)

    def as_dict(self) -> dict[str, Any]:
        """Return the row of `study status --json`."""
        log = self.job_log
        return {
            "fingerprint": self.trial.fingerprint,
            "arm": self.trial.arm,
            "settings": self.trial.settings,
            "seed": self.trial.seed,
            "status": self.status,
            "val_accuracy": self.val_accuracy,
            "directory": str(self.directory),
            "reason": self.reason,
        } | ({"job_log": str(log)} if log else {})


class StudyStore:
    """The directory of a study: study.toml, trials/FINGERPRINT/, claims/, looks/, search/, status.csv, report/.

    Parameters
    ----------
    whole
        Whether trials that searches will propose count as well, by stand-ins: for a plan, never to be run.
    """

    def __init__(self, directory: Path, study: Study, *, whole: bool = False) -> None:
        self.directory = directory
        self._whole = whole
        self.searched = Searched(directory, study)
        self._claims = Claims(directory / "claims")
        self._all = study.trials()
        cells = [cell for arm in study.arms for cell in study.cells(arm)] if study.sequential else []
        self._places = {
            cell.fingerprint(seed): (cell.fingerprint(0), place) for cell in cells for place, seed in enumerate(study.seeds)
        }

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
        if directory.exists() and not directory.is_dir():
            raise EnvironmentFault(f"A study is kept in a directory. {directory} is none; choose another.")
        store = cls(directory, study)
        path = directory / "study.toml"
        if path.exists():
            old = parse(read_text(path), str(path))
            num_finished = len(list((directory / "trials").glob("*/result.json")))
            store._check_same(old, num_finished)
            check_same_design(directory, old, study)
            store.searched.check_same()
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

    @property
    def study(self) -> Study:
        """The study, with the settings that its searches have found so far."""
        return self.searched.study

    @property
    def trials(self) -> list[Trial]:
        """The trials that are wanted: all, or of a study that runs until decided those that its looks ask for so far.

        Where a study searches, those proposed so far, and once a search is over those of what it found.
        """
        if self.searched.arms:
            return self.searched.trials() + (self.searched.to_come() if self._whole else [])
        if self.study.sequential is None:
            return self._all
        looks = self.looks()
        wanted = {key: num_wanted(self.study, looks, key) for key, _ in self._places.values()}
        places = [self._places[trial.fingerprint] for trial in self._all]
        return [trial for trial, (key, place) in zip(self._all, places, strict=True) if place < wanted[key]]

    def looks(self) -> list[Look]:
        """Return the looks taken so far; none unless the study runs until decided."""
        return read_looks(self.directory, self.study)

    def is_concluded(self) -> bool:
        """Say whether the trials wanted now are all that there will be."""
        return self.searched.is_over() and is_concluded(self.study, self.looks())

    def seeds_of(self, cell: Cell) -> list[int]:
        """Return the seeds that a setting runs with so far."""
        return wanted_seeds(self.study, self.looks(), cell)

    def path(self, trial: Trial) -> Path:
        """Return a trial's run directory."""
        return self.directory / "trials" / trial.fingerprint

    def run(self, trial: Trial) -> Run:
        """Return a trial's run."""
        return Run(self.path(trial), trial.recipe)

    def state(self, trial: Trial) -> TrialState:
        """Return how far a trial is, from its directory and claim."""
        directory = self.path(trial)
        held = self._claims.held(trial.fingerprint)  # before the outcome is read: a claim is given back after it was written
        try:
            result, status = self._outcome(trial)
        except StoreError as error:
            return TrialState(trial, "failed", directory, reason=str(error))
        pruned = None if held else read_pruned(directory)
        if result is not None and pruned is None:
            return TrialState(trial, result.status, directory, result.val_accuracy, result.reason)
        if held:
            return TrialState(trial, "running", directory, reason=self._claims.elsewhere(trial.fingerprint))
        return self._resting(trial, status)

    def _resting(self, trial: Trial, status: Status | None) -> TrialState:
        """Return the state of a trial without an outcome that nobody is working on."""
        directory = self.path(trial)
        if (pruned := read_pruned(directory)) is not None:
            return TrialState(trial, "pruned", directory, pruned.accuracy, pruned.words)
        if os.path.lexists(directory / "failure.json"):
            return TrialState(trial, "failed", directory, reason=failure_reason(directory / "failure.json"))
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
        with self._claims.alone():
            return [trial for trial in trials if self._claim(trial)]

    def release(self, trials: Sequence[Trial]) -> None:
        """Give this process's claims back."""
        for trial in trials:
            self._claims.give_back(trial.fingerprint)

    def doubtful(self) -> bool:
        """Say whether trials are claimed on other hosts by processes that may be dead: some seconds tell."""
        return self._claims.doubtful([trial.fingerprint for trial in self.trials])

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
        names = set(self._claims.left_by(process, [trial.fingerprint for trial in self.trials]))
        left = [trial for trial in self.trials if trial.fingerprint in names]
        unfinished = [trial for trial in left if not self.state(trial).finished]
        for trial in left:
            if trial in unfinished and spared(trial):
                self.tell(trial, f"{reason}; it is taken up again")
            else:
                self.fail(trial, reason)
            self._claims.remove(trial.fingerprint)
        return unfinished

    def forget_failures(self, chosen: Callable[[Trial], bool] = lambda trial: True, *, fresh: bool = False) -> int:
        """Make failed trials ready to be tried again; returns how many. A damaged result is kept beside the new one.

        With `fresh` they begin anew, and what they had is moved aside; raises DirectoryInUse when one is worked on.
        """
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
            if fresh:
                move_aside(run.directory)
        return len(failed)

    def _claim(self, trial: Trial) -> bool:
        """Claim a trial that nobody is working on and that has neither an outcome nor failed since we looked."""
        if not self.state(trial).runnable or not self._claims.take(trial.fingerprint):
            return False
        with suppress(StoreError):
            result, status = self._outcome(trial)
            if result is None and self._resting(trial, status).runnable:
                return True
        self._claims.give_back(trial.fingerprint)
        return False


def failure_reason(failure: Path) -> str:
    """Return why a trial failed, from its failure.json."""
    with suppress(StoreError, KeyError, TypeError):
        return str(read_record(failure, "why a trial failed")["reason"])  # type: ignore[index]
    return f"{failure} is damaged"
