"""How fast a recipe trains here, and what the time goes into; nothing is written."""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.loading import Computed, Images, Loading
from widestep.data.source import ImageSource, open_recipe_data
from widestep.plan.execution import Execution
from widestep.plan.randomness import U64
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.train.batches import Batches
from widestep.train.inspect import check_findings, inspect
from widestep.train.setting import build_engine, choose_device, fix_arithmetic, keep_freed_memory, model_of
from widestep.train.state import TrainState
from widestep.train.step import MovingStep, gradients_of
from widestep.workers.engine import GradientEngine
from widestep.workers.launched import Launch
from widestep.workers.pulse import Pulse
from widestep.workers.world import World

_WARM_UP_STEPS = 2
_FEWEST_STEPS = 2


@dataclass(frozen=True)
class TrainingSpeed:
    """What was measured; shares of the time add up to 1.

    Parameters
    ----------
    steps
        Measured, after two to warm up.
    images_per_second
        Of all processes together.
    seconds_per_step
        By the clock.
    data_share
        By how much steps are shorter when their images are there already.
    reduction_share
        In which process 0 exchanges gradients with others or waits for them; None where that runs beside the backward pass.
    compute_share
        The rest.
    loading_images_per_second
        What the loaders of all processes deliver while nothing is computed.
    peak_memory_bytes
        Of process 0: its device's memory, on the CPU the process's.
    """

    device: str
    num_processes: int
    steps: int
    global_batch: int
    images_per_second: float
    seconds_per_step: float
    data_share: float
    reduction_share: float | None
    compute_share: float
    loading_images_per_second: float
    peak_memory_bytes: int


class _Repeated:
    """A source that gives the same images again, loaded once for every number of images."""

    def __init__(self, source: ImageSource) -> None:
        self.facts, self.labels, self.split = source.facts, source.labels, source.split
        self.evaluation_images, self.name, self.close = source.evaluation_images, source.name, source.close
        self._source = source
        self._held: dict[int, Tensor] = {}

    def training_images(self, ids: NDArray[np.int64], keys: U64) -> Images:
        if len(ids) not in self._held:
            self._held[len(ids)] = self._source.training_images(ids, keys).result()
        return Computed(partial(self._held.__getitem__, len(ids)))


def measure(recipe: Recipe, execution: Execution, launch: Launch, pulse: Pulse, seconds: float) -> TrainingSpeed:
    """Train the first steps of a recipe for about so many seconds, a third of them each without loading and loading alone.

    Raises
    ------
    UsageError, DataError, EnvironmentFault
        As training would.
    """
    fix_arithmetic(recipe)
    keep_freed_memory()
    with World(launch, pulse) as world:
        device = choose_device(execution.device, world.local_process)
        world.meet_on(device)
        loading = Loading(device, execution.loader_threads, execution.gib_in_memory)
        source = world.agreed(partial(open_recipe_data, recipe, loading))
        try:
            return _Measurement(recipe, source, world, device).run(seconds)
        finally:
            source.close()


class _Measurement:
    def __init__(self, recipe: Recipe, source: ImageSource, world: World, device: torch.device) -> None:
        self.recipe, self.world, self.device = recipe, world, device
        self.plan = RunPlan(recipe, source.facts.num_train)
        self.source = source
        plans = [self.plan] * recipe.stack
        self.loaded, self.repeated = (
            Batches(images, plans, device, world.num_processes, world.process) for images in (source, _Repeated(source))
        )

    def run(self, seconds: float) -> TrainingSpeed:
        self.state, self.engine = self.world.agreed(self._prepared)
        with_loading = partial(self._train, self.loaded)
        self._timed(with_loading, _WARM_UP_STEPS)
        self._timed(partial(self._train, self.repeated), 1)
        one = self._timed(with_loading, 1)
        steps = self.world.broadcast_json(max(_FEWEST_STEPS, math.ceil(seconds / 3 / one)))
        exchanged = self.world.seconds_in_contact
        full = self._timed(with_loading, steps)
        exchanging = self.world.seconds_in_contact - exchanged
        without_loading = min(full, self._timed(partial(self._train, self.repeated), steps))
        loading = self._timed(self._load, steps)
        overlapped = self.recipe.mode == "fast" and self.world.num_processes > 1
        data, reduction = 1 - without_loading / full, 0.0 if overlapped else min(exchanging, without_loading) / full
        num_images = steps * self.plan.recipe.grid.global_batch
        return TrainingSpeed(
            device=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            num_processes=self.world.num_processes,
            steps=steps,
            global_batch=self.plan.recipe.grid.global_batch,
            images_per_second=num_images / full,
            seconds_per_step=full / steps,
            data_share=data,
            reduction_share=None if overlapped else reduction,
            compute_share=1 - data - reduction,
            loading_images_per_second=num_images / loading,
            peak_memory_bytes=self._peak_memory(),
        )

    def _prepared(self) -> tuple[TrainState, GradientEngine]:
        facts, recipe = self.source.facts, self.recipe
        model = model_of(recipe, facts.num_classes, facts.image_shape).to(self.device)
        state = TrainState(model, recipe.slot, self.plan)
        if ":" in recipe.model:
            check_findings(inspect(model, self.source, recipe, self.device), recipe)
        return state, build_engine(model, recipe, self.world)

    def _timed(self, action: Callable[[int], None], num_steps: int) -> float:
        """Return the seconds that all processes take together, counted from when all are ready."""
        self._wait()
        self.world.part()
        began = time.perf_counter()
        action(num_steps)
        self._wait()
        self.world.part()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _train(self, batches: Batches, num_steps: int) -> None:
        moving: MovingStep | None = None
        for step in range(num_steps):
            found = gradients_of([self.state], self.engine, batches, step % self.plan.total_steps)
            if moving is not None:
                moving.records()
            at_once = self.world.num_processes > 1
            moving = MovingStep([self.state], found, step % self.plan.total_steps, at_once=at_once)
        if moving is not None:
            moving.records()

    def _load(self, num_steps: int) -> None:
        for step in range(num_steps):
            placement = self.loaded.placement(step % self.plan.total_steps)
            for block in placement.blocks(self.world.process):
                for _ in self.loaded.at(step % self.plan.total_steps)(placement.workers(block)):
                    pass

    def _peak_memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
