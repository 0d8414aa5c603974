"""Time as a watcher needs it: a thread that calls now and then, and a clock that stands while the process is stopped."""

import threading
import time
from collections.abc import Callable

_LONGEST_TICK = 5.0
"""Seconds; whoever is called several times a second and was not for longer was stopped, as by Ctrl-Z."""


class AwakeClock:
    """Seconds on the monotonic clock, without those in which the process was stopped. Whoever reads it must do so often.

    Examples
    --------
    >>> times = iter([100.0, 101.0, 161.0, 162.0])
    >>> clock = AwakeClock(lambda: next(times))
    >>> clock.read(), clock.read(), clock.read()
    (1.0, 1.0, 2.0)
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._now = now or time.monotonic
        self._last = self._now()
        self._awake = 0.0
        self._reading = threading.Lock()

    def read(self) -> float:
        """Return the seconds since the clock was made."""
        with self._reading:
            now = self._now()
            gap, self._last = now - self._last, now
            self._awake += gap if gap <= _LONGEST_TICK else 0.0
            return self._awake


class Ticker:
    """Calls a function every so many seconds, on a thread of its own, until it is closed."""

    def __init__(self, call: Callable[[], None], seconds: float) -> None:
        self._call = call
        self._seconds = seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(self._seconds):
            self._call()

    def close(self) -> None:
        """End the calls; one that is under way comes to its end."""
        self._closed.set()
        self._thread.join()
