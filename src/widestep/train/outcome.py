"""What is said of a run that has ended."""

import math
import statistics

from torch import Tensor

from widestep.records.result import RunResult
from widestep.train.evaluate import Evaluation
from widestep.train.session import Member
from widestep.train.state import weights_sha256
from widestep.train.step import StepRecord


def reason_of_divergence(record: StepRecord, workers: range) -> str:
    """Say why a run ended at a step that was not finite; `workers` are the first whose share was not."""
    found, state, step = record.statistics, record.state, record.step
    where = f"worker {workers.start}" if len(workers) == 1 else f"workers {workers.start}-{workers.stop - 1}"
    norms = ", ".join(f"{norm:.3g}" for norm in state.tally.gradient_norms)
    return (
        f"loss {found.loss:.6g}, gradient norm {found.gradient_norm:.6g}"
        f"{', a batch-norm statistic not finite' if found.finite else ''} at step {step} "
        f"(epoch {state.plan.position(step).epoch}) with rate {record.applied.lr:.6g}, first in {where}; "
        f"gradient norms before: {norms or 'none'}"
    )


def no_better_than_guessing(evaluation: Evaluation, labels: Tensor) -> str | None:
    """Say so when a network names no more images correctly than one that always names the largest class.

    That is what a rate beyond all bounds leaves behind when nothing becomes infinite on the way. The rule: correct images
    are fewer than n p + 2.33 sqrt(n p (1 - p)), with p the share of the largest class among the n images, which guessing
    reaches in one of a hundred runs.

    Parameters
    ----------
    labels
        Of the validation images, int64, shape (n,).
    """
    largest = int(labels.bincount().max()) / len(labels)
    by_chance = len(labels) * largest
    if evaluation.correct > by_chance + 2.33 * math.sqrt(by_chance * (1.0 - largest)):
        return None
    return (
        f"the network has learnt nothing: {100 * evaluation.accuracy:.2f} % of the validation images are correct, naming "
        f"always the largest class gives {100 * largest:.2f} %; perhaps the rate is too high"
    )


def result_of(member: Member, status: str, evaluation: Evaluation, seconds: float) -> RunResult:
    """Return the outcome of a run that has come to its end, `seconds` after this process began with it."""
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
        wall_seconds=round(seconds, 3),
        interruptions=member.interruptions,
        damaged_images=len(tally.damaged),
        reason=state.failure,
    )
