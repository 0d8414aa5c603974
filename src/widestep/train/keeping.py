"""What is kept of the runs on disk, by process 0: states while they train, weights and outcome when they end."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

from widestep.records.result import RunResult
from widestep.train import checkpoint
from widestep.train.saving import Copied, Saver, Weights, insist
from widestep.train.session import Member, Session, saved_tensors


class Keeper:
    """Writes states, records and outcomes; a disk that does not take them is told once, and asked again.

    Parameters
    ----------
    session
        The runs and who saves them.
    note
        Takes a sentence for whoever reads the results.
    """

    def __init__(self, session: Session, note: Callable[[str], None]) -> None:
        execution = session.execution
        self._session = session
        self._note = note
        self._saver = Saver(execution.checkpoint_every, execution.keep_checkpoints, note)
        self._records_wait = False

    @property
    def longest(self) -> float:
        """Seconds of the longest save so far."""
        return self._saver.longest

    def due(self, step: int) -> bool:
        """Say whether this process wants the states after `step` steps to be saved."""
        return self._session.world.is_first and self._saver.due(step, self._session.plan.epochs_after(step))

    def save(self, step: int, live: Sequence[Member]) -> None:
        """Copy the states and let them be written while training goes on."""
        if self._session.world.is_first:
            self._session.world.pulse.beat("saving")
            self._saver.begin(step, partial(self._copies, live))
            self.flush(live)

    def stop(self, step: int, live: Sequence[Member], why: str, spent: Mapping[str, Any]) -> None:
        """Save the states, which must succeed now, and leave word of it and of what was spent."""
        self._saver.insist(step, partial(self._copies, live))
        for member in live:
            member.run.event("stopped", step=step, reason=why, **spent)
            insist(partial(member.run.set_status, "stopped"))
        self.flush(live)

    def finish(self, member: Member, result: RunResult, spent: Mapping[str, Any]) -> None:
        """Write the weights and the outcome of a run that has ended, and what was spent on it."""
        self._saver.wait()
        run, state, best = member.run, member.state, member.state.best
        facts = {"recipe": run.recipe.fingerprint, "step": state.tally.step, "sha256_of_weights": result.weights_sha256}
        facts |= {"val_correct": result.val_correct, "val_images": result.val_images}
        if best is not None:
            path = run.checkpoints / "best.safetensors"
            insist(partial(checkpoint.write, path, best, _facts_of_best(member), run.fence))
        insist(partial(checkpoint.write, run.checkpoints / "final.safetensors", state.weights(), facts, run.fence))
        if result.reason:
            run.log(f"diverged: {result.reason}")
        run.event(result.status, step=state.tally.step, **spent)
        insist(partial(run.finish, result))
        for logger in member.loggers:
            logger.finish(result.status)

    def flush(self, live: Sequence[Member]) -> None:
        """Let readers see the records; say once when they find no space on the disk and wait in memory."""
        told = next(filter(None, [member.run.flush_records() for member in live]), None)
        for problem in (logger.problem for member in live for logger in member.loggers):
            if problem is not None:
                self._note(problem)
        if told is not None and not self._records_wait:
            self._note(told)
        self._records_wait = told is not None

    def close(self) -> None:
        """End the thread that writes."""
        self._saver.close()

    def _copies(self, live: Sequence[Member]) -> list[Copied]:
        return [_copied(member) for member in live]


def _copied(member: Member) -> Copied:
    run, state, best = member.run, member.state, member.state.best
    for logger in member.loggers:
        logger.flush()
    facts = {**member.origin, "generation": run.fence.generation if run.fence else 0, "lengths": run.record_lengths()}
    facts |= {"epochs": state.plan.epochs_after(state.tally.step), "tally": deepcopy(vars(state.tally))}

    def acknowledge() -> None:
        if state.best is best:
            state.best = None

    weights = None if best is None else Weights(checkpoint.on_host(best), _facts_of_best(member))
    return Copied(run, state.tally.step, checkpoint.on_host(saved_tensors(state)), facts, weights, acknowledge)


def _facts_of_best(member: Member) -> dict[str, Any]:
    return {"recipe": member.run.recipe.fingerprint, "val_accuracy": max(member.state.tally.accuracies)}
