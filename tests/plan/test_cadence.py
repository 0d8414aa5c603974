import pytest

from widestep.errors import UsageError
from widestep.plan.cadence import Cadence


@pytest.mark.parametrize("text", ["60s", "200st", "1ep"])
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
    assert str(caught.value) == f"A cadence is a number of seconds, steps or epochs: 60s, 200st or 1ep. Got {value!r}."
