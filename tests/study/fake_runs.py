"""Runs that were never trained: what the trainer would leave on disk, in milliseconds and without torch."""

from widestep.records.result import RunResult, Status
from widestep.records.run import Run

VAL_IMAGES = 837


def result_of(run: Run, status: Status = "complete", val_correct: int = 800) -> RunResult:
    """The outcome of a run that saw 1,000 images in half a second."""
    recipe, accuracy = run.recipe, val_correct / VAL_IMAGES
    return RunResult(
        status=status,
        recipe_fingerprint=recipe.fingerprint,
        weights_sha256="0" * 64,
        global_batch=recipe.grid.global_batch,
        num_workers=recipe.grid.num_workers,
        images_per_worker=recipe.grid.images_per_worker,
        steps=10,
        epochs=1.0,
        train_images_seen=1000,
        val_images=VAL_IMAGES,
        val_correct=val_correct,
        val_accuracy=accuracy,
        val_loss=0.1,
        median_last5_val_accuracy=accuracy,
        best_val_accuracy=accuracy,
        seed=recipe.seed,
        mode="reproducible",
        images_per_second=2500.0,
        wall_seconds=0.5,
        interruptions=0,
        reason="the loss is not finite" if status == "diverged" else None,
    )


def begin(run: Run) -> None:
    """Leave the run as a process that was killed in training leaves it."""
    run.open({})
    run.close()


def finish(run: Run, status: Status = "complete", val_correct: int = 800) -> None:
    """Bring the run to an outcome."""
    run.open({})
    run.finish(result_of(run, status, val_correct))
    run.close()
