"""A recipe on a data set of known size: how many steps, at which rates, over which images."""

from dataclasses import dataclass
from functools import cached_property

from widestep.plan.duration import Progress
from widestep.plan.order import DataOrder, EpochShape
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


@dataclass(frozen=True)
class RunPlan:
    """Everything about a run that can be known before it starts.

    Examples
    --------
    >>> from widestep.plan.grid import WorkerGrid
    >>> plan = RunPlan(Recipe(grid=WorkerGrid.parse("40x1x8")), num_train=960)
    >>> plan.steps_per_epoch, plan.total_steps, plan.schedule.warmup_steps
    (3, 108, 6)
    """

    recipe: Recipe
    num_train: int

    @cached_property
    def shape(self) -> EpochShape:
        """Steps and images of an epoch."""
        return EpochShape(self.num_train, self.recipe.grid, self.recipe.tail)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return self.shape.steps

    @cached_property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return max(1, self.recipe.epochs.steps(self.steps_per_epoch, self.recipe.grid.global_batch))

    @property
    def num_epochs(self) -> int:
        """Epochs begun, the last one perhaps not finished."""
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    def steps_between_evaluations(self) -> int:
        """Optimizer steps from one evaluation to the next."""
        return max(1, self.recipe.evaluate_every.steps(self.steps_per_epoch, self.recipe.grid.global_batch))

    def evaluation_due(self, step: int) -> bool:
        """Say whether the validation images are evaluated after `step` steps."""
        return step % self.steps_between_evaluations == 0 or step == self.total_steps

    @property
    def num_evaluations(self) -> int:
        """Evaluations in the whole training."""
        return -(-self.total_steps // self.steps_between_evaluations)

    @property
    def total_images(self) -> int:
        """Training images processed in the whole training, repeats counted."""
        whole, rest = divmod(self.total_steps, self.steps_per_epoch)
        return whole * self.shape.length + sum(self.shape.images_in_step(step) for step in range(rest))

    @cached_property
    def order(self) -> DataOrder:
        """The order of the training images."""
        return DataOrder(self.shape, self.recipe.seed)

    def progress(self, step: int) -> Progress:
        """Return how far the run is after `step` steps."""
        return Progress(step, self.steps_per_epoch)

    @cached_property
    def schedule(self) -> LRSchedule:
        """The learning rate at every step."""
        recipe, peak = self.recipe, self.recipe.peak_lr
        named = {"base": recipe.base_lr, "zero": 0.0}
        start = named[recipe.warmup_start] if isinstance(recipe.warmup_start, str) else recipe.warmup_start
        num_warmup = recipe.warmup.steps(self.steps_per_epoch, recipe.grid.global_batch)
        rising = warmup(recipe.warmup_shape, start, peak, num_warmup, first=recipe.warmup_first, power=recipe.warmup_power)
        return LRSchedule(rising, self._decay(peak, num_warmup), num_warmup, self.total_steps)

    def _decay(self, peak: float, start: int) -> Rate:
        recipe, final, end = self.recipe, self.recipe.final_lr, self.total_steps
        match recipe.lr_decay:
            case "step":
                batch = recipe.grid.global_batch
                return step_decay(
                    peak, [at.steps(self.steps_per_epoch, batch) for at in recipe.decay_at], recipe.decay_factor
                )
            case "cosine":
                return cosine_decay(peak, final, start, end)
            case "polynomial":  # MLPerf's reference counts one step more, so that the last rate is above the final one
                return polynomial_decay(peak, final, start, end + 1, recipe.decay_power)
            case "linear":
                return polynomial_decay(peak, final, start, end, 1.0)
            case "exponential":
                return exponential_decay(peak, final, start, end)
            case "constant":
                return constant(peak)

    def describe(self) -> list[str]:
        """Return the plan in words, one fact a line: for the first screen of a run."""
        recipe, grid = self.recipe, self.recipe.grid
        warmup_steps = self.schedule.warmup_steps
        warmup_epochs = warmup_steps / self.steps_per_epoch
        return [
            f"workers    {grid.num_workers} x {grid.images_per_worker} images = {grid.global_batch:,} a step"
            f", {recipe.workers_per_forward} worker(s) a forward pass",
            f"epochs     {self.total_steps / self.steps_per_epoch:g} = {self.total_steps:,} steps, "
            f"{self.steps_per_epoch:,} an epoch; {self.shape.describe()}",
            f"rate       {recipe.rule.derivation(recipe.base_lr, grid)}",
            f"warmup     {warmup_steps:,} steps = {warmup_epochs:g} epochs, {recipe.warmup_shape}; "
            f"then {recipe.lr_decay} decay",
            f"batch-norm local to each worker, running statistics: {recipe.batchnorm_running}",
        ]
