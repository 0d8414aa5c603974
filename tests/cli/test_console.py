"""What a run says: a first screen, then a plain line at most every 30 seconds, or a table where there is a terminal."""

import io
from types import SimpleNamespace

import pytest

from widestep.cli import console, ticking
from widestep.cli.console import ConsoleWatcher
from widestep.plan.execution import Execution
from widestep.plan.grid import WorkerGrid
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.train.evaluate import Evaluation
from widestep.train.watching import StepReport
from widestep.workers.launched import Launch
from widestep.workers.pulse import Pulse

PLAN = RunPlan(Recipe(), 960)  # 36 epochs of 30 steps


class Clock:
    """Time that passes when the test says so, and what is called now and then meanwhile."""

    def __init__(self):
        self.seconds = 500.0
        self.calls = []

    def ticker(self, call, seconds):
        self.calls.append(call)
        return SimpleNamespace(close=self.calls.clear)

    def passes(self, seconds):
        end = self.seconds + seconds
        while self.seconds < end:
            self.seconds = min(end, self.seconds + 1.0)
            for call in self.calls:
                call()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(ticking.time, "monotonic", lambda: clock.seconds)
    monkeypatch.setattr(console, "Ticker", clock.ticker)
    return clock


@pytest.fixture
def session():
    """What the console looks at of a session."""
    written = []
    member = SimpleNamespace(
        run=SimpleNamespace(directory="runs/one", log=written.append),
        state=SimpleNamespace(tally=SimpleNamespace(step=0, progress=0.0)),
    )
    return SimpleNamespace(
        plan=PLAN,
        members=[member, member],
        source=SimpleNamespace(
            facts=SimpleNamespace(name="digits", num_train=960, num_val=837, num_classes=10, fingerprint="0123456789abcdef")
        ),
        world=SimpleNamespace(num_processes=2, launch=Launch("torchrun", num_processes=2), pulse=Pulse()),
        execution=Execution(),
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


def report(step, loss=0.25, lr=0.18, plan=PLAN):
    return StepReport(plan, step, loss, lr, 16.0, 0.04, float(step))


def test_a_log_has_a_line_every_thirty_seconds(session, clock):
    """A step every 2 seconds, to step 540 of 1,080 in 18 minutes, and evaluations that take no time."""
    stream = io.StringIO()
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    num_first = len(stream.getvalue().splitlines())
    for step in range(1, 541):
        clock.passes(2.0)
        watcher.stepped(report(step))
        if PLAN.evaluation_due(step):
            watcher.evaluated(PLAN, step, Evaluation(800, 837, 0.1, 800 / 837))
    clock.passes(1.0)  # the line is due when something is said next
    watcher.close()
    lines = stream.getvalue().splitlines()[num_first:]
    assert len(lines) == 540 * 2 / 30
    # 541 steps of 2 s are left but for the 2 s that have passed since the last one ended
    expected = "ep 18.0/36 step 539/1,080 loss 0.2500 lr 0.18 val 95.58% 16 img/s data 4% elapsed 0:18:00 eta 0:18:00"
    assert lines[-1] == expected
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("seconds_a_step", [0.5, 25.0, 150.0])
def test_the_log_of_ninety_epochs_is_small_whatever_the_speed(session, clock, seconds_a_step):
    """Less than 200 kB: in half an hour, a day, or five days."""
    session.plan = plan = RunPlan(Recipe(grid=WorkerGrid.parse("40x1x8"), epochs="90ep"), 10_240)
    stream = io.StringIO()
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    for step in range(1, plan.total_steps + 1):
        for _ in range(max(1, int(seconds_a_step / 4))):
            clock.seconds += min(4.0, seconds_a_step)
            for call in clock.calls:
                call()
        watcher.stepped(report(step, plan=plan))
        if plan.evaluation_due(step):
            watcher.evaluated(plan, step, Evaluation(800, 837, 0.1, 800 / 837))
    lines = stream.getvalue().splitlines()
    assert lines[-1].startswith("ep 90.0/90 step 2,880/2,880 ")
    assert len(lines) > 40
    assert len(stream.getvalue()) < 200_000


def test_something_is_said_while_nothing_ends(session, clock):
    """A first step of two minutes, as when kernels are compiled, and a long evaluation."""
    stream = io.StringIO()
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    num_first = len(stream.getvalue().splitlines())
    clock.passes(119.0)
    lines = stream.getvalue().splitlines()[num_first:]
    assert lines == [
        f"ep 0.0/36 step 0/1,080 elapsed 0:{number // 2:02}:{30 * number % 60:02} eta unknown" for number in (1, 2, 3)
    ]


def test_something_is_said_before_the_first_screen(clock):
    stream = io.StringIO()
    ConsoleWatcher(stream)
    clock.passes(50.0)
    said = "starting   opening the data and building the model, since"
    assert stream.getvalue().splitlines() == [f"{said} 5 s", f"{said} 35 s"]


def test_the_last_step_is_always_said(session, clock):
    stream = io.StringIO()
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    clock.passes(3661.0)
    watcher.stepped(report(1079))
    watcher.evaluated(PLAN, 1079, Evaluation(800, 837, 0.1, 800 / 837))
    clock.passes(1.0)
    watcher.stepped(report(1080, 0.125, 0.00018))
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith(
        "ep 36.0/36 step 1,080/1,080 loss 0.1250 lr 0.00018 val 95.58% 16 img/s data 4% elapsed 1:01:02 eta "
    )


def test_a_run_that_goes_on_counts_from_where_it_was(session, clock):
    session.members[0].state.tally = SimpleNamespace(step=540, progress=540.0)
    stream = io.StringIO()
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    for step in range(541, 601):
        clock.passes(0.5)
        watcher.stepped(report(step))
        if PLAN.evaluation_due(step):
            watcher.evaluated(PLAN, step, Evaluation(800, 837, 0.1, 800 / 837))
    assert (
        stream.getvalue().splitlines()[-1].endswith("val 95.58% 16 img/s data 4% elapsed 0:00:30 eta 0:04:00")
    )  # 480 are left


def test_a_minute_in_which_the_process_was_stopped_does_not_count(session, clock):
    stream = io.StringIO()
    watcher = ConsoleWatcher(stream)
    watcher.started(session)
    for step in range(1, 541):
        clock.passes(1.0)
        if step == 500:
            clock.seconds += 3600.0
        watcher.stepped(report(step))
        if PLAN.evaluation_due(step):
            watcher.evaluated(PLAN, step, Evaluation(800, 837, 0.1, 800 / 837))
    assert stream.getvalue().splitlines()[-1].endswith("elapsed 0:09:00 eta 0:09:00")


class Terminal(io.StringIO):
    """A terminal for everything but its size, so that no table is drawn on it."""

    def isatty(self):
        return True


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


def test_started_again_it_says_where_it_goes_on_and_nothing_else(session, clock, capsys):
    session.world.launch = Launch("widestep", num_processes=2, attempt=1)
    ConsoleWatcher().started(session)
    assert capsys.readouterr().err == "resumed    at step 0 of 1,080\n"
