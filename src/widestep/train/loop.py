"""Train the runs of a stack from where they are to their end."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from widestep.errors import Stopped, UsageError, WidestepError
from widestep.files import write_json
from widestep.plan.execution import Execution
from widestep.plan.runplan import RunPlan
from widestep.records.result import RunResult
from widestep.records.run import Run
from widestep.train import checkpoint
from widestep.train.accounts import comparison_of_policies, digests, ledger_entry, metrics_entry
from widestep.train.evaluate import Evaluation, evaluate
from widestep.train.normalisation import policy_after, show_statistics
from widestep.train.outcome import reason_of_divergence, result_of
from widestep.train.session import Member, Session, open_session, saved_tensors
from widestep.train.state import POLICIES, TrainState
from widestep.train.step import MovingStep, StepRecord, gradients_of
from widestep.train.stop import StopRequest
from widestep.workers.world import World

_NORMS_KEPT = 5


@dataclass(frozen=True)
class StepReport:
    """How far training is, for whoever watches."""

    plan: RunPlan
    step: int
    loss: float
    lr: float
    images_per_second: float
    data_share: float
    """Share of the step's time in which the process waited for images."""


class Watcher(Protocol):
    """Somebody who is told about the progress; a console, or nobody."""

    def started(self, session: Session) -> None:
        """Called once everything is in place, before the first step."""

    def stepped(self, report: StepReport) -> None:
        """Called after every step."""

    def evaluated(self, plan: RunPlan, step: int, evaluation: Evaluation) -> None:
        """Called after every evaluation."""

    def noted(self, text: str) -> None:
        """Called once for everything that somebody who reads the results must know."""


def train(
    runs: Sequence[Run], execution: Execution, world: World, watcher: Watcher, stop: StopRequest | None = None
) -> list[RunResult]:
    """Train runs that share a stack, continuing each from its last checkpoint.

    Parameters
    ----------
    runs
        One or more runs whose recipes share a `stack_key` and have different slots. Finished ones must be left out.
    world
        This job's processes; every process calls this function, process 0 writes the files.

    Returns
    -------
    One result a run, in order, the same on every process.

    Raises
    ------
    Stopped
        When a signal asked for it; everything is saved.
    WidestepError
        As `open_session`.
    """
    session = open_session(runs, execution, world, stop or StopRequest())
    try:
        return _Loop(session, watcher).run()
    except Stopped:
        raise
    except WidestepError as error:
        for member in session.members:
            if world.is_first and not member.run.finished():
                member.fail(error)
        raise
    finally:
        session.close()


