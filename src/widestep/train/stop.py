"""Stopping early: signals set a flag, and the step's reduction carries it to all processes."""

import signal
from types import FrameType

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Remembers the first signal that asks this process to stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def install(self) -> None:
        """Handle the signals of people, schedulers and launchers (main thread only)."""
        for number in HANDLED:
            signal.signal(number, self._latch)

    def _latch(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def requested(self) -> bool:
        """Say whether a stop was asked for."""
        return self.signal is not None
