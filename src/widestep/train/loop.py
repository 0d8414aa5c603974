"""Train the runs of a stack from where they are to their end."""

import statistics
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
from widestep.train.session import Member, Session, open_session, saved_tensors
from widestep.train.state import POLICIES, weights_sha256
from widestep.train.step import StepRecord, take_step
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
        self.notes: set[str] = set()

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
            records, stopping = take_step([member.state for member in self.live], session.engine, session.batches, step)
            self._record(records, step)
            self._end_diverged(records, step)
            step += 1
            due = [member for member in self.live if member.state.plan.evaluation_due(step) or member.state.ended]
            if due:
                self._evaluate(due, step)
            self._finish_ended(step)
            if self.live and (stopping or self._save_due(step)):
                self._save(step)
            if stopping and self.live:
                self._stop(step)
        return [self.results[member.state.slot] for member in session.members]

    def _common_step(self) -> int:
        steps = {member.state.tally.step for member in self.session.members}
        if len(steps) > 1:
            raise UsageError(f"Runs of one stack continue from the same step. Got steps {sorted(steps)}; train them apart.")
        return steps.pop()

    def _record(self, records: Sequence[StepRecord], step: int) -> None:
        session, now = self.session, time.monotonic()
        seconds, self.stepped = now - self.stepped, now
        for member, record in zip(self.live, records, strict=True):
            tally = member.state.tally
            tally.train_seconds += seconds
            if not record.taken:
                continue
            member.last_lr = record.applied.lr
            tally.gradient_norms = [*tally.gradient_norms[1 - _NORMS_KEPT :], record.statistics.gradient_norm]
            wanted = (step + 1) % session.execution.log_every == 0 or session.plan.ends_epoch(step + 1)
            if session.world.is_first and (wanted or member.state.ended):
                self._write_records(member, record, seconds)
        if session.world.is_first:
            first = records[0]
            speed = first.statistics.num_images * len(records) / max(seconds, 1e-9)
            self.watcher.stepped(StepReport(session.plan, step + 1, first.statistics.loss, first.applied.lr, speed))

    def _write_records(self, member: Member, record: StepRecord, seconds: float) -> None:
        member.run.metrics(metrics_entry(record, seconds))
        member.run.ledger(ledger_entry(record, self.session.batches))
        if self.session.execution.digests:
            member.run.digests(digests(record))
        if member.board is not None:
            member.board.step(record.step, record.applied.lr, record.statistics.loss)

    def _end_diverged(self, records: Sequence[StepRecord], step: int) -> None:
        failing = [(m, r) for m, r in zip(self.live, records, strict=True) if not r.taken]
        if not failing:
            return
        session = self.session
        policy = session.plan.recipe.batchnorm_running
        # Not computed anew: weights on the way to infinity may have no finite statistics.
        self._show_statistics("mean" if policy == "precise" else policy)
        evaluations = self._evaluated()
        batch_of, placement = session.batches.at(step), session.batches.placement(step)
        for member, record in failing:
            found = record.statistics
            workers = session.engine.first_failing_workers(batch_of, placement, record.state.slot)
            where = f"worker {workers.start}" if len(workers) == 1 else f"workers {workers.start}-{workers.stop - 1}"
            norms = ", ".join(f"{norm:.3g}" for norm in member.state.tally.gradient_norms)
            reason = (
                f"loss {found.loss:.6g}, gradient norm {found.gradient_norm:.6g}"
                f"{', a batch-norm statistic not finite' if found.finite else ''} at step {step} "
                f"(epoch {member.state.plan.position(step).epoch}) with rate {record.applied.lr:.6g}, first in {where}; "
                f"gradient norms before: {norms or 'none'}"
            )
            member.state.failure = reason
            self._finish(member, "diverged", evaluations[member.state.slot])

    def _show_statistics(self, policy: str) -> None:
        session = self.session
        show_statistics([member.state for member in self.live], session.engine, session.batches, policy)

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
        result = self._result(member, status, evaluation)
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

    def _result(self, member: Member, status: str, evaluation: Evaluation) -> RunResult:
        state, tally = member.state, member.state.tally
        recipe, accuracies = member.run.recipe, [*member.state.tally.accuracies] or [evaluation.accuracy]
        return RunResult(
            status=status,  # type: ignore[arg-type]
            recipe_fingerprint=recipe.fingerprint,
            weights_sha256=weights_sha256(state.weights()),
            global_batch=recipe.grid.global_batch,
            num_workers=recipe.grid.num_workers,
            images_per_worker=recipe.grid.images_per_worker,
            steps=tally.step,
            epochs=state.plan.epochs_after(tally.step),
            train_images_seen=tally.images_seen,
            val_images=evaluation.images,
            val_correct=evaluation.correct,
            val_accuracy=evaluation.accuracy,
            val_loss=evaluation.finite_loss,
            median_last5_val_accuracy=statistics.median(accuracies[-5:]),
            best_val_accuracy=max(accuracies),
            seed=recipe.seed,
            mode=recipe.mode,
            images_per_second=round(tally.images_seen / tally.train_seconds, 1) if tally.train_seconds else 0.0,
            wall_seconds=round(time.monotonic() - self.began, 3),
            interruptions=member.interruptions,
            reason=state.failure,
        )

    def _note(self, text: str) -> None:
        if self.session.world.is_first and text not in self.notes:
            self.notes.add(text)
            self.watcher.noted(text)
            for member in self.live:
                member.run.log(text)
