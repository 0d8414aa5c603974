"""A recipe ready to take steps without records, evaluations or checkpoints."""

import numpy as np
import torch
from numpy.typing import NDArray

from widestep.data.source import ImageSource
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.train.batches import Batches
from widestep.train.setting import build_engine, fix_arithmetic, keep_freed_memory, model_of
from widestep.train.state import TrainState
from widestep.train.step import MovingStep, gradients_of
from widestep.workers.world import World

_CPU = torch.device("cpu")


class Trainer:
    """Takes steps as `widestep train` does."""

    def __init__(self, recipe: Recipe, source: ImageSource, world: World, device: torch.device = _CPU) -> None:
        self.recipe, self._device, plan = recipe, device, RunPlan(recipe, source.facts.num_train)
        fix_arithmetic(recipe)
        keep_freed_memory()
        model = model_of(recipe, source.facts.num_classes, source.facts.image_shape).to(device)
        self.state = TrainState(model, recipe.slot, plan)
        self.engine = build_engine(model, recipe, world)
        self.batches = Batches(source, [plan], device, world.num_processes, world.process)

    def steps(self, num_steps: int) -> None:
        """Take steps from where training is, and wait until they are done."""
        fix_arithmetic(self.recipe)  # a process may have trainers of several modes
        first = self.state.tally.step
        moving: MovingStep | None = None
        for step in range(first, first + num_steps):
            found = gradients_of([self.state], self.engine, self.batches, step)
            _settle(moving)  # the step before, as training does
            moving = MovingStep([self.state], found, step, at_once=self.engine.world.num_processes > 1)
        _settle(moving)
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def weights(self) -> NDArray[np.float32]:
        """Return all trained weights in one row."""
        return torch.cat([tensor.detach().flatten() for tensor in self.state.trained.values()]).cpu().numpy()


def _settle(moving: MovingStep | None) -> None:
    """Read what a step found and count it."""
    for record in () if moving is None else moving.records():
        assert record.taken, "a benchmark must not diverge"
