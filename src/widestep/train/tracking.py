"""Sends a run's numbers to a tracking service from a thread of its own, so that a slow or failing one costs nothing.

The service sees every step once. The run's directory remembers under which id the service knows the run and up to which step
it was told; after a kill training repeats some steps, with the same numbers, and those that were told are not told again.
What was on its way at the moment of a kill is missing, never double.
"""

import contextlib
import json
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Protocol

from widestep.errors import StoreError
from widestep.records.reading import read_record

_SECONDS_BETWEEN = 0.5
_MOST_TOGETHER = 50
"""Points that are on their way at a time, and so the most that a kill can lose."""
_MOST_WAITING = 200_000
_PATIENCE = 10.0
"""Seconds that a run waits at its end for what is on its way."""


@dataclass(frozen=True)
class Point:
    """Numbers after so many steps: of the step itself, or of an evaluation."""

    step: int
    values: dict[str, float]
    is_evaluation: bool


class Service(Protocol):
    """A tracking service; all of it is called from one thread, and may raise what it likes."""

    def begin(self, known_as: str | None) -> str:
        """Begin a run, or go on with the one that the service knows by an id; returns the id."""

    def send(self, points: Sequence[Point]) -> None:
        """Hand numbers over."""

    def end(self, status: str) -> None:
        """End: `complete`, `diverged` or `stopped`."""


class Tracker:
    """Tells one service how a run trains: see `Logger`.

    Parameters
    ----------
    name
        Of the service.
    directory
        Of the run; NAME.json in its folder `tracking` remembers what was told.
    """

    def __init__(self, name: str, service: Service, directory: Path) -> None:
        self.problem: str | None = None
        self._name, self._service = name, service
        self._path = directory / "tracking" / f"{name}.json"
        self._waiting: queue.Queue[Point | str] = queue.Queue()
        self._ended = False
        self._thread = Thread(target=self._work, name=f"widestep-{name}", daemon=True)
        self._thread.start()

    def step(self, step: int, lr: float, loss: float) -> None:
        """Take the numbers of a step."""
        self._put(Point(step, {"train/lr": lr, "train/loss": loss}, False))

    def epoch(self, step: int, accuracy: float, loss: float | None) -> None:
        """Take the numbers of an evaluation."""
        values = {"validation/accuracy": accuracy} | ({} if loss is None else {"validation/loss": loss})
        self._put(Point(step, values, True))

    def flush(self) -> None:
        """Do nothing: what is on its way when a process is killed is missing."""

    def finish(self, status: str) -> None:
        """Send what waits and end; give up after a while."""
        if self._ended:
            return
        self._ended = True
        self._waiting.put(status)
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._fail(f"it did not take everything within {_PATIENCE:g} s")

    def _put(self, point: Point) -> None:
        if self._waiting.qsize() >= _MOST_WAITING:
            self._fail("it takes the numbers too slowly")
        if self.problem is None:
            self._waiting.put(point)

    def _fail(self, why: str) -> None:
        self.problem = self.problem or f"nothing more is sent to {self._name}: {why}"

    def _work(self) -> None:
        try:
            told = _Told.read(self._path)
            told.known_as = self._service.begin(told.known_as)
            told.write(self._path)
            status = None
            while status is None and self.problem is None:
                points, status = self._collected()
                points = [point for point in points if told.takes(point)]
                if points:
                    told.write(self._path)  # before: what is lost on its way is missing, not double
                    self._service.send(points)
            if status is not None:
                self._service.end(status)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a service does, training goes on
            words = " ".join(str(error).split()) or type(error).__name__
            self._fail(words[:300])

    def _collected(self) -> tuple[list[Point], str | None]:
        """Wait for numbers and return those of a while together, with the status when it is the end."""
        points: list[Point] = []
        until = time.monotonic() + _SECONDS_BETWEEN
        while len(points) < _MOST_TOGETHER:
            try:
                item = self._waiting.get(timeout=max(0.0, until - time.monotonic()) if points else None)
            except queue.Empty:
                break
            if isinstance(item, str):
                return points, item
            points.append(item)
        return points, None


@dataclass
class _Told:
    """What the service knows: the run's id there, and the last step and evaluation it was told."""

    known_as: str | None = None
    step: int = 0
    evaluation: int = 0

    @classmethod
    def read(cls, path: Path) -> "_Told":
        """Read what is remembered; what is damaged begins anew, under another id."""
        with contextlib.suppress(StoreError, TypeError):
            found = cls(**(read_record(path, "what a tracking service was told") or {}))
            if isinstance(found.known_as, str) and isinstance(found.step, int) and isinstance(found.evaluation, int):
                return found
        return cls()

    def takes(self, point: Point) -> bool:
        """Say whether a point comes after all that was told, and take note of it."""
        if point.step <= (self.evaluation if point.is_evaluation else self.step):
            return False
        if point.is_evaluation:
            self.evaluation = point.step
        else:
            self.step = point.step
        return True

    def write(self, path: Path) -> None:
        """Remember, atomically; a power cut may undo it."""
        path.parent.mkdir(exist_ok=True)
        beside = path.with_name(f".{path.name}.tmp")
        beside.write_text(json.dumps(vars(self)) + "\n", encoding="utf-8")
        beside.replace(path)
