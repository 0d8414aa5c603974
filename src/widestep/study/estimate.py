"""How long a study will take: counted exactly in images, turned into time by a speed whose origin is said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from widestep.data.facts import describe
from widestep.plan.runplan import RunPlan
from widestep.records.result import RunResult
from widestep.study.store import StudyStore
from widestep.study.study import Trial

# Training images a second of one core, evaluation included. Measured with the shipped studies: digits-resnet in stacks of 12
# on one core of an AMD EPYC (Zen 5); resnet50 at 224 pixels likewise, single.
MEASURED_SPEED = {"digits-resnet": 25_000.0, "resnet50": 4.0}


def plans(trials: Sequence[Trial]) -> dict[str, RunPlan]:
    """Return the plan of every trial by fingerprint; the data set is only looked at, not loaded.

    Raises
    ------
    UsageError, DataError
        When a data set is unknown or its folder is not as it must be.
    """
    sizes: dict[tuple[str, int | None, int | None], int] = {}
    found = {}
    for trial in trials:
        recipe = trial.recipe
        key = recipe.data, recipe.train_images, recipe.image_size
        if key not in sizes:
            sizes[key] = describe(key[0], train_images=key[1], image_size=key[2]).num_train
        found[trial.fingerprint] = RunPlan(recipe, sizes[key])
    return found


@dataclass(frozen=True)
class Estimate:
    """Predicted seconds with the basis of the prediction, or no seconds when nothing is known."""

    num_images: int
    seconds: float | None
    basis: str


def estimate(store: StudyStore, num_images: int, num_processes: int, images_per_second: float | None = None) -> Estimate:
    """Predict the time for `num_images` training images on `num_processes` processes.

    Parameters
    ----------
    images_per_second
        Of one process, when the user knows it better.
    """
    models = {trial.recipe.model for trial in store.trials}
    speed, basis = images_per_second, "the speed given"
    if speed is None:
        stack_of = {trial.fingerprint: trial.recipe.stack for trial in store.trials}
        speed, basis = _earlier(store.results(), stack_of), "the trials finished so far"
    if speed is None and len(models) == 1 and (model := models.pop()) in MEASURED_SPEED:
        speed = MEASURED_SPEED[model]
        basis = f"{speed:,.0f} images/s of one core of an AMD EPYC; yours will differ"
    if speed is None:
        return Estimate(num_images, None, "not measured for this model; give --images-per-second")
    return Estimate(num_images, num_images / speed / num_processes, basis)


def _earlier(results: Sequence[RunResult], stack_of: Mapping[str, int]) -> float | None:
    """Return the images a second of one process: the runs of a stack share the seconds that each of them lasted."""
    seconds = sum(result.wall_seconds / stack_of[result.recipe_fingerprint] for result in results)
    return sum(result.train_images_seen for result in results) / seconds if seconds else None
