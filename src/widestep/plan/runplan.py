"""A recipe on a data set of known size: how many steps, at which rates, over which images."""

import bisect
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from widestep.errors import UsageError
from widestep.plan.duration import Duration
from widestep.plan.grid import WorkerGrid
from widestep.plan.order import DataOrder
from widestep.plan.recipe import Recipe
from widestep.plan.schedule import (
    LRSchedule,
    Rate,
    constant,
    cosine_decay,
    exponential_decay,
    polynomial_decay,
    step_decay,
    warmup,
)
from widestep.plan.timeline import Position, Stage, Timeline

_ARRIVING = ("cosine", "polynomial", "linear", "exponential")


@dataclass(frozen=True)
class RunPlan:
    """Everything about a run that can be known before it starts.

    Numbers of steps, epochs and images are those of the workers' timeline, which has a stage for every number of workers
    (`worker_ramp`).

    The rate of a step is that of the schedule built with the peak of the step's own grid (`lr`): where workers join, the
    rate moves to what the scaling rule gives the new grid, at the same place of warmup or decay. It stays a function of the
    step alone (statement L1).

    Under `adascale` (Johnson et al. 2020, arXiv 2007.05105) the schedule counts scale-invariant steps, those of ONE worker:
    at a step of gain r, 1 <= r <= W, progress goes from t to t + r and the rate is r * schedule(floor(t)); training ends
    when progress reaches `length`. Then `epochs`, `warmup` and all that shapes the rate are lengths for one worker, and
    the real number of steps, epochs and images is known only at the end; those given here are the most there can be.

    Raises
    ------
    UsageError
        When an epoch has no step, the ramp or the rate cannot be as the recipe says.

    Examples
    --------
    >>> plan = RunPlan(Recipe(grid=WorkerGrid.parse("40x1x8")), num_train=960)
    >>> plan.steps_per_epoch, plan.total_steps, plan.warmup_steps
    (3, 108, 6)
    >>> plan.position(107).epoch, plan.ids_at(107).size
    (35, 320)
    """

    recipe: Recipe
    num_train: int

    def __post_init__(self) -> None:
        recipe = self.recipe
        for point in recipe.worker_ramp:
            if point.epoch >= self.num_epochs:
                raise UsageError(
                    f"A ramp changes the workers before training ends. worker_ramp has {point}, but the last epoch is "
                    f"number {self.num_epochs - 1}, counted from 0; leave the point out or train longer."
                )
        warmup_steps = self.warmup_steps
        if recipe.decay_end is not None and recipe.lr_decay in _ARRIVING:
            end = self._rate_timeline.steps(recipe.decay_end)
            if end <= warmup_steps:
                raise UsageError(
                    f"A decay arrives after the warmup. decay_end is after {end:,} steps, the warmup ends after "
                    f"{warmup_steps:,}; choose a later decay_end or a shorter warmup."
                )
        if warmup_steps and not all(map(_is_finite_at_its_top, self._schedules.values())):
            raise UsageError(
                f"A rate is a finite number. With warmup_overshoot the warmup of {recipe.warmup} passes all bounds before "
                "its epoch ends; choose a longer warmup."
            )

    @cached_property
    def timeline(self) -> Timeline:
        """The place of every step."""
        return Timeline(self.num_train, self.recipe.grid, self.recipe.tail, self.recipe.worker_ramp)

    @cached_property
    def _rate_timeline(self) -> Timeline:
        """The timeline that the schedule counts in."""
        if self.recipe.scaling != "adascale":
            return self.timeline
        return Timeline(self.num_train, self.recipe.grid.with_workers(1), self.recipe.tail)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch, at the beginning of training."""
        return self.timeline.stages[0].shape.steps

    @cached_property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training; the most there can be under `adascale`."""
        return self._rate_timeline.steps(self.recipe.epochs)

    @property
    def length(self) -> float:
        """Progress at which training ends: the number of steps, under `adascale` of one worker."""
        return float(self.total_steps)

    @property
    def num_epochs(self) -> int:
        """Epochs begun, the last one perhaps not finished; the most there can be under `adascale`."""
        return self.epoch_after(self.total_steps)

    @cached_property
    def total_images(self) -> int:
        """Training images processed in the whole training, repeats counted; the most there can be under `adascale`."""
        return self.timeline.images(self.total_steps)

    def position(self, step: int) -> Position:
        """Return the epoch of a step (counted from 0), its place there and the epoch's shape."""
        return self.timeline.position(step)

    def grid_at(self, step: int) -> WorkerGrid:
        """Return the workers that take a step."""
        return self.timeline.stage(step).shape.grid

    def images_at(self, step: int) -> int:
        """Return n, the images of the global batch of a step."""
        position = self.position(step)
        return position.shape.images_in_step(position.step_in_epoch)

    @cached_property
    def _order(self) -> DataOrder:
        return DataOrder(self.num_train, self.recipe.seed)

    def ids_at(self, step: int) -> NDArray[np.int64]:
        """Return the positions of a step's global batch in the training set, shape (n,).

        Entry i*W + w is image i of worker w (statement D1).
        """
        position = self.position(step)
        return self._order.step(position.shape, position.epoch, position.step_in_epoch)

    def epochs_after(self, step: int) -> float:
        """Return how many epochs `step` steps are, a whole number exactly where an epoch ends."""
        position = self.position(step)
        num_steps = position.shape.steps
        return (position.epoch * num_steps + position.step_in_epoch) / num_steps  # one rounding, as of a fraction

    def epochs_in(self, length: Duration) -> float:
        """Return how many epochs a length from the beginning of training is."""
        return float(self.timeline.elapsed(self.timeline.exact_steps(length), "ep"))

    def epoch_after(self, step: int) -> int:
        """Return how many epochs have begun after `step` steps: the number, from 1, of the one that the last step is in."""
        return math.ceil(self.timeline.elapsed(step, "ep"))

    def ends_epoch(self, step: int) -> bool:
        """Say whether the last of `step` steps is the last of its epoch."""
        return step > 0 and self.position(step).step_in_epoch == 0

    @cached_property
    def _evaluations(self) -> list[range]:
        return self.timeline.every(self.recipe.evaluate_every, self.total_steps)

    def evaluation_due(self, step: int, progress: float | None = None) -> bool:
        """Say whether the validation images are evaluated after `step` steps.

        Parameters
        ----------
        progress
            After these steps, when it is not their number: at the end of training everything is evaluated.
        """
        at_end = step == self.total_steps or (progress is not None and progress >= self.length)
        return at_end or any(step in due for due in self._evaluations)

    @property
    def num_evaluations(self) -> int:
        """Evaluations in the whole training; the most there can be under `adascale`."""
        return self.evaluations_after(0)

    def evaluations_after(self, step: int) -> int:
        """Return how many evaluations there are after more than `step` steps; the most there can be under `adascale`."""
        at_end = step < self.total_steps and not any(self.total_steps in due for due in self._evaluations)
        return sum(len(due) - bisect.bisect_right(due, step) for due in self._evaluations) + at_end

    def lr(self, step: int, progress: float | None = None, gain: float = 1.0) -> float:
        """Return the rate of a step, counted from 0: gain * schedule(floor(progress)), with the peak of the step's grid.

        Parameters
        ----------
        progress
            Before the step; the step itself under every rule but `adascale`.
        gain
            Of the step; 1 under every rule but `adascale`, which leaves the schedule's rate as it is.
        """
        return gain * self._schedules[self.grid_at(step)](step if progress is None else math.floor(progress))

    @property
    def schedule(self) -> LRSchedule:
        """The rate by step of the workers that training begins with; by step of one worker under `adascale`."""
        return self._schedules[self.recipe.grid]

    def schedule_epochs_after(self, step: int) -> float:
        """Return how many epochs `step` steps of the schedule are; of one worker under `adascale`."""
        return float(self._rate_timeline.elapsed(step, "ep"))

    @property
    def warmup_steps(self) -> int:
        """Steps before the decay begins, as the schedule counts them."""
        return self.schedule.warmup_steps

    @cached_property
    def _warmup_length(self) -> Fraction:
        """Steps of the warmup, perhaps not a whole number."""
        return self._rate_timeline.exact_steps(self.recipe.rule.warmup(self.recipe.warmup, self.recipe.grid))

    @cached_property
    def _schedules(self) -> dict[WorkerGrid, LRSchedule]:
        """The schedule of every grid of the training; they differ in nothing but the peak."""
        recipe = self.recipe
        length, overshoots = self._warmup_length, recipe.warmup_overshoot
        num_warmup = self._rate_timeline.end_of_epoch(length) if overshoots else math.ceil(length)
        named = {"base": recipe.base_lr, "zero": 0.0}
        start = named[recipe.warmup_start] if isinstance(recipe.warmup_start, str) else recipe.warmup_start
        found = {}
        for grid in {stage.shape.grid for stage in self.timeline.stages}:
            peak = recipe.rule.peak(recipe.base_lr, grid)
            rising = warmup(
                recipe.warmup_shape,
                start,
                peak,
                num_warmup,
                first=recipe.warmup_first,
                power=recipe.warmup_power,
                length=float(length) if overshoots else None,
            )
            found[grid] = LRSchedule(rising, self._decay(peak, num_warmup), num_warmup, self.total_steps)
        return found

    def _decay(self, peak: float, start: int) -> Rate:
        """Return the decay from `peak` after `start` steps of warmup."""
        recipe, final, steps = self.recipe, self.recipe.final_lr, self._rate_timeline.steps
        end = self.total_steps if recipe.decay_end is None else steps(recipe.decay_end)
        match recipe.lr_decay:
            case "step":
                return step_decay(peak, [steps(at) for at in recipe.decay_at], recipe.decay_factor)
            case "cosine":
                return cosine_decay(peak, final, start, end)
            case "polynomial":
                # MLPerf's reference divides by one step more than are left of training, so that the last rate is above the
                # final one. Where decay_end says when the final rate is reached, it is reached there.
                return polynomial_decay(peak, final, start, end + (recipe.decay_end is None), recipe.decay_power)
            case "linear":
                return polynomial_decay(peak, final, start, end, 1.0)
            case "exponential":
                return exponential_decay(peak, final, start, end)
            case "constant":
                return constant(peak)

    def describe(self) -> list[str]:
        """Return the plan in words, one fact a line: for the first screen of a run."""
        recipe, grid, shape = self.recipe, self.recipe.grid, self.timeline.stages[0].shape
        whose, limit = (" of one worker", " at most") if recipe.scaling == "adascale" else ("", "")
        overshoots = recipe.warmup_overshoot and self._warmup_length < self.warmup_steps
        epochs, warmup_epochs = map(self.schedule_epochs_after, (self.total_steps, self.warmup_steps))
        together = recipe.batchnorm_group(grid.num_workers) * grid.images_per_worker
        return [
            f"workers    {grid.num_workers} x {grid.images_per_worker} images = {grid.global_batch:,} a step"
            f", {recipe.workers_per_block(grid.num_workers)} worker(s) a forward pass",
            *map(self._describe_stage, self.timeline.stages[1:]),
            f"epochs     {epochs:g}{whose} = {self.total_steps:,} steps{limit}, {shape.steps:,} an epoch; "
            f"{shape.describe()}",
            f"rate       {recipe.rule.derivation(recipe.base_lr, grid)}",
            f"warmup     {self.warmup_steps:,} steps{whose} = {warmup_epochs:g} epochs, {recipe.warmup_shape}"
            f"{', above the peak until its epoch ends' if overshoots else ''}; then {recipe.lr_decay} decay",
            f"optimizer  {_describe_optimizer(recipe)}",
            f"batch-norm {recipe.batchnorm}: {together:,} images together; running statistics: {recipe.batchnorm_running}",
            f"mode       {recipe.mode}, {recipe.precision}{', factors in tf32' if recipe.tf32 else ''}"
            + (f", gradients exchanged as {recipe.compression}" if recipe.compression != "none" else ""),
        ]

    def _describe_stage(self, stage: Stage) -> str:
        grid = stage.shape.grid
        return (
            f"ramp       from epoch {stage.first_epoch}: {grid.num_workers} workers = {grid.global_batch:,} images a step, "
            f"{stage.shape.steps:,} steps an epoch, peak rate {self.recipe.rule.peak(self.recipe.base_lr, grid):.6g}; "
            f"{stage.shape.describe()}"
        )


def _describe_optimizer(recipe: Recipe) -> str:
    adaptive = recipe.optimizer in ("adamw", "lamb")
    words = [
        recipe.optimizer,
        f"betas {recipe.beta1:g} and {recipe.beta2:g}" if adaptive else f"momentum {recipe.momentum:g}",
        f"weight decay {recipe.weight_decay:g}" + (f" (not {recipe.decay_exempt})" if recipe.decay_exempt != "none" else ""),
    ]
    if recipe.optimizer.startswith("lars"):
        words.append(f"trust {recipe.trust_coefficient:g}")
    if recipe.clip_norm is not None:
        words.append(f"gradient norm at most {recipe.clip_norm:g}")
    return ", ".join(words)


def _is_finite_at_its_top(schedule: LRSchedule) -> bool:
    try:
        return math.isfinite(schedule(schedule.warmup_steps - 1))
    except OverflowError:
        return False
