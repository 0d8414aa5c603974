"""What a study says while it runs: one live line on a terminal, a plain line now and then elsewhere."""

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from widestep.plan.plain import plain
from widestep.study.crew import ProgressMeter, StudyProgress

_PLAIN_SECONDS = 15.0


class ProgressView:
    """One live line on a terminal, a plain line now and then elsewhere."""

    def __init__(self, meter: ProgressMeter) -> None:
        self._meter = meter
        self._began = self._last = time.monotonic()
        self._first = meter.read().share
        self._live: Live | None = None
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
            self._live.start()

    def show(self) -> None:
        """Show the progress, if it is time to."""
        now = time.monotonic()
        if self._live is None and now - self._last < _PLAIN_SECONDS:
            return
        self._last = now
        line = self._line(self._meter.read(), now - self._began)
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        else:
            say(line)

    def close(self) -> None:
        """End the live line and say where the study stands."""
        if self._live is not None:
            self._live.stop()
        say(self._line(self._meter.read(), time.monotonic() - self._began))

    def _line(self, progress: StudyProgress, elapsed: float) -> str:
        gained = progress.share - self._first
        left = elapsed / gained * (1 - progress.share) if gained > 0 else None
        failed = f", {progress.num_failed} failed" if progress.num_failed else ""
        return (
            f"progress   {progress.num_finished}/{progress.num_trials} trials, {progress.num_running} running{failed}, "
            f"{100 * progress.share:.0f} %, elapsed {duration(elapsed)}, left {duration(left)}"
        )


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
    print(plain(line), file=sys.stderr, flush=True)
