from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.plan.duration import Duration


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        # an epoch of 42 steps of 30,720 images
        ("5ep", 210),
        ("5", 210),
        (5, 210),
        (5.0, 210),
        ("2.5ep", 105),
        (2.5, 105),
        ("0.1ep", 5),  # 4.2: the first step that covers it
        ("0.01ep", 1),
        ("0", 0),
        ("600st", 600),
        ("0st", 0),
        ("30720im", 1),
        ("30721im", 2),
        ("1im", 1),
        ("0im", 0),
    ],
)
def test_lengths_in_steps(value, steps):
    assert Duration.parse(value).steps(steps_per_epoch=42, global_batch=30_720) == steps


def test_a_third_of_an_epoch_written_in_decimals_is_exact():
    """0.3 as a binary number is a little less than 3/10, and 0.7 a little less than 7/10: neither costs a step."""
    assert Duration.parse("0.3").amount == Fraction(3, 10)
    assert Duration.parse(0.3).steps(steps_per_epoch=10, global_batch=1) == 3
    assert Duration.parse("0.7").steps(steps_per_epoch=10, global_batch=1) == 7
    assert Duration.parse(2.3).steps(steps_per_epoch=100, global_batch=1) == 230  # in floats 229.99999999999997


@pytest.mark.parametrize(
    ("value", "steps"),
    [("5ep", 210), ("7.3ep", Fraction(3_066, 10)), ("600st", 600), ("15360im", Fraction(1, 2)), ("61440im", 2)],
)
def test_exact_lengths_in_steps(value, steps):
    assert Duration.parse(value).exact_steps(steps_per_epoch=42, global_batch=30_720) == steps


@pytest.mark.parametrize(("value", "epochs"), [("5ep", 5.0), ("2.5ep", 2.5), ("21st", 0.5), ("61440im", 2 / 42)])
def test_lengths_in_epochs(value, epochs):
    assert Duration.parse(value).epochs(steps_per_epoch=42, global_batch=30_720) == epochs


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("90", "90ep"),
        (90.0, "90ep"),
        ("2.50", "2.5ep"),
        ("007st", "7st"),
        ("5 ep", "5ep"),
        ("0", "0ep"),
        ("600.0st", "600st"),
        ("100000000000", "100000000000ep"),
        ("0.00001ep", "0.00001ep"),
        ("0.12345678901234567890", "0.1234567890123456789ep"),
    ],
)
def test_text(value, text):
    assert str(Duration.parse(value)) == text


@given(st.integers(0, 10**12 - 1), st.integers(0, 10**20 - 1))
def test_text_and_epochs_say_the_same(whole, decimals):
    duration = Duration.parse(f"{whole}.{decimals:020d}")
    assert duration.amount == whole + Fraction(decimals, 10**20)
    assert Duration.parse(str(duration)) == duration


@given(st.integers(0, 10**12), st.sampled_from(["ep", "st", "im"]))
def test_text_and_whole_numbers_say_the_same(whole, unit):
    duration = Duration.parse(f"{whole}{unit}")
    assert (duration.amount, duration.unit) == (whole, unit)
    assert str(duration) == f"{whole}{unit}"


@given(st.integers(0, 10**3), st.integers(1, 10**4), st.integers(1, 10**5))
def test_units_agree(num_epochs, steps_per_epoch, global_batch):
    num_steps = num_epochs * steps_per_epoch
    for text in (f"{num_epochs}ep", f"{num_steps}st", f"{num_steps * global_batch}im"):
        assert Duration.parse(text).steps(steps_per_epoch, global_batch) == num_steps
        assert Duration.parse(text).epochs(steps_per_epoch, global_batch) == num_epochs


def test_a_duration_is_read_as_it_is():
    duration = Duration.parse("600st")
    assert Duration.parse(duration) is duration


WORDS = ("", "ep", "-1", "-1ep", "1e3", "5 epochs", "2.5st", "0.5im", "1.", ".5", "nan", "inf", "5ep 6ep", "1" * 5000)
VALUES = (True, False, None, [5], 1e-7, -1, 10**12 + 1, float("nan"), "9999999999999ep")


@pytest.mark.parametrize("value", [*WORDS, *VALUES], ids=lambda value: repr(value)[:20])
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(UsageError, match=r"^A duration is a number of epochs, steps or images, for example 5, .* Got "):
        Duration.parse(value)
