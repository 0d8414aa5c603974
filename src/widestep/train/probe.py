"""What a stack of trials costs here: a few steps and evaluations of it, really trained, and thrown away."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from widestep.data.facts import describe
from widestep.errors import Stopped
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe
from widestep.plan.recipes import changed
from widestep.plan.runplan import RunPlan
from widestep.records.run import Run
from widestep.train.evaluate import Evaluation
from widestep.train.loop import train
from widestep.train.normalisation import policy_after
from widestep.train.session import Session
from widestep.train.stop import StopRequest
from widestep.train.watching import StepReport
from widestep.workers.world import World

_STEPS_BETWEEN = 2
"""Evaluations are so many steps apart, so that a short probe sees some."""
_FEWEST_EVALUATIONS = 3
_MOMENTUM = 0.7
"""Of batch-norm statistics: 2 steps leave 9 % of their start, so the first evaluation computes them anew, 4 steps 0.8 %."""
_PASSES = 4
"""Forward passes of an evaluation; its time is taken to grow with the number of validation images."""


@dataclass(frozen=True)
class Measured:
    """Seconds of a stack: apart from steps and evaluations, of a step, and of an evaluation of all validation images.

    The first evaluations of a run, which compute statistics anew, take longer; what they take more is part of `start`.
    """

    start: float
    step: float
    evaluation: float


@dataclass
class _Stopwatch(StopRequest):
    """Times what training tells, and asks it to stop when it has seen enough."""

    seconds: float
    began: float
    start: float = 0.0
    steps: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    last: float = 0.0

    def __post_init__(self) -> None:
        super().__init__()

    def due(self, margin: float) -> bool:
        """Say whether there were enough evaluations, and seconds."""
        enough = len(self.evaluations) >= _FEWEST_EVALUATIONS
        return super().due(margin) or (enough and time.monotonic() - self.began - self.start >= self.seconds)

    def started(self, session: Session) -> None:
        """Take the time of everything before the first step."""
        self.last = time.monotonic()
        self.start = self.last - self.began

    def stepped(self, report: StepReport) -> None:
        """Take the time of a step."""
        self.steps.append(self._lap())

    def evaluated(self, plan: RunPlan, step: int, evaluation: Evaluation) -> None:
        """Take the time of an evaluation."""
        self.evaluations.append(self._lap())

    def noted(self, text: str) -> None:
        """Ignore."""

    def _lap(self) -> float:
        before, self.last = self.last, time.monotonic()
        return self.last - before


def measure(recipes: Sequence[Recipe], execution: Execution, directory: Path, seconds: float) -> Measured:
    """Train the beginning of a stack for about so many seconds, with all its records.

    Parameters
    ----------
    recipes
        Of the trials of one stack.
    directory
        Where their runs are written; the caller removes it.

    Raises
    ------
    WidestepError
        As training would.
    """
    first = recipes[0]
    facts = describe(first.data, train_images=first.train_images, image_size=first.image_size)
    num_images = min(first.val_images or facts.num_val, facts.num_val)
    num_looked_at = min(num_images, _PASSES * first.images_per_evaluation)
    fields = {
        "evaluate_every": f"{_STEPS_BETWEEN}st",
        "val_images": str(num_looked_at),
        "batchnorm_momentum": str(_MOMENTUM),
    }
    runs = [Run(directory / recipe.fingerprint, changed(recipe, fields)) for recipe in recipes]
    watch = _Stopwatch(seconds, time.monotonic())
    with suppress(Stopped), World() as world:
        train(runs, execution, world, watch, watch)
    anew, *others = watch.evaluations
    evaluation = fmean(others or [anew]) * num_images / num_looked_at
    start = watch.start + _num_computed_anew(RunPlan(first, facts.num_train)) * max(0.0, anew - fmean(others or [anew]))
    return Measured(start, fmean(watch.steps[1:] or watch.steps), evaluation)


def _num_computed_anew(plan: RunPlan) -> int:
    """Return how many evaluations of a run compute batch-norm statistics only because it has taken too few steps."""
    recipe, found = plan.recipe, 0
    for step in range(1, plan.total_steps + 1):
        if policy_after(recipe, step) == recipe.batchnorm_running:
            break
        found += plan.evaluation_due(step)
    return found
