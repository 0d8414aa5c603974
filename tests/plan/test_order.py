import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.plan.grid import WorkerGrid
from widestep.plan.order import DataOrder, EpochShape
from widestep.plan.randomness import Stream

IMAGENET = 1_281_167
NODES = (4, 10, 20, 30, 40)


def grid(nodes: int) -> WorkerGrid:
    return WorkerGrid(nodes, 6, 128)


def taken(shape: EpochShape, seed: int, epoch: int, step: int, worker: int) -> list[int]:
    """The positions that one worker takes at a step: every W-th of the step's, from its own on."""
    return DataOrder(shape.num_images, seed).step(shape, epoch, step)[worker :: shape.grid.num_workers].tolist()


def test_steps_an_epoch_on_imagenet():
    assert [EpochShape(IMAGENET, grid(n), "pad").steps for n in NODES] == [418, 167, 84, 56, 42]  # D2
    assert [EpochShape(IMAGENET, grid(n), "short").steps for n in NODES] == [418, 167, 84, 56, 42]
    assert [EpochShape(IMAGENET, grid(n), "drop").steps for n in NODES] == [417, 166, 83, 55, 41]


def test_tails_on_imagenet():
    """240 workers: 1,281,167 = 41 x 30,720 + 21,647, and 5,339 x 240 = 1,281,360 = 1,281,167 + 193."""
    pad, drop, short = (EpochShape(IMAGENET, grid(40), tail) for tail in ("pad", "drop", "short"))
    assert (pad.num_tail, drop.num_tail, short.num_tail) == (193, 21_647, 21_647)  # D2: 193 duplicates
    assert (pad.length, drop.length, short.length) == (1_281_360, 1_259_520, 1_281_167)
    assert (pad.images_in_step(41), short.images_in_step(41), drop.images_in_step(40)) == (21_840, 21_647, 30_720)
    assert pad.images_in_step(0) == 30_720
    assert pad.describe() == "tail pad: 193 images repeated an epoch"
    assert drop.describe() == "tail drop: 21,647 images dropped an epoch"
    assert short.describe() == "tail short: 21,647 images in a smaller last step"
    assert EpochShape(960, WorkerGrid(4, 1, 8), "pad").describe() == "tail pad: none left over"


@pytest.mark.parametrize("tail", ["drop", "pad", "short"])
def test_no_tail(tail):
    shape = EpochShape(960, WorkerGrid(40, 1, 8), tail)
    assert (shape.steps, shape.num_tail, shape.length, shape.images_in_step(2)) == (3, 0, 960, 320)


def test_by_hand():
    """11 images, 2 workers x 2 images; o[i] is the i-th image of the epoch's order."""
    small = WorkerGrid(2, 1, 2)
    drop, pad, short = (EpochShape(11, small, tail) for tail in ("drop", "pad", "short"))
    o = DataOrder(11, seed=5).epoch(0).tolist()
    worker0, worker1 = ([taken(pad, 5, 0, step, w) for step in range(3)] for w in (0, 1))
    assert worker0 == [[o[0], o[2]], [o[4], o[6]], [o[8], o[10]]]  # D1: w, w + W, w + 2W ...
    assert worker1 == [[o[1], o[3]], [o[5], o[7]], [o[9], o[0]]]  # the first image fills the place that is left
    assert [taken(short, 5, 0, 2, w) for w in (0, 1)] == [[o[8], o[10]], [o[9]]]
    assert [DataOrder(11, 5).step(drop, 0, step).tolist() for step in range(drop.steps)] == [o[:4], o[4:8]]


grids = st.builds(WorkerGrid, st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))


@given(
    num_images=st.integers(1, 300),
    grid=grids,
    tail=st.sampled_from(["drop", "pad", "short"]),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 100),
)
def test_every_image_once_up_to_the_tail(num_images, grid, tail, seed, epoch):
    if tail == "drop" and num_images < grid.global_batch:
        num_images += grid.global_batch
    shape = EpochShape(num_images, grid, tail)
    order = DataOrder(num_images, seed)
    steps = [order.step(shape, epoch, step) for step in range(shape.steps)]
    taken = {w: [image for ids in steps for image in ids[w :: grid.num_workers].tolist()] for w in range(grid.num_workers)}
    counts = np.bincount(list(itertools.chain.from_iterable(taken.values())), minlength=num_images)
    assert len(counts) == num_images
    assert counts.sum() == shape.length == sum(shape.images_in_step(step) for step in range(shape.steps))
    if tail == "short":
        assert set(counts) == {1}  # D1: exactly once
    elif tail == "drop":
        assert set(counts) <= {0, 1}  # D1: once, or left over
        assert (counts == 0).sum() == shape.num_tail < grid.global_batch
    else:
        assert counts.min() >= 1  # D1: all, and only those repeated that even out the workers
        assert counts.sum() - num_images == shape.num_tail < grid.num_workers
        assert len({len(images) for images in taken.values()}) == 1
        assert counts.max() - counts.min() <= 1


