"""TensorBoard events of a run, when that package is installed."""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class Board:
    """Writes the rate, loss and accuracy curves; does nothing when TensorBoard is absent or not wanted.

    Attributes
    ----------
    problem
        Why no more events are written, after a disk refused some: training goes on without.
    """

    def __init__(self, directory: Path, *, wanted: bool, first_step: int) -> None:
        self._writer: Any = None
        self.problem: str | None = None
        if wanted and find_spec("tensorboard") is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            with self._tolerant():
                self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step or None)

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except (OSError, UnicodeError) as error:  # the package takes no names that are not UTF-8
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

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            with self._tolerant():
                self._writer.close()
