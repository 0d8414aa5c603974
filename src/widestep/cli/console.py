"""What a run says while it runs: one live line on a terminal, a plain line at most every 30 s in a log."""

import io
import sys
import time
from typing import TextIO

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

import widestep
from widestep.cli.options import cautions
from widestep.plan.plain import plain
from widestep.plan.runplan import RunPlan
from widestep.train.evaluate import Evaluation
from widestep.train.loop import StepReport
from widestep.train.session import Session

_PLAIN_SECONDS = 30.0
_LIVE_SECONDS = 0.2


class ConsoleWatcher:
    """Writes a run's first screen and its progress to stderr."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live: Live | None = None
        self._began = self._last = 0.0
        self._first_step = 0
        self._accuracy = ""

    def started(self, session: Session) -> None:
        """Print the first screen."""
        recipe, facts = session.plan.recipe, session.source.facts
        first = session.members[0]
        self._first_step = first.state.tally.step
        lines = [
            f"widestep   {widestep.__version__}, torch {torch.__version__}, recipe {recipe.fingerprint}, seed {recipe.seed}",
            f"devices    {session.world.num_processes} process(es) on {session.device}, {recipe.threads} thread(s) each",
            f"data       {facts.name}: {facts.num_train:,} training and {facts.num_val:,} validation images, "
            f"{facts.num_classes} classes, {facts.fingerprint[:12]}",
            f"model      {recipe.model}, {session.engine.num_gradients:,} parameters",
            *session.plan.describe(),
            f"files      {first.run.directory}" + (f" and {len(session.members) - 1} more" if session.members[1:] else ""),
        ]
        num_blocks = session.batches.placement(self._first_step).num_blocks
        if session.world.num_processes > num_blocks:
            lines.append(
                f"warning    {session.world.num_processes} processes for {num_blocks} block(s) of "
                "workers: some have nothing to do"
            )
        lines += [f"warning    {line}" for line in cautions(recipe, facts.num_train)]
        if session.world.launch.is_ours and session.world.launch.attempt:
            lines = []  # they stand above
        if self._first_step or not lines:
            lines.append(f"resumed    at step {self._first_step:,} of {session.plan.total_steps:,}")
        for line in lines:
            self._say(line)
            first.run.log(line)
        self._began = self._last = time.monotonic()
        if self._stream.isatty():
            self._live = Live(console=Console(file=self._stream), transient=True, auto_refresh=False)
            self._live.start()

    def stepped(self, report: StepReport) -> None:
        """Show the step, if it is time to."""
        now = time.monotonic()
        finished = report.step == report.plan.total_steps
        if now - self._last < (_LIVE_SECONDS if self._live else _PLAIN_SECONDS) and not finished:
            return
        self._last = now
        elapsed = now - self._began
        remaining = elapsed / (report.step - self._first_step) * (report.plan.total_steps - report.step)
        line = (
            f"ep {report.plan.epochs_after(report.step):.1f}/{report.plan.num_epochs} step {report.step:,}/"
            f"{report.plan.total_steps:,} loss {report.loss:.4f} lr {report.lr:.4g}{self._accuracy} "
            f"{report.images_per_second:,.0f} img/s data {100 * report.data_share:.0f}% "
            f"{'' if self._live else f'elapsed {_clock(elapsed)} '}eta {_clock(remaining)}"
        )
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self._say(line)

    def _say(self, line: str) -> None:
        """Print a line; when nobody reads any more, as in `widestep train 2>&1 | head`, training goes on without."""
        try:
            print(plain(line), file=self._stream, flush=True)
        except OSError:
            self._stream = io.StringIO()

    def evaluated(self, plan: RunPlan, step: int, evaluation: Evaluation) -> None:
        """Remember the accuracy for the next line."""
        self._accuracy = f" val {100 * evaluation.accuracy:.2f}%"
        if self._live is not None and step == plan.total_steps:
            self.close()

    def noted(self, text: str) -> None:
        """Print a line that stays."""
        if self._live is not None:
            self._live.console.print(f"note       {text}", highlight=False)
        else:
            self._say(f"note       {text}")

    def close(self) -> None:
        """End the live line."""
        if self._live is not None:
            self._live.stop()
            self._live = None


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


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
