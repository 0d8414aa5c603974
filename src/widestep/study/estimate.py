"""How long a study will take: counted exactly in images, turned into time by a speed whose origin is said."""

from collections.abc import Sequence
from dataclasses import dataclass

from widestep.records.result import RunResult
from widestep.study.store import StudyStore

# Training images a second of one core, evaluation included. Measured with the shipped studies: digits-resnet in stacks of 12
# on one core of an AMD EPYC (Zen 5); resnet50 at 224 pixels likewise, single.
MEASURED_SPEED = {"digits-resnet": 30_000.0, "resnet50": 4.0}


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
        speed, basis = _earlier(store.states_of_finished()), "the trials finished so far"
    if speed is None and len(models) == 1 and (model := models.pop()) in MEASURED_SPEED:
        speed = MEASURED_SPEED[model]
        basis = f"{speed:,.0f} images/s of one core of an AMD EPYC; yours will differ"
    if speed is None:
        return Estimate(num_images, None, "not measured for this model; give --images-per-second")
    return Estimate(num_images, num_images / speed / num_processes, basis)


def _earlier(results: Sequence[RunResult]) -> float | None:
    seconds = sum(result.wall_seconds for result in results)
    return sum(result.train_images_seen for result in results) / seconds if seconds else None
