"""A recipe ready to take steps without records, evaluations or checkpoints, and images that come without a file."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.facts import DataFacts
from widestep.data.source import ImageSource
from widestep.data.split import Split
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.train.batches import Batches
from widestep.train.setting import build_engine, fix_arithmetic, model_of
from widestep.train.state import TrainState
from widestep.train.step import take_step
from widestep.workers.world import World

NUM_CLASSES = 10


class DrawnImages:
    """A coarse pattern for every class and one for every image, with noise, from a fixed seed: an `ImageSource`."""

    def __init__(self, image_shape: tuple[int, int, int], num_images: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.facts = DataFacts("drawn", num_images, 0, NUM_CLASSES, image_shape, "drawn")
        self.labels = torch.arange(num_images) % NUM_CLASSES
        channels, *sides = image_shape
        coarse = torch.randn(NUM_CLASSES + num_images, channels, 4, 4, generator=generator)
        patterns = F.interpolate(coarse, size=sides, mode="bilinear")
        noise = torch.randn(num_images, *image_shape, generator=generator)
        self._images = patterns[self.labels] + patterns[NUM_CLASSES:] + 0.25 * noise

    def split(self, seed: int) -> Split:
        """Return all images as training images."""
        return Split(np.arange(self.facts.num_train), np.arange(0))

    def training_images(self, ids: NDArray[np.int64], keys: NDArray[np.uint64]) -> Tensor:
        """Return images as they are."""
        return self._images[torch.from_numpy(ids)]

    def evaluation_images(self, ids: NDArray[np.int64]) -> Tensor:
        """Return images as they are."""
        return self._images[torch.from_numpy(ids)]

    def close(self) -> None:
        """Release nothing."""


class Trainer:
    """Takes steps as `widestep train` does."""

    def __init__(self, recipe: Recipe, source: ImageSource, world: World) -> None:
        self.recipe, plan = recipe, RunPlan(recipe, source.facts.num_train)
        fix_arithmetic(recipe)
        model = model_of(recipe, source.facts.num_classes, source.facts.image_shape)
        self.state = TrainState(model, recipe.slot, plan)
        self.engine = build_engine(model, recipe, world)
        self.batches = Batches(source, [plan], torch.device("cpu"), world.num_processes)

    def steps(self, num_steps: int) -> None:
        """Take steps from where training is."""
        fix_arithmetic(self.recipe)  # a process may have trainers of several modes
        for _ in range(num_steps):
            [record], _ = take_step([self.state], self.engine, self.batches, self.state.tally.step)
            assert record.taken, "a benchmark must not diverge"

    def weights(self) -> NDArray[np.float32]:
        """Return all trained weights in one row."""
        return torch.cat([tensor.detach().flatten() for tensor in self.state.trained.values()]).numpy()
