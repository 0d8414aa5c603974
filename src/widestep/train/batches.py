"""The images of every worker at every step, for all runs of a stack: found by arithmetic, not by iterating."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.source import ImageSource
from widestep.models.block import DropoutUniforms
from widestep.plan.randomness import Stream
from widestep.plan.runplan import RunPlan
from widestep.workers.engine import BatchOf, Block


class Batches:
    """Where the T runs of a stack find their images.

    Parameters
    ----------
    source
        The data set that all runs share.
    plans
        One a slot, T of them; all have the same number of images and workers, each its own seed.
    device
        Where the images go.
    """

    def __init__(self, source: ImageSource, plans: Sequence[RunPlan], device: torch.device) -> None:
        self._source = source
        self._plans = plans
        self._device = device
        self._train_ids = [source.split(plan.recipe.seed).train for plan in plans]
        self._augment = [Stream(plan.recipe.seed, "augment") for plan in plans]
        self._dropout = [Stream(plan.recipe.seed, "dropout") for plan in plans]
        self._num_workers = plans[0].recipe.grid.num_workers

    def num_images(self, step: int) -> int:
        """Return n, the images of the global batch at a step."""
        plan = self._plans[0]
        return plan.shape.images_in_step(plan.progress(step).step_in_epoch)

    def at(self, step: int) -> BatchOf:
        """Return the function that hands out the images of a step, given some neighbouring workers."""
        ids, keys = self._ids_and_keys(step)

        def batch_of(workers: range) -> Iterator[Block]:
            for equal, num_each in _equal_shares(workers, len(ids), self._num_workers):
                rows = np.add.outer(np.arange(num_each) * self._num_workers, np.arange(equal.start, equal.stop)).ravel()
                yield self._block(ids[rows], keys[rows], equal, self._dropout_uniforms(step, equal, num_each))

        return batch_of

    def _ids_and_keys(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return image ids and augmentation keys of a step's global batch, each of shape (n, T)."""
        progress = self._plans[0].progress(step)
        ids = np.stack(
            [
                train[plan.order.step(progress.epoch, progress.step_in_epoch)]
                for plan, train in zip(self._plans, self._train_ids, strict=True)
            ],
            axis=1,
        )
        keys = np.zeros(ids.shape, dtype=np.uint64)
        if self._plans[0].recipe.augment != "none":
            for slot, stream in enumerate(self._augment):
                keys[:, slot] = stream.keys(ids[:, slot], progress.epoch)
        return ids, keys

    def _block(self, ids: NDArray[np.int64], keys: NDArray[np.uint64], workers: range, uniforms: DropoutUniforms) -> Block:
        flat = self._source.training_images(ids.ravel(), keys.ravel())
        images = flat.view(len(ids), -1, *flat.shape[2:]).to(self._device)
        labels = self._source.labels[torch.from_numpy(ids)].to(self._device)
        return Block(images, labels, workers, uniforms)

    def _dropout_uniforms(self, step: int, workers: range, num_each: int) -> DropoutUniforms:
        """Draw each worker's dropout from a stream keyed by (seed, step, worker, layer) (statement D4)."""

        def uniforms(layer: int, width: int) -> Tensor:
            drawn = np.empty((num_each, len(workers), len(self._dropout), width), dtype=np.float32)
            numbers = np.arange(num_each * width)
            for column, worker in enumerate(workers):
                for slot, stream in enumerate(self._dropout):
                    drawn[:, column, slot] = stream.uniforms(numbers, step, worker, layer).reshape(num_each, width)
            return torch.from_numpy(drawn).flatten(0, 1).to(self._device)

        return uniforms


def _equal_shares(workers: range, num_images: int, num_workers: int) -> Iterator[tuple[range, int]]:
    """Split neighbouring workers into runs that have equally many images, leaving out those that have none.

    Of n images worker w takes positions w, w + W, ...: the first n mod W workers have one more than the others.
    """
    each, extra = divmod(num_images, num_workers)
    more = range(workers.start, max(workers.start, min(workers.stop, extra)))
    fewer = range(max(workers.start, min(workers.stop, extra)), workers.stop)
    for share, count in ((more, each + 1), (fewer, each)):
        if len(share) > 0 and count > 0:
            yield share, count
