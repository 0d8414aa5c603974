"""Work on a study: take trials that nobody has, run them in stacks, keep failures to themselves."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from traceback import format_exception
from typing import Any, Literal, Protocol

from widestep.errors import DirectoryInUse, Stopped, WidestepError, WorkerLost
from widestep.plan.cadence import Cadence
from widestep.plan.execution import Execution
from widestep.records.saved import saved_steps
from widestep.study.searching import extend, may_extend
from widestep.study.store import StudyStore
from widestep.study.study import Trial

SAVED_EVERY = Cadence(10, "s")
"""How often the trials of a study are saved."""


def execution_of(device: Literal["auto", "cpu", "cuda"], *, compare_batchnorm: bool) -> Execution:
    """Return where and how fast the trials of a study run."""
    return Execution(
        device=device,
        tensorboard=False,
        checkpoint_every=SAVED_EVERY,
        log_every=10,
        compare_batchnorm=compare_batchnorm,
    )


_DOUBT_SECONDS = 1.0
"""Between two looks at claims of other hosts, when nothing else is left to do."""

Execute = Callable[[Sequence[Trial]], None]
"""Runs trials that share a stack, each in its directory, to their outcome."""


class Company(Protocol):
    """The processes that compute a trial together; the first of them claims and decides."""

    num_processes: int

    @property
    def is_first(self) -> bool:
        """Whether this is the first process."""
        ...

    def broadcast_json(self, value: Any) -> Any:
        """Return the first process's value on every process."""
        ...

    def part(self) -> None:
        """Wait for all."""
        ...


class Alone:
    """A process that computes by itself."""

    num_processes = 1
    is_first = True

    def broadcast_json(self, value: Any) -> Any:
        """Return the value."""
        return value

    def part(self) -> None:
        """Wait for nobody."""


def work(store: StudyStore, execute: Execute, company: Company | None = None) -> int:
    """Run trials until none is free; several processes may do so at the same time, each for itself or in company.

    A stack that fails as a whole is run again trial by trial: a run alone gives the same bytes, so only the one that is at
    fault is recorded as failed.

    Returns
    -------
    How many trials were brought to an outcome.

    Raises
    ------
    Stopped
        When the trainer was asked to stop; claims are given back.
    DirectoryInUse, EnvironmentFault
        When trials are left because somebody works in their directories who has not claimed them, or nothing can be written
        there.
    WorkerLost
        When one of several processes that compute together was lost.
    """
    return _Worker(store, execute, company or Alone()).work()


class _Worker:
    """One process at work on a study."""

    def __init__(self, store: StudyStore, execute: Execute, company: Company) -> None:
        self._store = store
        self._execute = execute
        self._company = company
        self._refused: dict[str, WidestepError] = {}  # trials whose directories are somebody else's, or cannot be written

    def work(self) -> int:
        num_done = 0
        while stack := self._next():
            try:
                num_done += self._run(stack)
            finally:
                self._store.release(stack)
        left = [trial for trial in self._named(list(self._refused)) if self._store.state(trial).runnable]
        for name in self._company.broadcast_json([trial.fingerprint for trial in left]):
            raise self._refused.get(name, DirectoryInUse())
        return num_done

    def _named(self, names: Sequence[str]) -> list[Trial]:
        trials = {trial.fingerprint: trial for trial in self._store.trials}
        return [trials[name] for name in names]

    def _next(self) -> list[Trial]:
        """Return the trials to run next, on every process the same."""
        claimed: list[Trial] = []
        if self._company.is_first:
            while not (claimed := self._claimed()) and (extend(self._store) or self._must_wait()):
                pass
        return self._named(self._company.broadcast_json([trial.fingerprint for trial in claimed]))

    def _must_wait(self) -> bool:
        """Wait a moment for what others are at, if that may leave something to do; say whether it may."""
        if not self._store.doubtful() and not may_extend(self._store):
            return False
        time.sleep(_DOUBT_SECONDS)
        return True

    def _claimed(self) -> list[Trial]:
        states = self._store.states()
        free = [state.trial for state in states if state.runnable and state.trial.fingerprint not in self._refused]
        for stack in stacks(free, self._store):
            claimed = self._store.claim(stack)
            if claimed:
                return claimed
        return []

    def _run(self, stack: Sequence[Trial]) -> int:
        try:
            self._execute(stack)
        except Exception as error:  # noqa: BLE001 - whatever a trial does, the others go on
            return self._after(stack, error)
        return len(stack)

    def _after(self, stack: Sequence[Trial], error: Exception) -> int:
        """Go on after a stack has failed; returns how many of its trials have an outcome after all."""
        known = isinstance(error, WidestepError)  # then it was raised on all processes, and none waits for another
        code = error.exit_code if isinstance(error, WidestepError) else WidestepError.exit_code
        if code == Stopped.exit_code or (isinstance(error, WorkerLost) and self._company.num_processes > 1):
            raise error
        if not known and self._company.num_processes > 1:
            for trial in stack:
                self._fail(trial, error)
            raise error
        if len(stack) == 1:
            if code == DirectoryInUse.exit_code:
                self._refused[stack[0].fingerprint] = DirectoryInUse(str(error))
            elif str(error) or not known:  # without words it is that of another process, which tells it
                self._fail(stack[0], error)
            self._company.part()
            return 0
        left = self._company.broadcast_json([t.fingerprint for t in stack if not self._store.state(t).finished])
        return len(stack) - len(left) + sum(self._run([trial]) for trial in self._named(left))

    def _fail(self, trial: Trial, failure: Exception) -> None:
        """Record that a trial failed; where even that cannot be written, the others go on all the same."""
        try:
            self._store.fail(trial, _reason(failure), "".join(format_exception(failure)))
        except WidestepError as error:
            self._refused[trial.fingerprint] = error


def _reason(error: Exception) -> str:
    """Say on one line why a trial failed."""
    words = " ".join(str(error).split())
    if isinstance(error, MemoryError) and not words:
        words = "there was too little memory; use smaller passes (images_per_forward) or fewer --jobs"
    return words if isinstance(error, WidestepError) else f"{type(error).__name__}: {words}"


def stacks(trials: Sequence[Trial], store: StudyStore) -> list[list[Trial]]:
    """Group trials that can be computed side by side, the longest groups first.

    Trials share a stack when their recipes share all fields that shape the computation, they stand at the same step, and no
    two have the same slot.
    """
    by_shape: defaultdict[tuple[str, int], defaultdict[int, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        by_shape[trial.recipe.stack_key, saved_step(store, trial)][trial.recipe.slot].append(trial)
    groups = []
    for slots in by_shape.values():
        while queues := [queue for queue in slots.values() if queue]:
            groups.append([queue.pop(0) for queue in queues])
    return sorted(groups, key=lambda group: -len(group) * _weight(group[0]))


def _weight(trial: Trial) -> float:
    """Return a number that grows with a trial's length: epochs, and steps of small batches cost more an image."""
    return float(trial.recipe.epochs.amount) * (1 + 10 / trial.recipe.grid.global_batch)


def saved_step(store: StudyStore, trial: Trial) -> int:
    """Return the step that a trial will go on from, without torch; 0 when nothing was saved."""
    return max(saved_steps(store.run(trial).checkpoints), default=0)
