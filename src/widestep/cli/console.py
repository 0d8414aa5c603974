"""What a run says while it runs: a live table on a terminal, plain lines now and then in a log. Both say the same."""

import io
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TextIO

import torch
from rich.text import Text

import widestep
from widestep.cli.live_table import Field, ProgressTable, clock_time, plain_line
from widestep.cli.options import cautions
from widestep.cli.region import Region, is_live
from widestep.cli.ticking import AwakeClock, Ticker
from widestep.plan.plain import plain
from widestep.plan.runplan import RunPlan
from widestep.train.evaluate import Evaluation
from widestep.train.remaining import Remaining
from widestep.train.session import Session
from widestep.train.state import POLICIES
from widestep.train.watching import StepReport
from widestep.workers.world import World

_TICK_SECONDS = 0.25
_PATIENCE_SECONDS = 5.0
"""After which something is said even before the first screen, as while a large folder is listed."""
_PLAIN_SECONDS = 30.0
_MOST_LINES = 1_000
"""About, of a log; 90 epochs take less than 200 kB however long they last."""


@dataclass
class _Seen:
    """What the table and the lines show, besides times."""

    session: Session
    remaining: Remaining
    report: StepReport | None = None
    accuracy: float = -1.0
    """Of the newest evaluation in this session, and the best; negative before the first."""
    best: float = -1.0

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.report.step if self.report else self.session.members[0].state.tally.step


