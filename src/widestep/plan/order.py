"""Which images every worker takes at every step: a pure function of (seed, epoch, step, worker).

One permutation an epoch; worker w takes positions w, w + W, w + 2W, ... (statement D1), so the images of one step are
consecutive in the permutation, laid out image by image with the worker index running fastest. A place in the middle of
training is found by arithmetic, never by replaying (statement D6).
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from widestep.errors import UsageError
from widestep.plan.grid import WorkerGrid
from widestep.plan.randomness import Stream

TailPolicy = Literal["drop", "pad", "short"]


@dataclass(frozen=True)
class EpochShape:
    """How many steps and images an epoch has.

    Parameters
    ----------
    tail
        What happens to the images that do not fill a global batch. `drop`: they sit out this epoch (others the next).
        `pad`: the first images of the epoch are repeated until every worker has equally many, the last step is smaller
        (what a distributed sampler does). `short`: the last step takes just what is left.

    Examples
    --------
    The poster's five batches on ImageNet (statement D2):

    >>> [EpochShape(1_281_167, WorkerGrid.parse(f"{n}x6x128"), "pad").steps for n in (4, 10, 20, 30, 40)]
    [418, 167, 84, 56, 42]
    >>> EpochShape(1_281_167, WorkerGrid.parse("40x6x128"), "pad").num_tail
    193
    """

    num_images: int
    grid: WorkerGrid
    tail: TailPolicy

    def __post_init__(self) -> None:
        if self.steps == 0:
            raise UsageError(
                f"An epoch must hold at least one global batch. {self.num_images:,} training images are fewer than "
                f"{self.grid.global_batch:,} ({self.grid}): use fewer workers or images per worker, or tail = 'pad'."
            )

    @property
    def length(self) -> int:
        """Images processed in an epoch, repeated ones included."""
        if self.tail == "drop":
            return self.steps * self.grid.global_batch
        return self.num_images + (self.num_tail if self.tail == "pad" else 0)

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        if self.tail == "drop":
            return self.num_images // self.grid.global_batch
        return -(-self.num_images // self.grid.global_batch)

    @property
    def num_tail(self) -> int:
        """Images dropped (`drop`), repeated (`pad`) or in a last, smaller step (`short`)."""
        if self.tail == "pad":
            return -self.num_images % self.grid.num_workers
        return self.num_images % self.grid.global_batch

    def images_in_step(self, step_in_epoch: int) -> int:
        """Images of the global batch at a step of the epoch."""
        return min(self.grid.global_batch, self.length - step_in_epoch * self.grid.global_batch)

    def describe(self) -> str:
        """Say in one line what happens to the tail, with the number of images concerned."""
        verb = {"drop": "dropped an epoch", "pad": "repeated an epoch", "short": "in a smaller last step"}[self.tail]
        return f"tail {self.tail}: {self.num_tail:,} images {verb}" if self.num_tail else f"tail {self.tail}: none left over"


@dataclass
class DataOrder:
    """The order of the training images in every epoch of one seed: one permutation an epoch, whatever the grid.

    Positions count from 0 to `num_images` - 1 within the training set; the data layer maps them to files.

    Examples
    --------
    >>> order = DataOrder(num_images=11, seed=5)
    >>> shape = EpochShape(11, WorkerGrid.parse("1x2x2"), "short")
    >>> [order.step(shape, 0, step).size for step in range(3)]
    [4, 4, 3]
    """

    num_images: int
    seed: int
    _newest: tuple[tuple[int, NDArray[np.int64]], ...] = field(default=(), repr=False)

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the permutation of one epoch, shape (num_images,)."""
        for known, order in self._newest:
            if known == epoch:
                return order
        order = Stream(self.seed, "order").permutation(self.num_images, epoch)
        self._newest = (*self._newest[-1:], (epoch, order))  # two: the next epoch begins to load while one still trains
        return order

    def step(self, shape: EpochShape, epoch: int, step_in_epoch: int) -> NDArray[np.int64]:
        """Return the positions of one step's global batch, shape (n,); entry i*W + w is image i of worker w.

        `shape` is that of the epoch, for `num_images` images.
        """
        start = step_in_epoch * shape.grid.global_batch
        places = np.arange(start, start + shape.images_in_step(step_in_epoch))
        return self.epoch(epoch)[places % self.num_images]  # past the end, `pad` repeats the first ones
