"""What a study says while it runs: a live table on a terminal, plain lines now and then elsewhere. Both say the same."""

import sys
from collections import defaultdict
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from widestep.cli.live_table import Field, ProgressTable, clock_time, plain_line
from widestep.cli.region import Region, is_live
from widestep.cli.ticking import AwakeClock
from widestep.plan.plain import plain
from widestep.study.crew import ProgressMeter
from widestep.study.remaining import StudyRemaining
from widestep.study.study import Trial, in_words
from widestep.study.work import stacks

_LIVE_SECONDS = 1.0
_PLAIN_SECONDS = 30.0
_LOOK_SECONDS = 3.0
"""Between two looks at the trials, from which their speed is learnt, where nothing is drawn."""
_MOST_LINES = 1_000
_MOST_FAILURES = 3


class ProgressView:
    """Shows how far a study is.

    Parameters
    ----------
    meter
        Reads the trials.
    num_slots
        Stacks of trials that are computed side by side here.
    predicted
        Seconds that the study was predicted to take; None for no prediction.
    """

    def __init__(self, meter: ProgressMeter, num_slots: int, predicted: float | None) -> None:
        self._meter = meter
        self._num_slots = num_slots
        self._clock = AwakeClock()
        self._said = 0.0
        self._progress = meter.read()
        self._looked = 0.0
        self._told = {state.trial.fingerprint for state in self._progress.states if state.status == "failed"}
        to_run = [state.trial.fingerprint for state in self._progress.states if not state.finished]
        self._remaining = StudyRemaining(meter.plans, num_slots, predicted, to_run)
        self._region = Region(sys.stderr) if is_live(sys.stderr) else None

    def show(self) -> None:
        """Look at the trials and show the progress, if it is time to."""
        now = self._clock.read()
        if now - self._looked < (_LIVE_SECONDS if self._region else _LOOK_SECONDS):
            return
        self._look()
        if self._region is not None:
            self._region.draw(ProgressTable(self._progress.share, self._fields(now), self._below(now)))
        elif now - self._said >= max(_PLAIN_SECONDS, 5 * now / _MOST_LINES):
            self._said = now
            say(self._line(now))

    def close(self) -> None:
        """End the table and say where the study stands."""
        self._look()
        if self._region is not None:
            self._region.close()
        say(self._line(self._clock.read()))

    def _look(self) -> None:
        self._looked = self._clock.read()
        self._progress = self._meter.read()
        finished = [state.trial.fingerprint for state in self._progress.states if state.finished]
        self._remaining.observe(self._progress.shares, finished, self._looked)
        for state in self._progress.states:
            if state.status == "failed" and state.trial.fingerprint not in self._told:
                self._told.add(state.trial.fingerprint)
                say(f"failed     {name_of(state.trial)} seed {state.trial.seed}: {state.reason}")

    def _left(self, now: float) -> float | None:
        free = [state.trial for state in self._progress.states if state.runnable]
        return self._remaining.seconds(stacks([*free, *self._progress.coming], self._meter.store), now)

    def _fields(self, now: float) -> list[Field]:
        progress = self._progress
        done = f"{progress.num_finished}/{progress.num_trials}"
        share, elapsed, left = f"{100 * progress.share:.0f} %", clock_time(now), clock_time(self._left(now))
        num_waiting = progress.num_trials - progress.num_finished - progress.num_running - progress.num_failed
        fields = [
            Field("trials done", done, f"progress   {done} trials,"),
            Field("running", str(progress.num_running), f"{progress.num_running} running,"),
            Field("waiting", str(num_waiting), f"{num_waiting} waiting," if num_waiting else ""),
        ]
        if progress.num_failed:
            fields.append(Field("failed", str(progress.num_failed), f"{progress.num_failed} failed,"))
        return [
            *fields,
            Field("slots", str(self._num_slots), f"{share},"),
            Field("elapsed", elapsed, f"elapsed {elapsed}"),
            Field("left", left, f"eta {left}"),
        ]

    def _line(self, now: float) -> str:
        return plain_line(self._fields(now))

    def _below(self, now: float) -> list[RenderableType]:
        """Return a table of the trials that run, those of one cell in one row, and the newest failures."""
        cells: defaultdict[str, list[Trial]] = defaultdict(list)
        for state in self._progress.states:
            if state.trial.fingerprint in self._progress.shares:
                cells[name_of(state.trial)].append(state.trial)
        table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim")
        table.add_column("arm and cell", no_wrap=True, overflow="ellipsis", ratio=3)
        table.add_column("seeds", no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column("epoch", justify="right", no_wrap=True)
        table.add_column("left", justify="right", no_wrap=True)
        for name, trials in cells.items():
            last = min(trials, key=lambda trial: self._progress.shares[trial.fingerprint]).fingerprint
            num_epochs = self._meter.plans[last].num_epochs
            epoch = f"{self._progress.shares[last] * num_epochs:.0f}/{num_epochs}"
            left = clock_time(self._remaining.of_trial(last, now))
            table.add_row(Text(plain(name)), Text(_seeds(trials)), epoch, left)
        failures = [state for state in self._progress.states if state.status == "failed"][-_MOST_FAILURES:]
        lines = [
            Text(plain(f"failed {name_of(state.trial)} seed {state.trial.seed}: {state.reason}"), style="red", no_wrap=True)
            for state in failures
        ]
        return [table, *lines] if cells else [*lines]


def name_of(trial: Trial) -> str:
    """Return the arm and the settings of a trial in words."""
    return f"{trial.arm} {in_words(trial.settings)}".strip()


def _seeds(trials: Sequence[Trial]) -> str:
    """Return seeds in few letters.

    Examples
    --------
    Whole ranges are told by their ends: ``3, 7-9``.
    """
    ranges: list[tuple[int, int]] = []
    for seed in sorted(trial.seed for trial in trials):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1] = ranges[-1][0], seed
        else:
            ranges.append((seed, seed))
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in ranges)


def duration(seconds: float | None) -> str:
    """Return a time in minutes or hours."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole / 3600:,.1f} h"


def say(line: str) -> None:
    """Print a line to stderr."""
    sys.stderr.write(plain(line) + "\n")
    sys.stderr.flush()
