"""The images of every worker at every step, for all runs of a stack: found by arithmetic, not by iterating."""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from widestep.data.loading import Images, to_device
from widestep.data.source import ImageSource
from widestep.models.block import DropoutKeys
from widestep.plan.randomness import Stream
from widestep.plan.runplan import RunPlan
from widestep.workers.blocks import BatchOf, Block
from widestep.workers.placement import Placement

_IMAGES_AHEAD = 256
_BLOCKS_AHEAD = 2


class _Part(NamedTuple):
    """Images of some groups of workers, asked for: a block, the part of one whose workers have equally many, or one pass."""

    images: Images
    ids: NDArray[np.int64]
    """Shape (N, T)."""
    groups: range
    first_image: int
    """Number of the first image within its worker."""
    share: float
    """Part of each group's images."""

    @property
    def pass_key(self) -> tuple[int, ...]:
        """What tells the later passes of a worker from its first, in the keys of random numbers."""
        return (self.first_image,) if self.first_image else ()


class _Ahead(NamedTuple):
    """A block whose images were asked for before it is its turn."""

    step: int
    workers: range
    parts: list[_Part]
    num_images: int


class Batches:
    """Where the T runs of a stack find their images.

    While a block is computed, the images of the blocks that this process computes next are already on their way: at least
    two blocks and 256 images. What comes next is arithmetic, so nothing depends on it but speed.

    Parameters
    ----------
    source
        The data set that all runs share; its images come to `device`.
    plans
        One a slot, T of them; all have the same number of images and workers, each its own seed.
    device
        Where the model is.
    num_processes, process
        Processes that share the workers of a step, and which of them this is.
    """

    def __init__(
        self,
        source: ImageSource,
        plans: Sequence[RunPlan],
        device: torch.device,
        num_processes: int = 1,
        process: int = 0,
    ) -> None:
        self._source = source
        self._plans = plans
        self._plan = plans[0]
        self._device = device
        self._num_processes, self._process = num_processes, process
        self._labels = source.labels.to(device)
        self._train_ids = [source.split(plan.recipe.seed).train for plan in plans]
        self._augment = [Stream(plan.recipe.seed, "augment") for plan in plans]
        self._dropout = [Stream(plan.recipe.seed, "dropout") for plan in plans]
        self._model = Stream(plans[0].recipe.seed, "model")
        self._ahead: deque[_Ahead] = deque()
        self._following: Iterator[tuple[int, range]] = iter(())
        self._ids_of_steps: dict[int, NDArray[np.int64]] = {}
        self.seconds_waiting = 0.0
        """For images, since the beginning."""
        self.damaged: list[set[int]] = [set() for _ in plans]
        """Ids of each run's images that did not decode, and whose places others took, in the blocks handed out so far."""

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
        ids = np.ascontiguousarray(self._ids(step)[:, slot])
        return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()[:16]

    def at(self, step: int) -> BatchOf:
        """Return the function that hands out the images of a step of training, given some neighbouring workers.

        Blocks are best asked for in the order of training: then they have been loading before.
        """

        def batch_of(workers: range) -> Iterator[Block]:
            for part in self._in_turn(step, workers):
                yield self._block(part, step)

        return batch_of

    def again(self, step: int) -> BatchOf:
        """Return the function that hands out the images of a step once more, or out of turn, given some workers."""

        def batch_of(workers: range) -> Iterator[Block]:
            for part in self._asked_for(step, workers):
                yield self._block(part, step)

        return batch_of

    def _in_turn(self, step: int, workers: range) -> list[_Part]:
        """Return a block's images and ask for those that follow."""
        for old in [known for known in self._ids_of_steps if known < step - 1]:
            del self._ids_of_steps[old]
        if self._ahead and (self._ahead[0].step, self._ahead[0].workers) == (step, workers):
            parts = self._ahead.popleft().parts
        else:  # the first block, or training went on from another place
            self._ahead.clear()
            self._following = self._blocks_after(step, workers)
            parts = self._asked_for(step, workers)
        while len(self._ahead) < _BLOCKS_AHEAD or sum(block.num_images for block in self._ahead) < _IMAGES_AHEAD:
            following = next(self._following, None)
            if following is None:
                break
            asked_for = self._asked_for(*following)
            self._ahead.append(_Ahead(*following, asked_for, sum(part.ids.size for part in asked_for)))
        return parts

    def _blocks_after(self, step: int, workers: range) -> Iterator[tuple[int, range]]:
        """Yield steps and workers of the blocks that this process computes after one of them, to the end of training."""
        for later in range(step, self._plan.total_steps):
            placement = self.placement(later)
            for block in placement.blocks(self._process):
                held = placement.workers(block)
                if later > step or held.start > workers.start:
                    yield later, held

    def _asked_for(self, step: int, workers: range) -> list[_Part]:
        """Begin to load the images of neighbouring workers."""
        ids = self._ids(step)
        num_workers = self._plan.grid_at(step).num_workers
        together = self._plan.recipe.batchnorm_group(num_workers)
        parts = []
        for groups, num_each in _equal_shares(workers, len(ids), num_workers, together):
            for one in self._plan.recipe.passes_of(num_each):
                image = np.arange(one.start, one.stop)
                place = (image // together) * num_workers + image % together
                held = ids[np.add.outer(place, np.arange(groups.start, groups.stop) * together).ravel()]
                images = self._source.training_images(held.ravel(), self._keys(held, step).ravel())
                parts.append(_Part(images, held, groups, one.start, len(one) / num_each))
        return parts

    def _ids(self, step: int) -> NDArray[np.int64]:
        """Return the image ids of a step's global batch, shape (n, T)."""
        ids = self._ids_of_steps.get(step)
        if ids is None:
            of_slots = [train[plan.ids_at(step)] for plan, train in zip(self._plans, self._train_ids, strict=True)]
            ids = self._ids_of_steps[step] = np.stack(of_slots, axis=1)
        return ids

    def _keys(self, ids: NDArray[np.int64], step: int) -> NDArray[np.uint64]:
        """Return the augmentation keys of images given by their ids (N, T)."""
        keys = np.zeros(ids.shape, dtype=np.uint64)
        if self._plan.recipe.augment != "none":
            epoch = self._plan.position(step).epoch
            for slot, stream in enumerate(self._augment):
                keys[:, slot] = stream.keys(ids[:, slot], epoch)
        return keys

    def _block(self, part: _Part, step: int) -> Block:
        began = time.perf_counter()
        flat = part.images.result()
        self.seconds_waiting += time.perf_counter() - began
        images = flat.view(len(part.ids), -1, *flat.shape[2:]) if part.ids.shape[1] > 1 else flat
        labels = self._labels[to_device(torch.from_numpy(self._ids_used(part)), self._device)]
        keys = self._dropout_keys(step, part.groups, part.pass_key)
        seed = self._model.key(step, part.groups.start, *part.pass_key)
        return Block(images, labels, part.groups, keys, seed, part.share)

    def _ids_used(self, part: _Part) -> NDArray[np.int64]:
        """Return the ids of the images that are there, some of which may have taken the place of damaged ones."""
        replaced = part.images.replaced()
        if not replaced:
            return part.ids
        used = part.ids.copy()
        for place, image in replaced.items():
            row, slot = divmod(place, len(self._plans))
            self.damaged[slot].add(int(used[row, slot]))
            used[row, slot] = image
        return used

    def _dropout_keys(self, step: int, groups: range, pass_key: tuple[int, ...]) -> DropoutKeys:
        """Key each worker's dropout by (seed, step, worker, layer) (statement D4); workers of one group share a stream."""

        def keys(layer: int) -> NDArray[np.uint64]:
            return np.array(
                [[stream.key(step, group, layer, *pass_key) for stream in self._dropout] for group in groups],
                dtype=np.uint64,
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
