"""What a run says in a log: a first screen, then a plain line at most every 30 seconds, and no control characters."""

import io
from types import SimpleNamespace

import pytest

from widestep.cli import console
from widestep.cli.console import ConsoleWatcher
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.train.evaluate import Evaluation
from widestep.train.loop import StepReport
from widestep.workers.launched import Launch

PLAN = RunPlan(Recipe(), 960)  # 36 epochs of 30 steps


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=500.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: now.seconds)
    return now


@pytest.fixture
def session():
    """What the console looks at of a session."""
    written = []
    member = SimpleNamespace(
        run=SimpleNamespace(directory="runs/one", log=written.append),
        state=SimpleNamespace(tally=SimpleNamespace(step=0)),
    )
    return SimpleNamespace(
        plan=PLAN,
        members=[member, member],
        source=SimpleNamespace(
            facts=SimpleNamespace(name="digits", num_train=960, num_val=837, num_classes=10, fingerprint="0123456789abcdef")
        ),
        world=SimpleNamespace(num_processes=2, launch=Launch("torchrun", num_processes=2)),
        device="cpu",
        engine=SimpleNamespace(num_gradients=5122),
        batches=SimpleNamespace(placement=lambda step: SimpleNamespace(num_blocks=4)),
        written=written,
    )


def test_the_first_screen(session, clock):
    stream = io.StringIO()
    ConsoleWatcher(stream).started(session)
    lines = stream.getvalue().splitlines()
    assert session.written == lines
    assert len(lines) <= 24
    text = "\n".join(lines)
    for words in (
        PLAN.recipe.fingerprint,
        "2 process(es) on cpu, 1 thread(s) each",
        "digits: 960 training and 837 validation images, 10 classes, 0123456789ab",
        "digits-resnet, 5,122 parameters",
        "4 x 8 images = 32 a step",
        "36 = 1,080 steps, 30 an epoch; tail drop: none left over",
        "-> 0.18",
        "60 steps = 2 epochs",
        "batch-norm",
        "runs/one and 1 more",
    ):
        assert words in text
    assert "resumed" not in text
    assert "warning" not in text


def test_a_first_screen_that_has_more_to_say(session, clock):
    session.members[0].state.tally.step = 540
    session.world.num_processes = 5
    stream = io.StringIO()
    ConsoleWatcher(stream).started(session)
    assert "resumed    at step 540 of 1,080" in stream.getvalue()
    assert "warning    5 processes for 4 block(s) of workers: some have nothing to do" in stream.getvalue()


def test_a_log_has_a_line_every_thirty_seconds(session, clock):
    """A step every 2 seconds, to step 540 of 1,080 in 18 minutes."""
    stream = io.StringIO()
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    num_first = len(stream.getvalue().splitlines())
    watcher.evaluated(PLAN, 30, Evaluation(800, 837, 0.1, 800 / 837))
    for step in range(1, 541):
        clock.seconds += 2.0
        watcher.stepped(StepReport(PLAN, step, 0.25, 0.18, 16.0, 0.04))
    watcher.close()
    lines = stream.getvalue().splitlines()[num_first:]
    assert len(lines) == 540 * 2 / 30
    assert (
        lines[-1] == "ep 18.0/36 step 540/1,080 loss 0.2500 lr 0.18 val 95.58% 16 img/s data 4% elapsed 0:18:00 eta 0:18:00"
    )
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_the_last_step_is_always_said(session, clock):
    stream = io.StringIO()
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    clock.seconds += 3661.0
    watcher.stepped(StepReport(PLAN, 1079, 0.25, 0.18, 16.0, 0.04))
    clock.seconds += 1.0
    watcher.stepped(StepReport(PLAN, 1080, 0.125, 0.00018, 16.0, 0.04))
    last = stream.getvalue().splitlines()[-1]
    assert last == "ep 36.0/36 step 1,080/1,080 loss 0.1250 lr 0.00018 16 img/s data 4% elapsed 1:01:02 eta 0:00:00"


def test_a_run_that_goes_on_counts_from_where_it_was(session, clock):
    session.members[0].state.tally.step = 540
    stream = io.StringIO()
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    clock.seconds += 30.0
    watcher.stepped(StepReport(PLAN, 600, 0.25, 0.18, 16.0, 0.04))
    assert stream.getvalue().splitlines()[-1].endswith("elapsed 0:00:30 eta 0:04:00")  # 60 steps took 30 s, 480 are left


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_line_that_goes_away(session, clock):
    stream = Terminal()
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    before = stream.getvalue()
    for step in range(1, 50):
        clock.seconds += 1.0
        watcher.stepped(StepReport(PLAN, step, 0.25, 0.18, 16.0, 0.04))
    watcher.close()
    watcher.close()
    assert "step 49/1,080" in stream.getvalue()
    assert stream.getvalue()[len(before) :].count("\n") <= 2


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_notes_stay(session, clock, stream):
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    watcher.noted("few steps: statistics were computed anew")
    watcher.close()
    (line,) = [line for line in stream.getvalue().splitlines() if "computed anew" in line]
    assert line.strip().endswith("note       few steps: statistics were computed anew")


def test_unusual_values_and_idle_fields_are_told_at_the_start(session, clock):
    session.plan = RunPlan(Recipe(warmup="40ep", decay_power=3.0), 960)
    stream = io.StringIO()
    ConsoleWatcher(stream).started(session)
    told = [line for line in stream.getvalue().splitlines() if line.startswith("warning ")]
    assert any("warmup" in line for line in told)
    assert any(line.startswith("warning    decay_power has no effect") for line in told)


def test_started_again_it_says_where_it_goes_on_and_nothing_else(session, capsys):
    session.world.launch = Launch("widestep", num_processes=2, attempt=1)
    ConsoleWatcher().started(session)
    assert capsys.readouterr().err == "resumed    at step 0 of 1,080\n"
