import itertools

import pytest

from widestep.errors import UsageError
from widestep.plan.cadence import Cadence, Pace
from widestep.plan.execution import Execution


@pytest.mark.parametrize("text", ["60s", "200st", "1ep", "auto"])
def test_text_and_cadence_say_the_same(text):
    cadence = Cadence.parse(text)
    assert str(cadence) == text
    assert Cadence.parse(f" {cadence}\n") == cadence
    assert Cadence.parse(cadence) is cadence


def test_steps():
    due = [step for step in range(1, 1_001) if Cadence(200, "st").due(step, epochs=2.0, seconds_since=0.0)]
    assert due == [200, 400, 600, 800, 1_000]


def test_epochs():
    due = [step for step in range(1, 200) if Cadence(2, "ep").due(step, epochs=step / 42, seconds_since=1e9)]
    assert due == [84, 168]


def test_epochs_of_different_lengths():
    """Two epochs of 10 steps, then epochs of 3: an epoch ends after 10, 20, 23, 26, 29 ... steps."""
    epochs = {step: step / 10 if step <= 20 else 2 + (step - 20) / 3 for step in range(1, 33)}
    assert [step for step, passed in epochs.items() if Cadence(1, "ep").due(step, passed, 0.0)] == [10, 20, 23, 26, 29, 32]
    assert [step for step, passed in epochs.items() if Cadence(3, "ep").due(step, passed, 0.0)] == [23, 32]


def test_seconds_whatever_the_step():
    cadence = Cadence(60, "s")
    assert [cadence.due(7, 1.5, seconds) for seconds in (0.0, 59.99, 60.0, 61.0)] == [False, False, True, True]


@pytest.mark.parametrize("value", ["0s", "60", "60 s", "1.5ep", "-1st", "1h", "", "1234567890s", 60, None, True])
def test_what_is_no_cadence_is_refused(value):
    with pytest.raises(UsageError) as caught:
        Cadence.parse(value)
    assert (
        str(caught.value) == f"A cadence is a number of seconds, steps or epochs: 60s, 200st or 1ep; or auto. Got {value!r}."
    )


def saves_of(pace: Pace, cost: float, seconds: float, tick: float = 0.25) -> list[float]:
    """The times of the saves that a training makes which asks every tick; a save takes as long as it costs."""
    now, found = 0.0, []
    while now < seconds:
        if pace.due(now):
            found.append(now)
            now += cost
            pace.count(now, cost)
        now += tick
    return found


@pytest.mark.parametrize("cost", [0.001, 0.012, 0.4, 3.0])
def test_saving_takes_no_more_than_a_hundredth_of_the_time(cost):  # G9
    """At every save but the first, which comes after two seconds whatever it costs."""
    times = saves_of(Pace(), cost, 3_600.0)
    assert times[0] == 2.0
    for number, begun in enumerate(times[1:], start=2):
        assert number * cost <= 0.01 * begun + 1e-9
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert waits[0] <= max(200 * cost + 0.5, 1.5)
    assert max(waits[1:]) <= max(100 * cost + cost + 0.5, 1.5)
    assert min(waits) >= 1.0
    assert len(times) >= min(0.9 * 36 / cost, 2_000)


@pytest.mark.parametrize("cost", [7.0, 30.0])
def test_no_more_than_ten_minutes_are_lost_however_much_saving_costs(cost):  # G9
    times = saves_of(Pace(), cost, 7_200.0)
    assert all(600.0 <= b - a - cost <= 600.5 for a, b in itertools.pairwise(times))


def test_a_save_that_became_dearer_is_made_less_often():
    pace = Pace()
    assert len(saves_of(pace, 0.1, 105.0)) == 10
    pace.count(100.0, 5.0)
    assert pace.spent == pytest.approx(6.0)
    assert [pace.due(seconds) for seconds in (101.0, 699.0, 700.0)] == [False, False, True]


def test_automatic_is_a_cadence():
    assert Cadence.parse(" auto ") == Cadence(0, "auto") == Execution().checkpoint_every
