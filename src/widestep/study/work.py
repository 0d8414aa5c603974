"""Work on a study: take trials that nobody has, run them in stacks, keep failures to themselves."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from traceback import format_exception
from typing import Literal

from widestep.errors import Stopped, WidestepError
from widestep.plan.cadence import Cadence
from widestep.plan.execution import Execution
from widestep.records.saved import saved_steps
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


Execute = Callable[[Sequence[Trial]], None]
"""Runs trials that share a stack, each in its directory, to their outcome."""


def work(store: StudyStore, execute: Execute) -> int:
    """Run trials until none is free; several processes may do so at the same time.

    A stack that fails as a whole is run again trial by trial: a run alone gives the same bytes, so only the one that is at
    fault is recorded as failed.

    Returns
    -------
    How many trials were brought to an outcome.

    Raises
    ------
    Stopped
        When the trainer was asked to stop; claims are given back.
    """
    num_done = 0
    while True:
        stack = _claim_next(store)
        if not stack:
            return num_done
        try:
            num_done += _run(store, stack, execute)
        finally:
            store.release(stack)


def _claim_next(store: StudyStore) -> list[Trial]:
    free = [state.trial for state in store.states() if state.runnable]
    for stack in stacks(free, store):
        claimed = store.claim(stack)
        if claimed:
            return claimed
    return []


def _run(store: StudyStore, stack: Sequence[Trial], execute: Execute) -> int:
    try:
        execute(stack)
    except Stopped:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a trial does, the others go on
        if len(stack) == 1:
            store.fail(stack[0], _reason(error), "".join(format_exception(error)))
            return 0
        return sum(1 if store.state(trial).finished else _run(store, [trial], execute) for trial in stack)
    return len(stack)


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