class ConsoleWatcher:
    """Writes a run's first screen and its progress to stderr."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._clock = AwakeClock()
        self._last = 0.0
        """When a line was written last, on that clock."""
        self._seen: _Seen | None = None
        self._seeing = threading.Lock()  # the trainer changes what the ticker's thread looks at
        self._region: Region | None = None
        self._ticker: Ticker | None = Ticker(self._show, _TICK_SECONDS)

    def started(self, session: Session) -> None:
        """Print the first screen."""
        first, self._clock = session.members[0], AwakeClock()
        for line in _first_screen(session):
            self._say(line)
            first.run.log(line)
        num_final = len(POLICIES) + 1 if session.execution.compare_batchnorm else 0
        tally, self._last = first.state.tally, self._clock.read()
        remaining = Remaining(
            session.plan,
            tally.step,
            session.source.facts.num_val,
            self._last,
            progress=tally.progress,
            num_final_evaluations=num_final,
        )
        if is_live(self._stream):
            self._region = Region(self._stream)
        self._seen = _Seen(session, remaining)

    def stepped(self, report: StepReport) -> None:
        """Take note of a step; the last one is always said."""
        if self._seen is not None:
            with self._seeing:
                self._seen.remaining.stepped(report.step, report.progress, self._clock.read())
                self._seen.report = report
            if report.step == report.plan.total_steps and self._region is None:
                self._say(plain_line(self._fields(self._seen, self._clock.read())))

    def evaluated(self, plan: RunPlan, step: int, evaluation: Evaluation) -> None:
        """Take note of the accuracy."""
        if self._seen is not None:
            with self._seeing:
                self._seen.remaining.evaluated(self._clock.read())
            self._seen.accuracy = evaluation.accuracy
            self._seen.best = max(self._seen.best, evaluation.accuracy)

    def noted(self, text: str) -> None:
        """Print a line that stays; on a terminal it scrolls above the table."""
        self._say(f"note       {text}")

    def close(self) -> None:
        """End the table."""
        if self._ticker is not None:
            self._ticker.close()
        if self._region is not None:
            self._region.close()
        self._ticker = self._region = None

    def _show(self) -> None:
        """Draw the table, or write a line if it is time to."""
        now = self._clock.read()
        if self._seen is None:
            if now - self._last >= (_PATIENCE_SECONDS if self._last == 0 else _PLAIN_SECONDS):
                self._last = now
                self._say(f"starting   opening the data and building the model, since {now:.0f} s")
        elif self._region is not None:
            share = self._seen.step / self._seen.session.plan.total_steps
            self._region.draw(ProgressTable(share, self._fields(self._seen, now), [_processes(self._seen.session.world)]))
        elif now - self._last >= self._spacing(now, self._left(self._seen, now)):
            self._last = now
            self._say(plain_line(self._fields(self._seen, now)))

    def _left(self, seen: _Seen, now: float) -> float | None:
        with self._seeing:
            return seen.remaining.seconds(now)

    def _spacing(self, now: float, left: float | None) -> float:
        """Return the seconds between two lines: longer in runs that last days."""
        return max(_PLAIN_SECONDS, (now + (left or 0.0)) / _MOST_LINES, 5 * now / _MOST_LINES)

    def _fields(self, seen: _Seen, now: float) -> list[Field]:
        """Return what there is to say."""
        plan, report = seen.session.plan, seen.report
        epoch, step = f"{plan.epochs_after(seen.step):.1f}/{plan.num_epochs}", f"{seen.step:,}/{plan.total_steps:,}"
        fields = [Field("epoch", epoch, f"ep {epoch}"), Field("step", step, f"step {step}")]
        if report is not None:
            loss, rate, speed = f"{report.loss:.4f}", f"{report.lr:.4g}", f"{report.images_per_second:,.0f}"
            fields += [Field("loss", loss, f"loss {loss}"), Field("rate", rate, f"lr {rate}")]
        if seen.accuracy >= 0:
            accuracy = f"{100 * seen.accuracy:.2f}%"
            fields += [Field("accuracy", accuracy, f"val {accuracy}"), Field("best", f"{100 * seen.best:.2f}%")]
        if report is not None:
            waiting = f"{100 * report.data_share:.0f}%"
            fields += [Field("images/s", speed, f"{speed} img/s"), Field("waiting for data", waiting, f"data {waiting}")]
        elapsed, left = clock_time(now), clock_time(self._left(seen, now))
        fields += [Field("elapsed", elapsed, f"elapsed {elapsed}"), Field("left", left, f"eta {left}")]
        return fields

    def _say(self, line: str) -> None:
        """Print a line; when nobody reads any more, as in `widestep train 2>&1 | head`, training goes on without."""
        try:
            self._stream.write(plain(line) + "\n")  # in one piece: two threads do
            self._stream.flush()
        except OSError:
            self._stream = io.StringIO()


def _first_screen(session: Session) -> list[str]:
    """Return what is said before the first step: what is trained, on what, and where it goes."""
    recipe, facts = session.plan.recipe, session.source.facts
    first = session.members[0]
    step = first.state.tally.step
    resumed = [f"resumed    at step {step:,} of {session.plan.total_steps:,}"]
    if session.world.launch.is_ours and session.world.launch.attempt:
        return resumed  # the rest stands above
    lines = [
        f"widestep   {widestep.__version__}, torch {torch.__version__}, recipe {recipe.fingerprint}, seed {recipe.seed}",
        f"devices    {session.world.num_processes} process(es) on {session.device}, {recipe.threads} thread(s) each",
        f"data       {facts.name}: {facts.num_train:,} training and {facts.num_val:,} validation images, "
        f"{facts.num_classes} classes, {facts.fingerprint[:12]}",
        f"model      {recipe.model}, {session.engine.num_gradients:,} parameters",
        *session.plan.describe(),
        f"files      {first.run.directory}" + (f" and {len(session.members) - 1} more" if session.members[1:] else ""),
    ]
    num_blocks = session.batches.placement(step).num_blocks
    if session.world.num_processes > num_blocks:
        number = session.world.num_processes
        lines.append(f"warning    {number} processes for {num_blocks} block(s) of workers: some have nothing to do")
    lines += [f"warning    {line}" for line in cautions(recipe, facts.num_train)]
    return lines + (resumed if step else [])


def _processes(world: World) -> Text:
    """Say how many processes there are and what they do at this moment, as far as it is known."""
    doing = Counter(world.pulse.phases())
    if world.num_processes == 1:
        return Text(*doing)
    known = ", ".join(f"{number} {phase}" for phase, number in sorted(doing.items()))
    return Text(f"{world.num_processes} processes: {known}")


class SilentWatcher:
    """Says nothing."""

    def started(self, session: Session) -> None:
        """Ignore."""

    def stepped(self, report: StepReport) -> None:
        """Ignore."""

    def evaluated(self, plan: RunPlan, step: int, evaluation: Evaluation) -> None:
        """Ignore."""

    def noted(self, text: str) -> None:
        """Ignore."""
