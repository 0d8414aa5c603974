"""TensorBoard events of a run, cut back where it resumes, so that they stay one strictly rising curve."""

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\.(.*)")
_HEADER, _FOOTER = 12, 4
"""Bytes around an event: its length (8, little endian) and a checksum of that (4); a checksum of the event."""


class Board:
    """Writes the curves of rate, loss and accuracy: see `Logger`.

    Parameters
    ----------
    directory
        Of the event files.
    first_step
        Steps taken so far: events of later ones, which an attempt before this one has left, are cut off.
    """

    def __init__(self, directory: Path, first_step: int) -> None:
        self._writer: Any = None
        self.problem: str | None = None
        with self._tolerant():
            from torch.utils.tensorboard.writer import SummaryWriter

            goes_on = _cut(directory, first_step)
            self._writer = SummaryWriter(str(directory), purge_step=first_step + 1 if goes_on else None)

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a full disk, a name that is not UTF-8, whatever the package does
            self._writer = None
            self.problem = f"no more TensorBoard events are written: {getattr(error, 'strerror', None) or error}"

    def step(self, step: int, lr: float, loss: float) -> None:
        """Add one step."""
        if self._writer is not None:
            with self._tolerant():
                self._writer.add_scalar("train/lr", lr, step)
                self._writer.add_scalar("train/loss", loss, step)

    def epoch(self, step: int, accuracy: float, loss: float | None) -> None:
        """Add one evaluation."""
        if self._writer is not None:
            with self._tolerant():
                self._writer.add_scalar("validation/accuracy", accuracy, step)
                if loss is not None:
                    self._writer.add_scalar("validation/loss", loss, step)

    def flush(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            with self._tolerant():
                self._writer.flush()

    def finish(self, status: str) -> None:
        """Flush and close."""
        if self._writer is not None:
            with self._tolerant():
                self._writer.close()
        self._writer = None


def _cut(directory: Path, last_step: int) -> bool:
    """Cut off events of later steps than `last_step`, and what a kill left unfinished; say whether there were files."""
    paths = _put_before(sorted(directory.glob("events.out.tfevents.*")), int(datetime.now(UTC).timestamp()))
    for path in paths:
        with path.open("r+b") as file:
            file.truncate(_length_up_to(file, last_step))
    return bool(paths)


def _put_before(paths: list[Path], now: int) -> list[Path]:
    """Rename files such that they sort before one that begins now: readers sort names, which count whole seconds only."""
    numbered = [(path, match) for path in paths if (match := _NAME.fullmatch(path.name))]
    seconds: list[int] = []
    for _, match in reversed(numbered):
        seconds.append(min(int(match[1]), (seconds[-1] if seconds else now) - 1))
    return [
        path.rename(path.with_name(f"events.out.tfevents.{second:010d}.{match[2]}"))
        for (path, match), second in zip(numbered, reversed(seconds), strict=True)
    ]


def _length_up_to(file: BinaryIO, last_step: int) -> int:
    """Return the length of the whole events up to a step; steps rise within a file."""
    from tensorboard.compat.proto.event_pb2 import Event

    length, end = 0, os.fstat(file.fileno()).st_size
    while len(header := file.read(_HEADER)) == _HEADER:
        size = int.from_bytes(header[:8], "little")
        if length + _HEADER + size + _FOOTER > end:
            break
        try:
            if Event.FromString(file.read(size)).step > last_step:
                break
        except Exception:  # noqa: BLE001 - whatever the package raises on bytes that are no event
            break
        length += _HEADER + size + _FOOTER
        file.seek(length)
    return length
