"""TensorBoard events of a run, when that package is installed."""

import contextlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class Board:
    """Writes the rate, loss and accuracy curves; does nothing when TensorBoard is absent or not wanted."""

    def __init__(self, directory: Path, *, wanted: bool, first_step: int) -> None:
        self._writer: Any = None
        if wanted and find_spec("tensorboard") is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step or None)

    def step(self, step: int, lr: float, loss: float) -> None:
        """Add one step."""
        if self._writer is not None:
            self._writer.add_scalar("train/lr", lr, step)
            self._writer.add_scalar("train/loss", loss, step)

    def epoch(self, step: int, accuracy: float, loss: float | None) -> None:
        """Add one evaluation."""
        if self._writer is not None:
            self._writer.add_scalar("validation/accuracy", accuracy, step)
            if loss is not None:
                self._writer.add_scalar("validation/loss", loss, step)

    def close(self) -> None:
        """Flush and close."""
        with contextlib.suppress(AttributeError):
            self._writer.close()
