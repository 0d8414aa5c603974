"""Which images, augmentation keys and dropout numbers each worker gets (statements D1, D3, D4)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.facts import DataFacts, digits_facts
from widestep.data.source import open_source
from widestep.data.split import Split, stratified_split
from widestep.plan.randomness import Stream
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.train.batches import Batches
from widestep.workers.engine import Block

CPU = torch.device("cpu")


class Numbered:
    """Images of one pixel and two channels that say which image they are; the keys asked for are remembered."""

    def __init__(self, num_train: int) -> None:
        self.num_train = num_train
        self.facts: DataFacts = digits_facts(None, None)
        self.labels = torch.arange(1000) * 7
        self.keys: dict[int, set[int]] = {}

    def split(self, seed: int) -> Split:
        return Split(np.arange(100 * (seed + 1), 100 * (seed + 1) + self.num_train), np.arange(10))

    def training_images(self, ids: NDArray[np.int64], keys: NDArray[np.uint64]) -> Tensor:
        for image, key in zip(ids.tolist(), keys.tolist(), strict=True):
            self.keys.setdefault(image, set()).add(key)
        return torch.from_numpy(np.stack([ids, -ids], 1)).float()[:, :, None, None]

    def evaluation_images(self, ids: NDArray[np.int64]) -> Tensor:
        raise AssertionError("training asks for training images")

    def close(self) -> None:
        """Nothing to close."""


def batches(num_train: int = 53, seeds: tuple[int, ...] = (0,), **fields: Any) -> tuple[Batches, Numbered]:
    source = Numbered(num_train)
    plans = [RunPlan(Recipe(seed=seed, **fields), num_train) for seed in seeds]
    return Batches(source, plans, CPU), source


def images_of(blocks: list[Block], worker: int, slot: int = 0) -> list[int]:
    """Find a worker's images: image n of a block of k workers belongs to its worker n % k."""
    for block in blocks:
        if worker in block.workers:
            k = len(block.workers)
            mine = block.images[block.workers.index(worker) :: k]
            assert mine.shape[1:] == (2 * block.labels.shape[1], 1, 1)
            assert (mine[:, 2 * slot] == -mine[:, 2 * slot + 1]).all()
            assert block.labels[block.workers.index(worker) :: k, slot].tolist() == (7 * mine[:, 2 * slot, 0, 0]).tolist()
            return [int(image) for image in mine[:, 2 * slot, 0, 0]]
    return []


def order_of(seed: int, epoch: int, num_train: int) -> list[int]:
    """The image ids of one epoch in order, straight from the definition."""
    return [100 * (seed + 1) + int(place) for place in Stream(seed, "order").permutation(num_train, epoch)]


@pytest.mark.parametrize("together", [1, 3, 5])
@pytest.mark.parametrize("tail", ["drop", "pad", "short"])
def test_worker_w_takes_every_wth_image(together: int, tail: str) -> None:  # D1
    """53 images of 5 workers with 4 each: two full steps and 13 images left over, of which `pad` makes 15."""
    found, _ = batches(grid="1x5x4", tail=tail)
    steps = {"drop": 2, "pad": 3, "short": 3}[tail]
    for epoch in (0, 2):
        order = order_of(0, epoch, 53)
        order = order[:40] if tail == "drop" else order + order[:2] if tail == "pad" else order
        for place in range(steps):
            step = epoch * steps + place
            in_step = order[20 * place : 20 * place + 20]
            assert found.num_images(step) == len(in_step)
            for first in range(0, 5, together):
                workers = range(first, min(first + together, 5))
                blocks = list(found.at(step)(workers))
                assert [worker for block in blocks for worker in block.workers] == list(workers)
                for worker in workers:
                    assert images_of(blocks, worker) == in_step[worker::5]


def test_an_epoch_holds_every_image_once() -> None:  # D1
    found, _ = batches(grid="1x5x4", tail="short")
    seen = [i for step in range(3) for worker in range(5) for i in images_of(list(found.at(step)(range(5))), worker)]
    assert sorted(seen) == list(range(100, 153))


