"""Where every step lies in training: epochs of one shape after another, in stages where the number of workers changes.

Steps, epochs and images are converted into one another stage by stage, in whole numbers and fractions; a place in the middle
of training is found by arithmetic, never by replaying (statement D6).
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from widestep.plan.duration import Duration, Unit
from widestep.plan.grid import RampPoint, WorkerGrid
from widestep.plan.order import EpochShape, TailPolicy


@dataclass(frozen=True)
class Stage:
    """Epochs of one shape, from `first_epoch` on up to the next stage.

    Parameters
    ----------
    first_step
        Steps before the stage.
    first_image
        Images before the stage, every step counted as a whole global batch.
    """

    first_epoch: int
    first_step: int
    first_image: int
    shape: EpochShape

    def first(self, unit: Unit) -> int:
        """Return where the stage begins, in epochs, steps or images."""
        return {"ep": self.first_epoch, "st": self.first_step, "im": self.first_image}[unit]


@dataclass(frozen=True)
class Position:
    """The place of a step in training; epochs and steps count from 0."""

    epoch: int
    step_in_epoch: int
    shape: EpochShape

    @property
    def grid(self) -> WorkerGrid:
        """The workers that take the step."""
        return self.shape.grid


class Timeline:
    """The stages of a training on `num_images` images; the last one has no end.

    Parameters
    ----------
    grid
        The workers at the beginning.
    ramp
        From which epochs on there are other numbers of workers, in rising order.

    Raises
    ------
    UsageError
        When an epoch of some stage has no step.

    Examples
    --------
    Ten steps an epoch for two epochs, then five:

    >>> line = Timeline(1000, WorkerGrid.parse("1x4x25"), "drop", [RampPoint.parse("2ep:8")])
    >>> [line.steps(Duration.parse(epochs)) for epochs in (1, 2, 3, 3.1)]
    [10, 20, 25, 26]
    """

    def __init__(self, num_images: int, grid: WorkerGrid, tail: TailPolicy, ramp: Sequence[RampPoint] = ()) -> None:
        stages = [Stage(0, 0, 0, EpochShape(num_images, grid, tail))]
        for point in ramp:
            last = stages[-1]
            num_steps = (point.epoch - last.first_epoch) * last.shape.steps
            shape = EpochShape(num_images, grid.with_workers(point.num_workers), tail)
            first_image = last.first_image + num_steps * last.shape.grid.global_batch
            stages.append(Stage(point.epoch, last.first_step + num_steps, first_image, shape))
        self.stages = tuple(stages)
        self._first_steps = [stage.first_step for stage in stages]

    def stage(self, step: int | Fraction) -> Stage:
        """Return the stage that a step belongs to; after the last step of a stage, the next one."""
        return self.stages[bisect.bisect_right(self._first_steps, step) - 1]

    def position(self, step: int) -> Position:
        """Return the place of a step."""
        stage = self.stage(step)
        epochs, step_in_epoch = divmod(step - stage.first_step, stage.shape.steps)
        return Position(stage.first_epoch + epochs, step_in_epoch, stage.shape)

    def elapsed(self, step: int | Fraction, unit: Unit) -> Fraction:
        """Return how many epochs, steps or images the first `step` steps are, each counted as a whole global batch."""
        stage = self.stage(step)
        rest = Fraction(step - stage.first_step)
        each = {"ep": Fraction(1, stage.shape.steps), "st": Fraction(1), "im": Fraction(stage.shape.grid.global_batch)}
        return stage.first(unit) + rest * each[unit]

    def exact_steps(self, length: Duration) -> Fraction:
        """Return how many steps a length from the beginning of training is, perhaps not a whole number."""
        stage = self.stages[bisect.bisect_right([stage.first(length.unit) for stage in self.stages], length.amount) - 1]
        rest = Duration(length.amount - stage.first(length.unit), length.unit)
        return stage.first_step + rest.exact_steps(stage.shape.steps, stage.shape.grid.global_batch)

    def steps(self, length: Duration) -> int:
        """Return how many whole steps cover a length from the beginning of training."""
        return math.ceil(self.exact_steps(length))

    def end_of_epoch(self, step: Fraction) -> int:
        """Return the step count at the end of the epoch in which `step` steps, perhaps not a whole number, end."""
        stage = self.stage(step)
        return stage.first_step + math.ceil((step - stage.first_step) / stage.shape.steps) * stage.shape.steps

    def every(self, length: Duration, num_steps: int) -> list[range]:
        """Return the step counts after which something is due that is due whenever a length has passed since the last time.

        Returns
        -------
        Ranges of steps up to `num_steps`, at most one a stage: in a stage the distance is constant, across its end the
        length is added up over both sides.
        """
        found, last = [], 0
        ends = [*self._first_steps[1:], num_steps]
        for stage, end in zip(self.stages, ends, strict=True):
            first = self.steps(Duration(self.elapsed(last, length.unit) + length.amount, length.unit))
            if first <= min(end, num_steps):
                distance = length.steps(stage.shape.steps, stage.shape.grid.global_batch)
                found.append(range(first, min(end, num_steps) + 1, distance))
                last = found[-1][-1]
        return found

    def images(self, num_steps: int) -> int:
        """Return how many images the first `num_steps` steps process: repeats counted, a smaller last step as it is."""
        total = 0
        for stage, end in zip(self.stages, [*self._first_steps[1:], num_steps], strict=True):
            epochs, rest = divmod(max(0, min(end, num_steps) - stage.first_step), stage.shape.steps)
            total += epochs * stage.shape.length + rest * stage.shape.grid.global_batch  # only the last step may be smaller
        return total
