"""Train the runs of a stack from where they are to their end."""

import time
from collections.abc import Sequence
from functools import partial

import torch

from widestep.data.loading import Kept
from widestep.errors import Stopped, UsageError, WidestepError
from widestep.files import write_json
from widestep.plan.execution import Execution
from widestep.records.result import RunResult
from widestep.records.run import Run
from widestep.train.accounts import comparison_of_policies, digests, epoch_entry, ledger_entry, metrics_entry
from widestep.train.census import Speeds, check_replicas
from widestep.train.damaged import count_damaged
from widestep.train.evaluate import Evaluation, evaluate
from widestep.train.keeping import Keeper
from widestep.train.normalisation import policy_after, show_statistics
from widestep.train.outcome import no_better_than_guessing, reason_of_divergence, result_of
from widestep.train.saving import insist
from widestep.train.session import Member, Session, open_session
from widestep.train.state import POLICIES, TrainState
from widestep.train.step import MovingStep, StepRecord, gradients_of
from widestep.train.stop import StopRequest
from widestep.train.watching import StepReport, Watcher
from widestep.workers.engine import Wishes
from widestep.workers.world import World

_NORMS_KEPT = 5
_STOP_SECONDS = 3.0
"""What stopping takes besides a step, a save and an evaluation."""


def train(
    runs: Sequence[Run],
    execution: Execution,
    world: World,
    watcher: Watcher,
    stop: StopRequest | None = None,
    kept: Kept | None = None,
) -> list[RunResult]:
    """Train runs that share a stack, continuing each from its last checkpoint.

    Parameters
    ----------
    runs
        One or more runs whose recipes share a `stack_key` and have different slots. Finished ones must be left out.
    world
        This job's processes; every process calls this function, process 0 writes the files.
    kept
        What one call hands on to the next in this process: images of a small data set that are decoded already.

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
    session = open_session(runs, execution, world, stop or StopRequest(), kept)
    try:
        loop = _Loop(session, watcher)
        try:
            try:
                return loop.run()
            finally:
                loop.keeper.close()
        except Stopped:
            raise
        except WidestepError as error:
            spent = loop.speeds.spent(len(session.members))
            for member in session.members:
                if world.is_first and not member.run.finished():
                    member.fail(error, spent)
            raise
    finally:
        session.close()


class _Loop:
    def __init__(self, session: Session, watcher: Watcher) -> None:
        self.session = session
        self.watcher = watcher
        self.results: dict[int, RunResult] = {}
        self.began = self.stepped = time.monotonic()
        self.waited = self.exchanged = 0.0
        self.longest_step = self.evaluating = 0.0
        """Seconds of the longest of each so far."""
        self.step = 0
        self.speeds = Speeds(session.world)
        self.notes: set[str] = set()
        self.keeper = Keeper(session, self._note)
        self.moving: MovingStep | None = None
        """The newest step, until somebody needs to know what it found."""
        session.engine.wishes = self._wishes

    @property
    def live(self) -> list[Member]:
        return [member for member in self.session.members if member.state.slot not in self.results]

    def run(self) -> list[RunResult]:
        session = self.session
        step = self.step = self._common_step()
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
            step = self.step = step + 1
            session.world.pulse.beat("computing", step)
            if self.moving.known or any(found.wishes) or session.plan.evaluation_due(step):
                self._settle()
            self._compare_replicas(step, found.wishes)
            self._evaluate_due(step)
            if self.live and any(found.wishes):
                self._count_damaged()
                self.keeper.save(step, self.live)
            if found.wishes.stop and self.live:
                self._stop(step)
        return [self.results[member.state.slot] for member in session.members]

    def _wishes(self) -> Wishes:
        """Say what this process wants all to do after the step that begins: stop, or save, which process 0 decides."""
        return Wishes(self.session.stop.due(self._seconds_to_stop()), self.keeper.due(self.step + 1))

    def _seconds_to_stop(self) -> float:
        """Return how long before a deadline to stop: what may come between two looks at the clock, and some to spare."""
        return _STOP_SECONDS + 2 * (self.longest_step + self.keeper.longest) + self.evaluating

    def _compare_replicas(self, step: int, wishes: Wishes) -> None:
        """Make sure, before anything is kept of them, that all processes hold the same states."""
        every = self.session.execution.check_replicas_every
        if any(wishes) or step % every == 0 or any(state.ended for state in self._states()):
            check_replicas(self._states(), self.session.world, step)

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
        self.longest_step = max(self.longest_step, seconds)
        waited, self.waited = session.batches.seconds_waiting - self.waited, session.batches.seconds_waiting
        exchanged, self.exchanged = session.world.seconds_in_contact - self.exchanged, session.world.seconds_in_contact
        for sentence in self.speeds.count(max(0.0, seconds - exchanged), waited, partial(self._num_blocks, step)):
            self._note(sentence)
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
            share = min(waited / max(seconds, 1e-9), 1.0)
            loss, lr = first.statistics.loss, first.applied.lr
            progress = min(member.state.tally.progress for member in self.live)
            self.watcher.stepped(StepReport(session.plan, step + 1, loss, lr, speed, share, progress))

    def _num_blocks(self, step: int) -> list[int]:
        placement = self.session.batches.placement(step)
        return [len(placement.blocks(process)) for process in range(self.session.world.num_processes)]

    def _write_records(self, member: Member, record: StepRecord, seconds: float) -> None:
        member.run.metrics(metrics_entry(record, seconds))
        member.run.ledger(ledger_entry(record, self.session.batches))
        if self.session.execution.digests:
            member.run.digests(digests(record))
        for logger in member.loggers:
            logger.step(record.step + 1, record.applied.lr, record.statistics.loss)

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
        session, began = self.session, time.monotonic()
        session.world.pulse.beat("evaluating")
        recipe = session.plan.recipe
        policy = policy_after(recipe, step)
        if policy != recipe.batchnorm_running and self.session.engine.moments.num_channels:
            self._note_recomputation()
        self._show_statistics(policy)
        evaluations = self._evaluated()
        self._count_damaged(evaluations)
        for member in due:
            state, found = member.state, evaluations[member.state.slot]
            tally = state.tally
            if found.accuracy > max(tally.accuracies, default=-1.0):
                state.keep_best()
            tally.accuracies.append(found.accuracy)
            member.evaluation = found
            row = epoch_entry(state, step, member.last_lr, found)
            tally.epoch_loss, tally.epoch_images = 0.0, 0
            if self.session.world.is_first:
                member.run.epoch(row)
                for logger in member.loggers:
                    logger.epoch(step, found.accuracy, found.finite_loss)
        if self.session.world.is_first:
            first = due[0].state
            self.keeper.flush(self.live)
            self.watcher.evaluated(first.plan, step, evaluations[first.slot])
        self.evaluating = max(self.evaluating, time.monotonic() - began)
        self.stepped, self.exchanged = time.monotonic(), session.world.seconds_in_contact

    def _count_damaged(self, evaluations: Sequence[Evaluation] = ()) -> None:
        found = count_damaged(self.session, self.live, evaluations)
        if found is not None:
            self._note(found)

    def _stop(self, step: int) -> None:
        session = self.session
        why = session.stop.reason or session.stop.reason_of_others(self._seconds_to_stop())
        if session.world.is_first:
            self.keeper.stop(step, self.live, why, self.speeds.spent(len(session.members)))
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
            run, value = member.run, comparison_of_policies(step, used, found, member.state.slot)
            insist(partial(write_json, run.directory / "batchnorm.json", value, run.fence))

    def _finish(self, member: Member, status: str, evaluation: Evaluation) -> None:
        state = member.state
        self.session.world.pulse.beat("finishing")
        state.freeze()
        result = result_of(member, status, evaluation, time.monotonic() - self.began)
        self.results[state.slot] = result
        if status == "complete":
            labels = self.session.source.labels[torch.from_numpy(self.session.val_ids[state.slot])].cpu()
            if (doubt := no_better_than_guessing(evaluation, labels)) is not None:
                self._note(doubt, member)
        if self.session.world.is_first:
            self.keeper.finish(member, result, self.speeds.spent(len(self.session.members)))

    def _note(self, text: str, *concerned: Member) -> None:
        """Tell whoever watches, once, and leave it in the logs of the runs concerned; of all that are live by default."""
        if self.session.world.is_first and text not in self.notes:
            self.notes.add(text)
            self.watcher.noted(text)
            for member in concerned or self.live:
                member.run.log(text)
