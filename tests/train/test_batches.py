"""Which images, augmentation keys and dropout keys each worker gets (statements D1, D3, D4, B1)."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.facts import DataFacts, digits_facts
from widestep.data.loading import Computed, Images
from widestep.data.source import open_source
from widestep.data.split import Split, stratified_split
from widestep.plan.randomness import Stream
from widestep.plan.recipe import Recipe
from widestep.plan.recipes import changed
from widestep.plan.runplan import RunPlan
from widestep.train.batches import Batches
from widestep.workers.blocks import Block

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

    def training_images(self, ids: NDArray[np.int64], keys: NDArray[np.uint64]) -> Images:
        def images() -> Tensor:
            for image, key in zip(ids.tolist(), keys.tolist(), strict=True):
                self.keys.setdefault(image, set()).add(key)
            return torch.from_numpy(np.stack([ids, -ids], 1)).float()[:, :, None, None]

        return Computed(images)

    def evaluation_images(self, ids: NDArray[np.int64]) -> Images:
        raise AssertionError("training asks for training images")

    def close(self) -> None:
        """Nothing to close."""


def batches(num_train: int = 53, seeds: Sequence[int] = (0,), **fields: Any) -> tuple[Batches, Numbered]:
    source = Numbered(num_train)
    num_processes = fields.pop("num_processes", 1)
    plans = [RunPlan(changed(Recipe(), {"seed": seed, **fields}), num_train) for seed in seeds]
    return Batches(source, plans, CPU, num_processes), source


def images_of(blocks: list[Block], group: int, slot: int = 0) -> list[int]:
    """Find the images of a group of workers, mostly one: image n of a block of k groups belongs to its group n % k."""
    for block in blocks:
        if group in block.groups:
            k = len(block.groups)
            mine = block.images[block.groups.index(group) :: k]
            assert block.images_per_group == len(mine) == len(block.images) / k
            assert mine.shape[1:] == (2 * block.labels.shape[1], 1, 1)
            assert (mine[:, 2 * slot] == -mine[:, 2 * slot + 1]).all()
            assert block.labels[block.groups.index(group) :: k, slot].tolist() == (7 * mine[:, 2 * slot, 0, 0]).tolist()
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
                assert [worker for block in blocks for worker in block.groups] == list(workers)
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
    assert [(block.groups, block.images_per_group) for block in blocks] == shapes
    assert found.num_images(0) == num_train
    assert (list(found.at(0)(range(3, 5))) == []) == (num_train == 3)


@pytest.mark.parametrize(("together", "batchnorm"), [(2, "group:2"), (3, "group:3"), (6, "sync")])
@pytest.mark.parametrize("tail", ["pad", "short"])
def test_a_group_has_the_images_of_its_workers(together: int, batchnorm: str, tail: str) -> None:  # B1, D1
    """53 images of 6 workers with 4 each: two full steps, then 5 images, of which `pad` makes 6: one or none a worker."""
    found, _ = batches(grid="1x6x4", tail=tail, batchnorm=batchnorm)
    order = order_of(0, 0, 53)
    order += order[:1] if tail == "pad" else []
    for step in range(3):
        in_step = order[24 * step : 24 * step + 24]
        blocks = list(found.at(step)(range(6)))
        seen = []
        for group in range(6 // together):
            expected = [image for n, image in enumerate(in_step) if n % 6 // together == group]
            assert images_of(blocks, group) == expected
            assert images_of(list(found.at(step)(range(group * together, (group + 1) * together))), group) == expected
            seen += expected
        assert sorted(seen) == sorted(in_step)
        assert len(blocks) == len({len(images_of(blocks, group)) for group in range(6 // together)} - {0})


def test_workers_join_where_the_recipe_says() -> None:  # D1
    """Two workers of 4 images in epoch 0, three in epoch 1, six from epoch 2 on: 6, 4 and 2 steps an epoch of 53 images."""
    found, _ = batches(grid="1x2x4", worker_ramp="1ep:3,2ep:6", epochs="4", num_processes=3, workers_per_forward=2)
    sizes = [2] * 6 + [3] * 4 + [6] * 2 + [6] * 2
    place, epoch = 0, 0
    for step, num_workers in enumerate(sizes):
        if place == 0 or place + 4 * num_workers > 53:
            order, place, epoch = order_of(0, epoch, 53), 0, epoch + 1
        in_step = order[place : place + 4 * num_workers]
        place += 4 * num_workers
        placement = found.placement(step)
        assert found.num_images(step) == 4 * num_workers
        assert (placement.num_workers, placement.workers_per_block, placement.num_processes) == (num_workers, 2, 3)
        for block in range(placement.num_blocks):
            workers = placement.workers(block)
            given = list(found.at(step)(workers))
            for worker in workers:
                assert images_of(given, worker) == in_step[worker::num_workers]
    assert epoch == 4


@pytest.mark.parametrize(
    ("wanted", "tail", "steps"),
    [(1, "drop", 1), (20, "drop", 1), (21, "drop", 2), (40, "drop", 2), (41, "drop", 2), (41, "short", 3), (8192, "pad", 3)],
)
def test_statistics_are_computed_from_whole_steps(wanted: int, tail: str, steps: int) -> None:  # B3
    """53 images, 20 a step: two steps an epoch and 13 images left over; one epoch at most."""
    found, _ = batches(grid="1x5x4", tail=tail, batchnorm_images=wanted)
    assert found.steps_for_statistics() == range(steps)


def test_the_digest_names_the_images_in_order() -> None:
    expected = sha256(b"".join(image.to_bytes(8, "little") for image in order_of(4, 1, 53)[20:40])).hexdigest()[:16]
    for num_processes, stack in ((1, 1), (3, 1), (2, 5)):
        found, _ = batches(grid="1x5x4", seeds=(4,) if stack == 1 else range(5), num_processes=num_processes, stack=stack)
        assert found.digest_of_ids(3, slot=4 % stack) == expected
    digests = {batches(grid="1x5x4", seeds=(seed,))[0].digest_of_ids(step, 0) for seed in (0, 1) for step in range(4)}
    assert len(digests) == 8


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


def dropout_keys(block: Block, layer: int = 0) -> dict[int, list[int]]:
    """The dropout keys of every group of a block, one a slot."""
    assert block.dropout_keys is not None
    keys = block.dropout_keys(layer)
    assert keys.shape == (len(block.groups), block.labels.shape[1])
    assert keys.dtype == np.uint64
    return dict(zip(block.groups, keys.tolist(), strict=True))


def test_dropout_keys_do_not_depend_on_the_block() -> None:  # D4
    found, _ = batches(grid="1x12x4", seeds=(0, 1), stack=2)
    (together,) = found.at(0)(range(12))
    expected = dropout_keys(together)
    assert sorted(expected) == list(range(12))
    for size in (1, 2, 5):
        for first in range(0, 12, size):
            (block,) = found.at(0)(range(first, min(first + size, 12)))
            assert all(keys == expected[worker] for worker, keys in dropout_keys(block).items())


def test_dropout_keys_are_those_of_seed_step_worker_and_layer() -> None:  # D4
    found, _ = batches(grid="1x5x4", seeds=(0, 6), stack=2)
    (block,) = found.at(1)(range(2, 5))
    expected = [Stream(seed, "dropout").key(1, 3, 2) for seed in (0, 6)]
    assert dropout_keys(block, layer=2)[3] == expected


def test_dropout_keys_differ_between_steps_groups_layers_and_seeds() -> None:
    drawn = []
    for seed in (0, 1):
        found, _ = batches(grid="1x6x4", seeds=(seed,), batchnorm="group:2")
        for step in (0, 1):
            (block,) = found.at(step)(range(6))
            drawn += [keys for layer in (0, 1) for (keys,) in dropout_keys(block, layer).values()]
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 2 * 3


def test_a_worker_with_fewer_images_has_the_same_key() -> None:
    full, _ = batches(20, grid="1x5x4", tail="short")
    short, _ = batches(13, grid="1x5x4", tail="short")
    (block,) = full.at(0)(range(5))
    parts = [dropout_keys(part) for part in short.at(0)(range(5))]
    assert len(parts) == 2
    assert parts[0] | parts[1] == dropout_keys(block)


def test_a_users_own_random_numbers_have_a_seed_for_every_block() -> None:  # D4
    """Of the step and the first worker, whatever else is computed beside it."""
    found, _ = batches(grid="1x5x4", seeds=(3,))
    seeds = {(step, first): next(iter(found.at(step)(range(first, 5)))).seed for step in range(3) for first in range(5)}
    assert len(set(seeds.values())) == 15
    assert seeds[2, 1] == Stream(3, "model").key(2, 1)
    assert next(iter(found.at(2)(range(1, 2)))).seed == seeds[2, 1]


def test_the_images_of_a_worker_are_cut_into_passes() -> None:  # B2
    """53 images, 5 workers of 7: the only step of 35; and with a short second step of 18, which is 4, 4, 4, 3, 3."""
    fields = {"grid": "1x5x7", "tail": "short"}
    whole, _ = batches(53, **fields)
    cut, _ = batches(53, **fields, images_per_forward=3)
    sizes = {}
    for step in (0, 1):
        for worker in range(5):
            workers = range(worker, worker + 1)
            (expected,), parts = whole.at(step)(workers), list(cut.again(step)(workers))
            assert torch.cat([part.images for part in parts]).equal(expected.images)
            assert torch.cat([part.labels for part in parts]).equal(expected.labels)
            assert all(part.groups == expected.groups == workers for part in parts)
            assert [part.share for part in parts] == [len(part.labels) / len(expected.labels) for part in parts]
            sizes[step, worker] = [len(part.labels) for part in parts]
    assert sizes[0, 0] == [2, 2, 3]
    assert [sizes[1, worker] for worker in (0, 3)] == [[2, 2], [3]]


def test_passes_of_a_worker_have_random_numbers_of_their_own() -> None:  # D4
    """Those of the first are those of the worker."""
    whole, _ = batches(grid="1x5x8", seeds=(3,))
    cut, _ = batches(grid="1x5x8", seeds=(3,), images_per_forward=3)
    workers = range(2, 3)
    (expected,), parts = whole.at(0)(workers), list(cut.at(0)(workers))
    assert len(parts) == 3
    assert (parts[0].seed, dropout_keys(parts[0])) == (expected.seed, dropout_keys(expected))
    assert len({part.seed for part in parts}) == 3
    drawn = [key for part in parts for layer in (0, 1) for keys in dropout_keys(part, layer).values() for key in keys]
    assert len(set(drawn)) == 6


def test_digits_arrive_as_they_are(small: Callable[..., Recipe]) -> None:
    """The whole way from the recipe to the pixels of one worker."""
    source = open_source("digits", augment="none", train_images=200)
    (block,) = Batches(source, [RunPlan(small(seed=3), 200)], CPU).at(7)(range(2, 3))
    train = stratified_split(source.labels.numpy(), 200, seed=3).train
    ids = train[Stream(3, "order").permutation(200, 1)[32:64][2::4]]
    assert block.images.equal(source.evaluation_images(ids).result())
    assert block.labels[:, 0].equal(source.labels[torch.from_numpy(ids)])


class Remembering(Numbered):
    """Images that remember in which order they were asked for and waited for."""

    def __init__(self, num_train: int) -> None:
        super().__init__(num_train)
        self.asked: list[tuple[int, ...]] = []

    def training_images(self, ids: NDArray[np.int64], keys: NDArray[np.uint64]) -> Images:
        self.asked.append(tuple(ids.tolist()))
        return super().training_images(ids, keys)


def remembering(process: int = 0, num_processes: int = 1, **fields: Any) -> tuple[Batches, Remembering, RunPlan]:
    source, plan = Remembering(53), RunPlan(changed(Recipe(), fields), 53)
    return Batches(source, [plan], CPU, num_processes, process), source, plan


def own_blocks(found: Batches, plan: RunPlan, process: int, first: int = 0) -> list[tuple[int, range]]:
    steps = range(first, plan.total_steps)
    placements = {step: found.placement(step) for step in steps}
    return [(step, placements[step].workers(block)) for step in steps for block in placements[step].blocks(process)]


@pytest.mark.parametrize(("process", "num_processes"), [(0, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("fields", [{"tail": "short"}, {"tail": "drop", "worker_ramp": "2ep:6"}], ids=["short", "ramp"])
def test_images_are_asked_for_once_in_the_order_of_training(
    process: int, num_processes: int, fields: dict[str, Any]
) -> None:  # D1, D6
    found, source, plan = remembering(process, num_processes, grid="1x5x4", epochs="4", **fields)
    _, reference, _ = remembering(grid="1x5x4", epochs="4", **fields)
    expected = Batches(reference, [plan], CPU, num_processes, process)
    for step, workers in own_blocks(found, plan, process):
        blocks, others = list(found.at(step)(workers)), list(expected.again(step)(workers))
        assert [block.groups for block in blocks] == [block.groups for block in others]
        for block, other in zip(blocks, others, strict=True):
            assert torch.equal(block.images, other.images)
            assert torch.equal(block.labels, other.labels)
            assert block.seed == other.seed
    assert source.asked == reference.asked  # nothing of other processes, nothing twice, nothing after the end


def test_the_next_blocks_are_loading_meanwhile() -> None:
    """Five workers of 4 images: at least two blocks and 256 images ahead, 64 blocks in all after the one at hand."""
    found, source, plan = remembering(grid="1x5x4", epochs="40")
    blocks = own_blocks(found, plan, 0)
    for place in range(30):
        step, workers = blocks[place]
        next(iter(found.at(step)(workers)))
        assert len(source.asked) == place + 1 + 64


def test_images_may_be_asked_for_out_of_turn() -> None:
    found, source, plan = remembering(grid="1x5x4", epochs="3")
    blocks = own_blocks(found, plan, 0)
    step, workers = blocks[0]
    first = next(iter(found.at(step)(workers)))
    before = len(source.asked)
    assert torch.equal(next(iter(found.again(step)(workers))).images, first.images)
    assert len(source.asked) == before + 1
    for step, workers in (blocks[1], blocks[7], blocks[2]):  # on, then a jump ahead, then back
        block, other = next(iter(found.at(step)(workers))), next(iter(found.again(step)(workers)))
        assert torch.equal(block.images, other.images)