class _Loop:
    def __init__(self, session: Session, watcher: Watcher) -> None:
        self.session = session
        self.watcher = watcher
        self.results: dict[int, RunResult] = {}
        self.began = self.saved = self.stepped = time.monotonic()
        self.waited = 0.0
        self.notes: set[str] = set()
        self.moving: MovingStep | None = None
        """The newest step, until somebody needs to know what it found."""

    @property
    def live(self) -> list[Member]:
        return [member for member in self.session.members if member.state.slot not in self.results]

    def run(self) -> list[RunResult]:
        session = self.session
        step = self._common_step()
        if session.world.is_first:
            self.watcher.started(session)
        for note in (*session.notes, *(note for member in session.members for note in member.notes)):
            self._note(note)
        while self.live:
            found = gradients_of(self._states(), session.engine, session.batches, step)
            self._settle()  # the step before
            if not self.live:
                break
            self.moving = MovingStep(self._states(), found, step, at_once=session.world.num_processes > 1)
            step += 1
            if self.moving.known or found.stop_requested or session.plan.evaluation_due(step):
                self._settle()
            self._evaluate_due(step)
            if self.live and (found.stop_requested or self._save_due(step)):
                self._settle()
                self._save(step)
            if found.stop_requested and self.live:
                self._stop(step)
        return [self.results[member.state.slot] for member in session.members]

    def _states(self) -> list[TrainState]:
        return [member.state for member in self.live]

    def _settle(self) -> None:
        """Read what the newest step found, write it down, and end the runs that it did not leave finite."""
        if self.moving is not None:
            records, self.moving = self.moving.records(), None
            self._record(records)
            self._end_diverged(records)

    def _evaluate_due(self, step: int) -> None:
        due = [member for member in self.live if member.state.plan.evaluation_due(step) or member.state.ended]
        if due:
            self._evaluate(due, step)
        self._finish_ended(step)

    def _common_step(self) -> int:
        steps = {member.state.tally.step for member in self.session.members}
        if len(steps) > 1:
            raise UsageError(f"Runs of one stack continue from the same step. Got steps {sorted(steps)}; train them apart.")
        return steps.pop()

    def _record(self, records: Sequence[StepRecord]) -> None:
        session, now, step = self.session, time.monotonic(), records[0].step
        seconds, self.stepped = now - self.stepped, now
        wanted = (step + 1) % session.execution.log_every == 0 or session.plan.ends_epoch(step + 1)
        for member, record in zip(self.live, records, strict=True):
            tally = member.state.tally
            tally.train_seconds += seconds
            if not record.taken:
                continue
            member.last_lr = record.applied.lr
            tally.gradient_norms = [*tally.gradient_norms[1 - _NORMS_KEPT :], record.statistics.gradient_norm]
            if session.world.is_first and (wanted or member.state.ended):
                self._write_records(member, record, seconds)
        if session.world.is_first:
            first = records[0]
            speed = first.statistics.num_images * len(records) / max(seconds, 1e-9)
            waited, self.waited = session.batches.seconds_waiting - self.waited, session.batches.seconds_waiting
            share = min(waited / max(seconds, 1e-9), 1.0)
            self.watcher.stepped(StepReport(session.plan, step + 1, first.statistics.loss, first.applied.lr, speed, share))

    def _write_records(self, member: Member, record: StepRecord, seconds: float) -> None:
        member.run.metrics(metrics_entry(record, seconds))
        member.run.ledger(ledger_entry(record, self.session.batches))
        if self.session.execution.digests:
            member.run.digests(digests(record))
        if member.board is not None:
            member.board.step(record.step, record.applied.lr, record.statistics.loss)

    def _end_diverged(self, records: Sequence[StepRecord]) -> None:
        failing = [(m, r) for m, r in zip(self.live, records, strict=True) if not r.taken]
        if not failing:
            return
        session, step = self.session, records[0].step
        policy = session.plan.recipe.batchnorm_running
        # Not computed anew: weights on the way to infinity may have no finite statistics.
        self._show_statistics("mean" if policy == "precise" else policy)
        evaluations = self._evaluated()
        batch_of, placement = session.batches.again(step), session.batches.placement(step)
        for member, record in failing:
            workers = session.engine.first_failing_workers(batch_of, placement, record.state.slot)
            member.state.failure = reason_of_divergence(record, workers)
            self._finish(member, "diverged", evaluations[member.state.slot])

    def _show_statistics(self, policy: str) -> None:
        session = self.session
        show_statistics(self._states(), session.engine, session.batches, policy)

    def _note_recomputation(self) -> None:
        num_images = sum(map(self.session.batches.num_images, self.session.batches.steps_for_statistics()))
        self._note(
            "few steps for running batch-norm statistics: until their start weighs less than 1 %, evaluations use "
            f"statistics computed from {num_images:,} training images"
        )

    def _evaluated(self) -> list[Evaluation]:
        session = self.session
        return evaluate(session.model, session.source, session.val_ids, session.plan.recipe, session.world, session.device)

    def _evaluate(self, due: Sequence[Member], step: int) -> None:
        recipe = self.session.plan.recipe
        policy = policy_after(recipe, step)
        if policy != recipe.batchnorm_running and self.session.engine.moments.num_channels:
            self._note_recomputation()
        self._show_statistics(policy)
        evaluations = self._evaluated()
        for member in due:
            state, found = member.state, evaluations[member.state.slot]
            tally = state.tally
            if found.accuracy > max(tally.accuracies, default=-1.0):
                state.keep_best()
            tally.accuracies.append(found.accuracy)
            member.evaluation = found
            row = {
                "epoch": state.plan.epoch_after(step),
                "step": step,
                "lr": member.last_lr,
                "train_loss": tally.epoch_loss / tally.epoch_images,
                "val_loss": found.finite_loss,
                "val_correct": found.correct,
                "val_images": found.images,
                "val_accuracy": found.accuracy,
            }
            tally.epoch_loss, tally.epoch_images = 0.0, 0
            if self.session.world.is_first:
                member.run.epoch(row)
                member.run.flush_records()
                if member.board is not None:
                    member.board.epoch(step, found.accuracy, found.finite_loss)
        if self.session.world.is_first:
            first = due[0].state
            self.watcher.evaluated(first.plan, step, evaluations[first.slot])
        self.stepped = time.monotonic()

    def _save_due(self, step: int) -> bool:
        session = self.session
        seconds = time.monotonic() - self.saved
        return session.execution.checkpoint_every.due(step, session.plan.epochs_after(step), seconds)

    def _save(self, step: int) -> None:
        if not self.session.world.is_first:
            return
        for member in self.live:
            self._save_best(member)
            facts = {
                "recipe": member.run.recipe.fingerprint,
                "tally": vars(member.state.tally),
                "lengths": member.run.record_lengths(),
            }
            checkpoint.write_last(member.run.checkpoints, saved_tensors(member.state), facts)
        self.saved = time.monotonic()

    def _save_best(self, member: Member) -> None:
        state = member.state
        if state.best is not None:
            facts = {"recipe": member.run.recipe.fingerprint, "val_accuracy": max(state.tally.accuracies)}
            checkpoint.write(member.run.checkpoints / "best.safetensors", state.best, facts)
            state.best = None

    def _stop(self, step: int) -> None:
        session = self.session
        why = session.stop.signal.name if session.stop.signal else "a signal to another process"
        if session.world.is_first:
            for member in self.live:
                member.run.event("stopped", step=step, reason=why)
                member.run.set_status("stopped")
        session.world.part()  # a process that left early would be taken for the end of the job, and process 0 cut off
        raise Stopped(
            f"Stopped by {why} after step {step:,} of {session.plan.total_steps:,}; everything is saved. The same command "
            "goes on from there."
        )

    def _finish_ended(self, step: int) -> None:
        """Finish the runs that have come to their end: all at once, unless AdaScale lets some make more progress a step."""
        ended = [member for member in self.live if member.state.ended]
        if ended and self.session.execution.compare_batchnorm:
            if self.session.engine.moments.num_channels:
                self._compare_policies(ended, step)
            else:
                self._note("the model has no batch normalisation, so there are no policies to compare")
        for member in ended:
            found = member.evaluation
            assert found is not None
            if found.finite_loss is None:
                member.state.failure = f"the loss of the validation images is {found.loss:.6g} after the last step, {step}"
            self._finish(member, "complete" if found.finite_loss is not None else "diverged", found)

    def _compare_policies(self, ended: Sequence[Member], step: int) -> None:
        """Evaluate final weights under every policy of batch-norm statistics, then put back those of the recipe."""
        found: dict[str, list[Evaluation]] = {}
        for policy in (*POLICIES, "precise"):
            self._show_statistics(policy)
            found[policy] = self._evaluated()
        used = policy_after(self.session.plan.recipe, step)
        self._show_statistics(used)
        for member in ended if self.session.world.is_first else ():
            write_json(member.run.directory / "batchnorm.json", comparison_of_policies(step, used, found, member.state.slot))

    def _finish(self, member: Member, status: str, evaluation: Evaluation) -> None:
        state, run = member.state, member.run
        state.freeze()
        result = result_of(member, status, evaluation, time.monotonic() - self.began)
        self.results[state.slot] = result
        if not self.session.world.is_first:
            return
        self._save_best(member)
        facts = {"recipe": run.recipe.fingerprint, "step": state.tally.step, "sha256_of_weights": result.weights_sha256}
        checkpoint.write(run.checkpoints / "final.safetensors", state.weights(), facts)
        run.flush_records()
        if result.reason:
            run.log(f"diverged: {result.reason}")
        run.event(status, step=state.tally.step)
        run.finish(result)

    def _note(self, text: str) -> None:
        if self.session.world.is_first and text not in self.notes:
            self.notes.add(text)
            self.watcher.noted(text)
            for member in self.live:
                member.run.log(text)