@given(num_images=st.integers(1, 200), grid=grids, seed=st.integers(0, 1_000), epoch=st.integers(0, 9))
def test_a_worker_takes_what_a_distributed_sampler_gives_it(num_images, grid, seed, epoch):
    """The reference: pad by repeating from the front, deal out one by one, cut each hand into batches."""
    shape = EpochShape(num_images, grid, "pad")
    permutation = DataOrder(num_images, seed).epoch(epoch).tolist()
    padded = list(itertools.islice(itertools.cycle(permutation), -(-num_images // grid.num_workers) * grid.num_workers))
    for w in range(grid.num_workers):
        own = padded[w :: grid.num_workers]
        batches = [own[at : at + grid.images_per_worker] for at in range(0, len(own), grid.images_per_worker)]
        assert [taken(shape, seed, epoch, step, w) for step in range(shape.steps)] == batches  # D1


def test_the_grid_does_not_change_the_order():
    """D1: the same images in the same order, whether 12 workers take one each, one takes 12, or there are 5 at a step."""
    orders = []
    for text in ("12x1x1", "1x1x12", "3x2x2", "1x1x96", "5x1x1"):
        shape = EpochShape(96, WorkerGrid.parse(text), "short")
        orders.append(np.concatenate([DataOrder(96, seed=1).step(shape, 4, step) for step in range(shape.steps)]).tolist())
    assert orders == [orders[0]] * 5


def test_epochs_and_seeds_differ():
    orders = {tuple(DataOrder(500, seed).epoch(epoch).tolist()) for seed in range(8) for epoch in range(8)}
    assert len(orders) == 64  # D1: among them seed 0 epoch 1 and seed 1 epoch 0


def test_a_place_is_found_by_arithmetic():
    """D6: step 10,000 of training on ImageNet is asked for first, and is what a run that got there sees."""
    shape = EpochShape(IMAGENET, grid(40), "drop")
    epoch, step = divmod(10_000, shape.steps)
    fresh, old = DataOrder(IMAGENET, seed=0), DataOrder(IMAGENET, seed=0)
    old.epoch(0)
    there = fresh.step(shape, epoch, step)
    assert np.array_equal(there, old.step(shape, epoch, step))
    assert np.unique(fresh.epoch(epoch)).size == IMAGENET  # D1: nobody twice
    assert there[:3].tolist() == fresh.epoch(epoch)[step * 30_720 :][:3].tolist()


class AskedByAnotherThread(DataOrder):
    """Whenever an epoch has been worked out, another thread asks for the other one."""

    asking = False

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "_newest" and value and not self.asking:
            self.asking = True
            self.epoch(1 - value[-1][0])
            self.asking = False


@pytest.mark.parametrize("epoch", [0, 1])
def test_threads_may_ask_for_different_epochs(epoch):
    assert np.array_equal(AskedByAnotherThread(96, seed=0).epoch(epoch), DataOrder(96, seed=0).epoch(epoch))


def test_the_order_stays_what_it_is():
    """The permutation of the stream named order, for which test_randomness has golden values."""
    assert DataOrder(10, seed=0).epoch(0).tolist() == [6, 1, 8, 7, 5, 4, 2, 3, 9, 0]
    for seed, epoch in itertools.product(range(3), range(3)):
        assert np.array_equal(DataOrder(50, seed).epoch(epoch), Stream(seed, "order").permutation(50, epoch))


def test_an_epoch_holds_a_global_batch():
    with pytest.raises(UsageError) as caught:
        EpochShape(959, WorkerGrid(40, 6, 4), "drop")
    assert str(caught.value) == (
        "An epoch must hold at least one global batch. 959 training images are fewer than 960 (40x6x4): use fewer workers "
        "or images per worker, or tail = 'pad'."
    )
    assert EpochShape(959, WorkerGrid(40, 6, 4), "pad").steps == 1
    assert EpochShape(959, WorkerGrid(40, 6, 4), "short").images_in_step(0) == 959
    with pytest.raises(UsageError):
        EpochShape(0, WorkerGrid(1, 1, 1), "pad")
