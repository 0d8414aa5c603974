"""Stages of training; the reference is a plain loop over all steps that counts in fractions."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.plan.duration import Duration
from widestep.plan.grid import RampPoint, WorkerGrid
from widestep.plan.order import DataOrder, EpochShape
from widestep.plan.timeline import Timeline

# 1,000 images: 10 steps of 100 in epochs 0-1, 5 of 200 in epochs 2-4, 3 of 300 (100 left out) from epoch 5 on
RAMP = (RampPoint(2, 8), RampPoint(5, 12))


def line(tail: str = "drop", num_images: int = 1_000) -> Timeline:
    return Timeline(num_images, WorkerGrid(1, 4, 25), tail, RAMP)


def lasting(text: object) -> Duration:
    return Duration.parse(text)


def test_stages_by_hand():
    found = [(s.first_epoch, s.first_step, s.first_image, s.shape.steps, s.shape.grid.num_workers) for s in line().stages]
    assert found == [(0, 0, 0, 10, 4), (2, 20, 2_000, 5, 8), (5, 35, 5_000, 3, 12)]


@pytest.mark.parametrize(
    ("step", "epoch", "step_in_epoch", "workers"),
    [
        (0, 0, 0, 4),
        (19, 1, 9, 4),
        (20, 2, 0, 8),
        (24, 2, 4, 8),
        (25, 3, 0, 8),
        (34, 4, 4, 8),
        (35, 5, 0, 12),
        (41, 7, 0, 12),
    ],
)
def test_positions_by_hand(step, epoch, step_in_epoch, workers):
    found = line().position(step)
    assert (found.epoch, found.step_in_epoch, found.grid.num_workers) == (epoch, step_in_epoch, workers)
    assert found.shape.grid is found.grid


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1ep", 10),
        ("2ep", 20),
        ("3ep", 25),
        ("5ep", 35),
        ("6ep", 38),
        ("1.95ep", 20),  # 19.5
        ("2.1ep", 21),  # half a step into the second stage
        ("4.99ep", 35),  # 34.95
        ("5.5ep", 37),  # 36.5
        ("0ep", 0),
        ("36st", 36),
        ("2000im", 20),
        ("2001im", 21),
        ("5000im", 35),
        ("5301im", 37),
        ("100000ep", 35 + 3 * 99_995),
    ],
)
def test_lengths_by_hand(text, steps):
    assert line().steps(lasting(text)) == steps


def test_exact_lengths_and_the_ends_of_their_epochs():
    exact = {text: line().exact_steps(lasting(text)) for text in ("1.95ep", "2.1ep", "5.5ep", "2ep", "22st", "0")}
    assert exact == {
        "1.95ep": Fraction(39, 2),
        "2.1ep": Fraction(41, 2),
        "5.5ep": Fraction(73, 2),
        "2ep": 20,
        "22st": 22,
        "0": 0,
    }
    assert [line().end_of_epoch(steps) for steps in exact.values()] == [20, 25, 38, 20, 25, 0]


def test_images():
    """1,030 images: 30 left out, or a last step of 30; 8 workers: 5 x 200 and 30; 12 workers: 3 x 300 and 130."""
    drop, short, pad = (line(tail, 1_030) for tail in ("drop", "short", "pad"))
    assert [drop.images(steps) for steps in (0, 1, 10, 20, 21, 35, 36)] == [0, 100, 1_000, 2_000, 2_200, 5_000, 5_300]
    assert [short.images(steps) for steps in (10, 11, 12, 22, 27, 28, 29)] == [
        1_000,
        1_030,
        1_130,
        2_060,
        3_060,
        3_090,
        3_290,
    ]
    assert pad.images(22) == 2 * 1_032  # 4 workers: 2 repeated
    assert pad.images(22 + 18) == 2 * 1_032 + 3 * 1_032  # 8 workers: 2 repeated
    assert pad.images(22 + 18 + 4) == 5 * 1_032 + 1_032  # 12 workers: 2 repeated


def test_what_is_due_by_hand():
    """Every 1.5 epochs: 15 steps; then 0.5 epochs of the first stage and one of the second; then 7.5 steps; and so on."""
    due = [step for steps in line().every(lasting("1.5ep"), 44) for step in steps]
    # 15 is 1.5 epochs; 3 epochs are 25 steps; 33 is the first after 7.5 more (4.6 epochs); 6.1 epochs are 38.3 steps;
    # 39 is 6 1/3 epochs; 1.5 more are 43.5 steps
    assert due == [15, 25, 33, 39, 44]
    assert [list(steps) for steps in line().every(lasting("2ep"), 50)] == [[20], [30], [38, 44, 50]]
    assert [list(steps) for steps in line().every(lasting("7st"), 30)] == [[7, 14], [21, 28]]
    assert line().every(lasting("99ep"), 44) == []


@dataclass
class Loop:
    """Training step by step: what is elapsed after each step, and which image is taken how often in which epoch."""

    shapes: list[EpochShape]

    def steps(self):
        for epoch, shape in enumerate(self.shapes):
            for step_in_epoch in range(shape.steps):
                yield epoch, step_in_epoch, shape

    def elapsed(self, unit: str) -> list[Fraction]:
        found = [Fraction(0)]
        for _, _, shape in self.steps():
            found.append(found[-1] + {"ep": Fraction(1, shape.steps), "st": 1, "im": shape.grid.global_batch}[unit])
        return found

    def first_covering(self, length: Duration) -> int:
        return next(step for step, passed in enumerate(self.elapsed(length.unit)) if passed >= length.amount)

    def due(self, length: Duration) -> list[int]:
        found, passed, last = [], self.elapsed(length.unit), 0
        for step in range(1, len(passed)):
            if passed[step] - passed[last] >= length.amount:
                found.append(step)
                last = step
        return found


@st.composite
def trainings(draw):
    """A timeline of at most three stages and the plain loop over its first epochs."""
    images_per_worker = draw(st.integers(1, 5))
    workers = [draw(st.integers(1, 8)) for _ in range(draw(st.integers(1, 3)))]
    tail = draw(st.sampled_from(["drop", "pad", "short"]))
    num_images = draw(st.integers(max(workers) * images_per_worker, 90))
    starts = sorted(draw(st.sets(st.integers(1, 7), min_size=len(workers) - 1, max_size=len(workers) - 1)))
    ramp = [RampPoint(epoch, number) for epoch, number in zip(starts, workers[1:], strict=True)]
    grid = WorkerGrid(1, workers[0], images_per_worker)
    of_epoch = [workers[sum(start <= epoch for start in starts)] for epoch in range(9)]
    shapes = [EpochShape(num_images, WorkerGrid(1, number, images_per_worker), tail) for number in of_epoch]
    return Timeline(num_images, grid, tail, ramp), Loop(shapes)


@given(trainings())
def test_places_are_those_of_a_loop(training):
    timeline, loop = training
    for step, (epoch, step_in_epoch, shape) in enumerate(loop.steps()):
        found = timeline.position(step)  # D6: by arithmetic
        assert (found.epoch, found.step_in_epoch, found.shape) == (epoch, step_in_epoch, shape)
    for unit in ("ep", "st", "im"):
        passed = loop.elapsed(unit)
        assert [timeline.elapsed(step, unit) for step in range(len(passed))] == passed
    images = np.cumsum([0, *(shape.images_in_step(step) for _, step, shape in loop.steps())])
    assert [timeline.images(step) for step in range(len(images))] == images.tolist()


@given(
    trainings(),
    st.one_of(
        st.builds("{}.{:02d}ep".format, st.integers(0, 7), st.integers(0, 99)),
        st.builds("{}st".format, st.integers(0, 9)),
        st.builds("{}im".format, st.integers(0, 200)),
    ),
)
def test_lengths_are_those_of_a_loop(training, text):
    timeline, loop = training
    length, total = lasting(text), len(loop.elapsed("st")) - 1
    assume(length.amount <= loop.elapsed(length.unit)[-1])
    steps = timeline.steps(length)
    assert steps == loop.first_covering(length)
    exact = timeline.exact_steps(length)
    assert steps - 1 < exact <= steps
    ends = [step for step, passed in enumerate(loop.elapsed("ep")) if passed.denominator == 1]
    assert timeline.end_of_epoch(exact) == min(end for end in ends if end >= exact)
    if length.amount > 0:
        assert [step for due in timeline.every(length, total) for step in due] == loop.due(length)


@given(trainings(), st.integers(0, 2**63 - 1))
def test_every_image_once_an_epoch_whatever_the_grid(training, seed):
    """D1: each stage deals out the one permutation of the epoch, up to its tail."""
    timeline, loop = training
    num_images = loop.shapes[0].num_images
    order, step = DataOrder(num_images, seed), 0
    for epoch, shape in enumerate(loop.shapes):
        taken = []
        for _ in range(shape.steps):
            found = timeline.position(step)
            taken.extend(order.step(found.shape, found.epoch, found.step_in_epoch).tolist())
            step += 1
        permutation = order.epoch(epoch).tolist()
        assert sorted(permutation) == list(range(num_images))
        assert taken[:num_images] == permutation[: len(taken)]
        if shape.tail == "drop":
            assert num_images - len(taken) < shape.grid.global_batch
        else:
            assert len(taken) - num_images == (shape.num_tail if shape.tail == "pad" else 0)


def test_far_away_places():
    """D6, without a loop: after 10**12 epochs and in fractions that no float holds."""
    far = line()
    assert far.position(35 + 3 * (10**12 - 5) + 2).epoch == 10**12
    assert far.steps(lasting(10**12)) == 35 + 3 * (10**12 - 5)
    assert far.elapsed(35 + 3 * 10**15 + 1, "ep") == 5 + 10**15 + Fraction(1, 3)
    assert len(far.every(lasting("1st"), 10**12)[-1]) == 10**12 - 35


def test_an_epoch_of_every_stage_holds_a_step():
    with pytest.raises(UsageError, match=r"1,000 training images are fewer than 1,025 \(1x41x25\)"):
        Timeline(1_000, WorkerGrid(1, 4, 25), "drop", [RampPoint(2, 8), RampPoint(3, 41)])
    assert Timeline(1_000, WorkerGrid(1, 4, 25), "short", [RampPoint(3, 41)]).stages[1].shape.steps == 1
