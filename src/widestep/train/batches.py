"""The images of every worker at every step, for all runs of a stack: found by arithmetic, not by iterating."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from widestep.data.source import ImageSource
from widestep.models.block import DropoutKeys
from widestep.plan.randomness import Stream
from widestep.plan.runplan import RunPlan
from widestep.workers.blocks import BatchOf, Block
from widestep.workers.placement import Placement


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
    num_processes
        Processes that share the workers of a step.
    """

    def __init__(self, source: ImageSource, plans: Sequence[RunPlan], device: torch.device, num_processes: int = 1) -> None:
        self._source = source
        self._plans = plans
        self._plan = plans[0]
        self._device = device
        self._num_processes = num_processes
        self._train_ids = [source.split(plan.recipe.seed).train for plan in plans]
        self._augment = [Stream(plan.recipe.seed, "augment") for plan in plans]
        self._dropout = [Stream(plan.recipe.seed, "dropout") for plan in plans]
        self._model = Stream(plans[0].recipe.seed, "model")

    def num_images(self, step: int) -> int:
        """Return n, the images of the global batch at a step."""
        return self._plan.images_at(step)

    def placement(self, step: int) -> Placement:
        """Return which process computes which workers at a step."""
        recipe, num_workers = self._plan.recipe, self._plan.grid_at(step).num_workers
        return Placement(
            num_workers, recipe.workers_per_block(num_workers), self._num_processes, recipe.batchnorm_group(num_workers)
        )

    def steps_for_statistics(self) -> range:
        """Return the steps whose images are used to compute batch-norm statistics anew (statement B3, `precise`)."""
        plan = self._plan
        num_images = min(plan.recipe.batchnorm_images, plan.num_train)
        return range(min(plan.steps_per_epoch, -(-num_images // plan.recipe.grid.global_batch)))

    def digest_of_ids(self, step: int, slot: int) -> str:
        """Return 16 hexadecimal digits that name the images of a run's global batch, in order."""
        ids = self._train_ids[slot][self._plans[slot].ids_at(step)]
        return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16]

    def at(self, step: int) -> BatchOf:
        """Return the function that hands out the images of a step, given some neighbouring workers."""
        ids, keys = self._ids_and_keys(step)
        num_workers = self._plan.grid_at(step).num_workers
        together = self._plan.recipe.batchnorm_group(num_workers)

        def batch_of(workers: range) -> Iterator[Block]:
            for groups, num_each in _equal_shares(workers, len(ids), num_workers, together):
                image = np.arange(num_each)
                place = (image // together) * num_workers + image % together
                rows = np.add.outer(place, np.arange(groups.start, groups.stop) * together).ravel()
                yield self._block(ids[rows], keys[rows], groups, step)

        return batch_of

    def _ids_and_keys(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return image ids and augmentation keys of a step's global batch, each of shape (n, T)."""
        ids = np.stack([train[plan.ids_at(step)] for plan, train in zip(self._plans, self._train_ids, strict=True)], axis=1)
        keys = np.zeros(ids.shape, dtype=np.uint64)
        if self._plan.recipe.augment != "none":
            epoch = self._plan.position(step).epoch
            for slot, stream in enumerate(self._augment):
                keys[:, slot] = stream.keys(ids[:, slot], epoch)
        return ids, keys

    def _block(self, ids: NDArray[np.int64], keys: NDArray[np.uint64], groups: range, step: int) -> Block:
        flat = self._source.training_images(ids.ravel(), keys.ravel())
        images = flat.view(len(ids), -1, *flat.shape[2:]).to(self._device)
        labels = self._source.labels[torch.from_numpy(ids)].to(self._device)
        return Block(images, labels, groups, self._dropout_keys(step, groups), self._model.key(step, groups.start))

    def _dropout_keys(self, step: int, groups: range) -> DropoutKeys:
        """Key each worker's dropout by (seed, step, worker, layer) (statement D4); workers of one group share a stream."""

        def keys(layer: int) -> NDArray[np.uint64]:
            return np.array(
                [[stream.key(step, group, layer) for stream in self._dropout] for group in groups], dtype=np.uint64
            )

        return keys


def _equal_shares(workers: range, num_images: int, num_workers: int, together: int) -> Iterator[tuple[range, int]]:
    """Split neighbouring workers into runs of groups that have equally many images, leaving out those that have none.

    Of n images worker w takes positions w, w + W, ...: the first n mod W workers have one more than the others.

    Parameters
    ----------
    together
        Workers of a group, which divides W.

    Returns
    -------
    Neighbouring groups, and the images that each of them has.
    """
    each, extra = divmod(num_images, num_workers)
    share: list[int] = []
    last = 0
    for group in range(workers.start // together, workers.stop // together):
        count = each * together + min(max(extra - group * together, 0), together)
        if share and count != last:
            if last:
                yield range(share[0], share[-1] + 1), last
            share = []
        share.append(group)
        last = count
    if share and last:
        yield range(share[0], share[-1] + 1), last