@pytest.mark.parametrize(
    ("num_train", "shapes"),
    [
        (13, [(range(3), 3), (range(3, 5), 2)]),  # 13 = 2 each and 3 more
        (15, [(range(5), 3)]),
        (3, [(range(3), 1)]),  # workers 3 and 4 have none
    ],
)
def test_a_short_step_has_blocks_of_equal_shares(num_train: int, shapes: list[tuple[range, int]]) -> None:
    found, _ = batches(num_train, grid="1x5x4", tail="short")
    blocks = list(found.at(0)(range(5)))
    assert [(block.workers, len(block.images) // len(block.workers)) for block in blocks] == shapes
    assert found.num_images(0) == num_train
    assert list(found.at(0)(range(3, 5))) == [] if num_train == 3 else True


def test_slots_have_their_own_images_beside_one_another() -> None:
    found, _ = batches(seeds=(0, 4), grid="1x5x4", stack=2)
    blocks = list(found.at(3)(range(5)))
    for slot, seed in enumerate((0, 4)):
        for worker in range(5):
            assert images_of(blocks, worker, slot) == order_of(seed, 1, 53)[20:40][worker::5]


def keys_of_epoch(epoch: int, grid: str, tail: str, seed: int = 0, together: int = 1, augment: str = "shift-flip") -> Any:
    found, source = batches(grid=grid, tail=tail, augment=augment, seeds=(seed,))
    steps = RunPlan(Recipe(grid=grid, tail=tail), 53).steps_per_epoch
    num_workers = Recipe(grid=grid).grid.num_workers
    for step in range(epoch * steps, (epoch + 1) * steps):
        for first in range(0, num_workers, together):
            list(found.at(step)(range(first, min(first + together, num_workers))))
    return source.keys


def test_the_key_of_an_image_depends_on_seed_epoch_and_image_alone() -> None:  # D3
    expected = {image: {int(Stream(0, "augment").keys(np.array([image]), 3)[0])} for image in range(100, 153)}
    assert keys_of_epoch(3, "1x5x4", "short") == expected
    assert keys_of_epoch(3, "1x5x4", "short", together=3) == expected
    assert keys_of_epoch(3, "2x6x2", "pad", together=12) == expected
    assert keys_of_epoch(3, "1x1x53", "drop") == expected
    all_keys = set().union(*expected.values())
    assert len(all_keys) == 53
    for other in (keys_of_epoch(2, "1x5x4", "short"), keys_of_epoch(3, "1x5x4", "short", seed=3)):
        assert not all_keys & set().union(*other.values())


def test_no_keys_are_made_where_nothing_is_augmented() -> None:
    assert set().union(*keys_of_epoch(0, "1x5x4", "short", augment="none").values()) == {0}


def uniforms(block: Block, layer: int = 0, width: int = 16) -> dict[int, Tensor]:
    """The dropout numbers of every worker of a block: shape (images, T, width)."""
    assert block.dropout_uniforms is not None
    drawn = block.dropout_uniforms(layer, width)
    assert drawn.shape == (len(block.images), block.labels.shape[1], width)
    assert drawn.dtype == torch.float32
    assert ((drawn >= 0) & (drawn <= 1)).all()
    k = len(block.workers)
    return {worker: drawn[place::k] for place, worker in enumerate(block.workers)}


def test_dropout_numbers_do_not_depend_on_the_block() -> None:  # D4
    found, _ = batches(grid="1x12x4", seeds=(0, 1), stack=2)
    (together,) = found.at(0)(range(12))
    expected = uniforms(together)
    for size in (1, 2, 5):
        for first in range(0, 12, size):
            (block,) = found.at(0)(range(first, min(first + size, 12)))
            assert all(drawn.equal(expected[worker]) for worker, drawn in uniforms(block).items())


def test_dropout_numbers_are_those_of_seed_step_worker_and_layer() -> None:  # D4
    found, _ = batches(grid="1x5x4", seeds=(0, 6), stack=2)
    (block,) = found.at(1)(range(2, 5))
    for slot, seed in enumerate((0, 6)):
        expected = Stream(seed, "dropout").uniforms(np.arange(4 * 16), 1, 3, 2).astype(np.float32).reshape(4, 16)
        assert np.array_equal(uniforms(block, layer=2)[3][:, slot].numpy(), expected)


def test_dropout_numbers_differ_between_steps_workers_layers_and_seeds() -> None:
    drawn = []
    for seed in (0, 1):
        found, _ = batches(grid="1x5x4", seeds=(seed,))
        for step in (0, 1):
            (block,) = found.at(step)(range(5))
            drawn += [tensor for layer in (0, 1) for tensor in uniforms(block, layer).values()]
    assert len({tuple(tensor.flatten().tolist()) for tensor in drawn}) == 2 * 2 * 2 * 5


def test_a_worker_with_fewer_images_has_the_first_of_the_same_numbers() -> None:
    full, _ = batches(20, grid="1x5x4", tail="short")
    short, _ = batches(13, grid="1x5x4", tail="short")
    (block,) = full.at(0)(range(5))
    for part in short.at(0)(range(5)):
        for worker, drawn in uniforms(part).items():
            assert drawn.equal(uniforms(block)[worker][: len(drawn)])


def test_digits_arrive_as_they_are(small: Callable[..., Recipe]) -> None:
    """The whole way from the recipe to the pixels of one worker."""
    source = open_source("digits", augment="none", image_size=None, train_images=200, num_threads=0)
    (block,) = Batches(source, [RunPlan(small(seed=3), 200)], CPU).at(7)(range(2, 3))
    train = stratified_split(source.labels.numpy(), 200, seed=3).train
    ids = train[Stream(3, "order").permutation(200, 1)[32:64][2::4]]
    assert block.images.equal(source.evaluation_images(ids))
    assert block.labels[:, 0].equal(source.labels[torch.from_numpy(ids)])
