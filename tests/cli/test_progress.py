"""What a study says while it waits: plain lines in a log, each failure once, and the numbers of the table."""

import pytest

from widestep.cli import progress, ticking
from widestep.cli.progress import ProgressView
from widestep.study.crew import ProgressMeter
from widestep.study.estimate import plans
from widestep.study.store import StudyStore
from widestep.study.study import parse


class Clock:
    """Time that passes when the test says so; the crew asks four times a second."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(ticking.time, "monotonic", lambda: self.now)

    def passes(self, seconds, view):
        for _ in range(int(4 * seconds)):
            self.now += 0.25
            view.show()


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def store(empty, tiny, say):
    """Two stacks of two trials of 15 epochs."""
    return StudyStore.create(empty / "small", parse(tiny.read_text()))


def epochs_of(store, trial, number):
    (store.path(trial) / "epochs.csv").write_text("a row\n" * (1 + number))


@pytest.fixture
def view(store, clock):
    return ProgressView(ProgressMeter(store, plans(store.trials)), 1, None)


def test_a_log_has_a_line_every_thirty_seconds(store, fake, clock, view, capsys):
    """A stack that takes 10 s an epoch, after 10 s to start; the other one waits for the only slot."""
    both = [trial for trial in store.trials if trial.arm == "short"]
    for trial in both:
        fake.begin(store.run(trial))
    store.claim(both)
    capsys.readouterr()
    clock.passes(10, view)
    for number in range(1, 12):
        clock.passes(10, view)
        for trial in both:
            epochs_of(store, trial, number)
    clock.passes(5, view)
    said = capsys.readouterr()
    assert said.out == ""
    assert "\r" not in said.err
    assert "\x1b" not in said.err
    lines = said.err.splitlines()
    assert len(lines) == 4
    begun = "progress   0/4 trials, 2 running, 2 waiting,"
    assert lines[0].startswith(f"{begun} 3 %, elapsed 0:00:30 eta 0:0")
    # 10 epochs and 10 s are over: 50 s are left of this stack, and 160 s of the other that starts after it
    words, _, left = lines[-1].rpartition(" eta ")
    assert words == f"{begun} 33 %, elapsed 0:02:00"
    minutes, seconds = map(int, left.split(":")[1:])
    assert 60 * minutes + seconds == pytest.approx(50 + 160, abs=12)


def test_a_failure_is_said_once_with_its_reason(store, clock, view, capsys):
    trial = store.trials[0]
    store.fail(trial, "An image must decode. It does not.\x1b[31m")
    clock.passes(40, view)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("failed ")] == [
        f"failed     {trial.arm} seed {trial.seed}: An image must decode. It does not. [31m"
    ]
    assert lines[-1] == "progress   0/4 trials, 0 running, 3 waiting, 1 failed, 0 %, elapsed 0:00:30 eta unknown"


def test_failures_from_before_are_not_said_again(store, clock, capsys):
    store.fail(store.trials[0], "broke down")
    view = ProgressView(ProgressMeter(store, plans(store.trials)), 2, None)
    clock.passes(20, view)
    view.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("progress   0/4 trials, 0 running, 3 waiting, 1 failed, 0 %, elapsed 0:00:20 eta ")


def test_a_prediction_counts_until_something_is_seen(store, clock, capsys):
    view = ProgressView(ProgressMeter(store, plans(store.trials)), 2, 600.0)
    view.close()
    assert capsys.readouterr().err.endswith("elapsed 0:00:00 eta 0:10:00\n")  # both stacks at once, on two slots


def test_the_log_of_a_week_is_small(store, fake, clock, view, capsys):
    """A look every 4 s for seven days; two trials run on."""
    for trial in store.trials[:2]:
        fake.begin(store.run(trial))
    store.claim(store.trials[:2])
    view._look = lambda: None  # reading directories 150,000 times takes a while
    for _ in range(7 * 24 * 900):
        clock.now += 4.0
        view.show()
    assert 100 < len(capsys.readouterr().err.splitlines()) < 2_000


@pytest.mark.parametrize(("seeds", "words"), [([3], "3"), ([0, 1, 2], "0-2"), ([9, 3, 7, 8, 20, 21], "3, 7-9, 20-21")])
def test_seeds_in_few_letters(store, seeds, words):
    class Seeded:
        def __init__(self, seed):
            self.seed = seed

    assert progress._seeds([Seeded(seed) for seed in seeds]) == words
