"""Warmup and decay as functions; what recipes make of them is tested in test_runplan and test_horovod."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.plan.schedule import (
    LRSchedule,
    constant,
    cosine_decay,
    exponential_decay,
    polynomial_decay,
    step_decay,
    warmup,
)

SHAPES = ("linear", "constant", "exponential", "polynomial")


@pytest.mark.parametrize(
    ("shape", "first", "start", "rates"),
    [
        # L3: four steps of warmup and the first step after it, worked by hand
        ("linear", "open", 0.0, [0.4, 0.8, 1.2, 1.6, 1.6]),
        ("linear", "closed", 0.0, [0.0, 0.4, 0.8, 1.2, 1.6]),
        ("linear", "open", 0.8, [1.0, 1.2, 1.4, 1.6, 1.6]),
        ("linear", "closed", 0.8, [0.8, 1.0, 1.2, 1.4, 1.6]),
        ("exponential", "open", 0.1, [0.2, 0.4, 0.8, 1.6, 1.6]),
        ("exponential", "closed", 0.1, [0.1, 0.2, 0.4, 0.8, 1.6]),
        ("polynomial", "open", 0.0, [0.1, 0.4, 0.9, 1.6, 1.6]),
        ("polynomial", "closed", 0.0, [0.0, 0.1, 0.4, 0.9, 1.6]),
        ("constant", "open", 0.8, [0.8, 0.8, 0.8, 0.8, 1.6]),
        ("constant", "closed", 0.8, [0.8, 0.8, 0.8, 0.8, 1.6]),
    ],
)
def test_warmup_by_hand(shape, first, start, rates):
    rate = warmup(shape, start, 1.6, 4, first=first, power=2.0)
    assert [rate(step) for step in range(5)] == pytest.approx(rates, rel=1e-14, abs=0)


@given(
    shape=st.sampled_from(SHAPES),
    first=st.sampled_from(["open", "closed"]),
    start=st.one_of(st.just(0.0), st.floats(1e-6, 100.0)),
    peak=st.floats(1e-6, 100.0),
    num_steps=st.integers(0, 300),
    power=st.floats(0.1, 8.0),
)
def test_every_warmup_ends_at_the_peak_and_never_falls(shape, first, start, peak, num_steps, power):
    if shape == "exponential" and start == 0.0:
        start = peak / 1000
    rate = warmup(shape, start, peak, num_steps, first=first, power=power)
    rates = [rate(step) for step in range(num_steps + 3)]
    assert rates[num_steps:] == [peak] * 3  # L3: exactly, also for a warmup of 0 steps
    assert max(rates) == peak  # L3: never above
    assert rates == sorted(rates)  # L3: non-decreasing
    if num_steps and first == "open" and shape != "constant":
        assert rates[num_steps - 1] == peak  # L3: the last warmup step of an open start
    if num_steps and (first == "closed" or shape == "constant"):
        assert rates[0] == min(start, peak)  # L3: a closed start is at the start


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("first", ["open", "closed"])
def test_a_start_above_the_peak_counts_as_the_peak(shape, first):
    rate = warmup(shape, 5.0, 3.0, 10, first=first)
    assert {rate(step) for step in range(12)} == {3.0}  # L3: never above


@pytest.mark.parametrize(("start", "peak", "num_steps"), [(0.42999999999999994, 0.43, 14), (7.739999999999999, 7.74, 24)])
def test_rounding_does_not_lift_a_rate_above_the_peak(start, peak, num_steps):
    """L3, where one unit in the last place of start * (peak / start) ** t is enough to pass it."""
    share = (num_steps - 1) / num_steps
    assert start * math.pow(peak / start, share) > peak
    assert warmup("exponential", start, peak, num_steps)(num_steps - 2) == peak


@pytest.mark.parametrize(
    ("shape", "first", "start", "rates"),
    [
        # two steps and a half of warmup that go on to the end of the fourth: t = 0.4, 0.8, 1.2, 1.6 (closed: 0 to 1.2)
        ("linear", "open", 0.0, [0.4, 0.8, 1.2, 1.6, 1.0]),
        ("linear", "closed", 0.0, [0.0, 0.4, 0.8, 1.2, 1.0]),
        ("linear", "open", 0.5, [0.7, 0.9, 1.1, 1.3, 1.0]),
        ("exponential", "open", 2**-5, [2**-3, 2**-1, 2.0, 8.0, 1.0]),
        ("polynomial", "open", 0.0, [0.16, 0.64, 1.44, 2.56, 1.0]),
        ("constant", "open", 0.5, [0.5, 0.5, 0.5, 0.5, 1.0]),
        ("linear", "open", 3.0, [1.0, 1.0, 1.0, 1.0, 1.0]),  # a start above the peak counts as the peak
    ],
)
def test_overshooting_by_hand(shape, first, start, rates):
    rate = warmup(shape, start, 1.0, 4, first=first, power=2.0, length=2.5)
    assert [rate(step) for step in range(5)] == pytest.approx(rates, rel=1e-14, abs=0)  # L4


@given(
    shape=st.sampled_from(SHAPES),
    first=st.sampled_from(["open", "closed"]),
    start=st.floats(1e-3, 100.0),
    peak=st.floats(1e-3, 100.0),
    num_steps=st.integers(0, 100),
    missing=st.floats(0.0, 0.9),
)
def test_an_overshoot_rises_and_ends(shape, first, start, peak, num_steps, missing):
    length = num_steps * (1.0 - missing)
    rate = warmup(shape, start, peak, num_steps, first=first, power=2.0, length=length)
    rates = [rate(step) for step in range(num_steps + 2)]
    assert rates[:num_steps] == sorted(rates[:num_steps])
    assert rates[num_steps:] == [peak] * 2
    if missing == 0.0:  # a warmup of whole epochs
        plain = warmup(shape, start, peak, num_steps, first=first, power=2.0)
        assert rates == [plain(step) for step in range(num_steps + 2)]


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 3.0), (29, 3.0), (30, 0.3), (59, 0.3), (60, 0.03), (79, 0.03), (80, 0.003), (89, 0.003)]
)
def test_step_decay(step, rate):
    assert step_decay(3.0, [30, 60, 80], [0.1])(step) == pytest.approx(rate, rel=1e-15)  # L5


def test_step_decay_with_two_boundaries_at_one_step():
    decay = step_decay(1.0, [10, 10], [0.5])
    assert [decay(9), decay(10)] == [1.0, 0.25]


def test_step_decay_with_a_factor_for_each_boundary():
    """Akiba et al. 2017: x 0.5 for 40 epochs, x 0.075 for 30, x 0.01 for 15, x 0.001 for 5."""
    decay = step_decay(6.4, [40, 70, 85], [0.15, 2 / 15, 0.1])
    assert [decay(epoch) / 6.4 * 0.5 for epoch in (0, 39, 40, 69, 70, 84, 85, 89)] == pytest.approx(
        [0.5, 0.5, 0.075, 0.075, 0.01, 0.01, 0.001, 0.001], rel=1e-14
    )
    shuffled = step_decay(6.4, [85, 40, 70], [0.1, 0.15, 2 / 15])
    assert [shuffled(epoch) for epoch in range(90)] == [decay(epoch) for epoch in range(90)]


def test_one_factor_is_the_same_factor_at_every_boundary():
    for factor in (0.1, 0.3, 0.97, 1.0):
        one, each = step_decay(3.0, [30, 60, 80], [factor]), step_decay(3.0, [30, 60, 80], [factor] * 3)
        assert [one(step) for step in range(90)] == [each(step) for step in range(90)]
    assert step_decay(3.0, [], [0.1])(10**9) == 3.0


def test_there_is_a_factor_for_each_boundary():
    with pytest.raises(ValueError, match="zip"):
        step_decay(1.0, [1, 2, 3], [0.1, 0.2])


def test_cosine_decay():
    decay = cosine_decay(3.0, 1.0, 10, 18)
    by_hand = [3.0, 2 + math.sqrt(0.5), 2.0, 2 - math.sqrt(0.5), 1.0]  # L5: 2 + cos(0, 45, 90, 135, 180 degrees)
    assert [decay(step) for step in (10, 12, 14, 16, 18)] == pytest.approx(by_hand, rel=1e-15)


def test_polynomial_and_linear_decay():
    square, straight = polynomial_decay(1.7, 0.1, 4, 8, 2.0), polynomial_decay(1.7, 0.1, 4, 8, 1.0)
    assert [square(step) for step in range(4, 9)] == pytest.approx([1.7, 1.0, 0.5, 0.2, 0.1], rel=1e-14)  # L5
    assert [straight(step) for step in range(4, 9)] == pytest.approx([1.7, 1.3, 0.9, 0.5, 0.1], rel=1e-14)  # L5


def test_exponential_and_constant_decay():
    decay = exponential_decay(1.0, 1e-4, 0, 4)
    assert [decay(step) for step in range(5)] == pytest.approx([1.0, 1e-1, 1e-2, 1e-3, 1e-4], rel=1e-14)  # L5
    assert {constant(3.0)(step) for step in (0, 1, 10**9)} == {3.0}  # L5
    assert 4.9 * (1e-5 / 4.9) != 1e-5  # whatever the rounding, the final rate is what was asked for
    assert {exponential_decay(4.9, 1e-5, 0, 4)(step) for step in (4, 5, 10**9)} == {1e-5}


@given(
    shape=st.sampled_from(["cosine", "polynomial", "exponential"]),
    peak=st.floats(1e-6, 100.0),
    share=st.floats(1e-9, 1.0),
    start=st.integers(0, 100),
    length=st.integers(1, 300),
    power=st.floats(0.2, 8.0),
)
def test_every_decay_begins_exactly_at_the_peak_and_never_rises(shape, peak, share, start, length, power):
    final, end = peak * share, start + length
    decay = {
        "cosine": cosine_decay(peak, final, start, end),
        "polynomial": polynomial_decay(peak, final, start, end, power),
        "exponential": exponential_decay(peak, final, start, end),
    }[shape]
    rates = [decay(step) for step in range(start, end + 2)]
    assert rates[0] == peak  # L3: the join with the warmup
    assert rates[-1] == rates[-2] == final  # it arrives, and stays
    assert all(later <= rate * (1 + 1e-15) for rate, later in itertools.pairwise(rates))


def test_the_join():
    schedule = LRSchedule(warmup("linear", 0.0, 1.0, 2), step_decay(1.0, [1, 3], [0.1]), 2, 5)
    assert schedule.trace() == pytest.approx([0.5, 1.0, 0.1, 0.01, 0.01])  # L5: absolute steps, whatever the warmup


def test_a_trace_is_the_rates_in_order():
    schedule = LRSchedule(warmup("linear", 0.0, 1.0, 20), cosine_decay(1.0, 0.0, 20, 100), 20, 100)
    whole = schedule.trace()
    assert len(whole) == 100
    assert schedule.trace(15, 40) == whole[15:40]
    assert schedule.trace(90) == whole[90:]
    assert schedule.trace(7, 7) == []


def test_the_rate_depends_on_the_step_alone():
    """L1: asked for in any order, any number of times, the answer is the same."""
    schedule = LRSchedule(warmup("exponential", 0.1, 1.0, 20), cosine_decay(1.0, 0.0, 20, 100), 20, 100)
    whole = schedule.trace()
    steps = np.random.default_rng(0).permutation([*range(100)] * 3).tolist()
    assert [schedule(step) for step in steps] == [whole[step] for step in steps]
