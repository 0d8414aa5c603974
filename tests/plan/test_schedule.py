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
    ("step", "rate"), [(0, 3.0), (29, 3.0), (30, 0.3), (59, 0.3), (60, 0.03), (79, 0.03), (80, 0.003), (89, 0.003)]
)
def test_step_decay(step, rate):
    assert step_decay(3.0, [30, 60, 80], 0.1)(step) == pytest.approx(rate, rel=1e-15)  # L5


def test_step_decay_with_two_boundaries_at_one_step():
    decay = step_decay(1.0, [10, 10], 0.5)
    assert [decay(9), decay(10)] == [1.0, 0.25]


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
    assert rates[-1] == rates[-2] == pytest.approx(final, rel=1e-14)
    assert all(later <= rate * (1 + 1e-15) for rate, later in itertools.pairwise(rates))
    if shape != "exponential":
        assert rates[-1] == final


def test_the_join():
    schedule = LRSchedule(warmup("linear", 0.0, 1.0, 2), step_decay(1.0, [1, 3], 0.1), 2, 5)
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
