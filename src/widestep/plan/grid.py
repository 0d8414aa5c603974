"""The logical shape of the job: nodes x workers per node x images per worker."""

import re
from dataclasses import dataclass

from widestep.errors import UsageError

_FORM = re.compile(r"([1-9]\d{0,6})x([1-9]\d{0,6})x([1-9]\d{0,6})", re.ASCII)
_RAMP_FORM = re.compile(r"([1-9]\d{0,8})(?:ep)?:([1-9]\d{0,6})", re.ASCII)


@dataclass(frozen=True)
class WorkerGrid:
    """Workers are logical replicas: what each computes is the same on any hardware.

    Examples
    --------
    >>> grid = WorkerGrid.parse("40x6x128")
    >>> grid.num_workers, grid.global_batch
    (240, 30720)
    """

    num_nodes: int
    workers_per_node: int
    images_per_worker: int

    @classmethod
    def parse(cls, text: str) -> "WorkerGrid":
        """Read NODESxWORKERSxIMAGES.

        Raises
        ------
        UsageError
            When the text is not three positive whole numbers joined by `x`.
        """
        match = _FORM.fullmatch(text.strip().lower()) if isinstance(text, str) else None
        if match is None:
            raise UsageError(f"A grid reads NODESxWORKERSxIMAGES, for example 40x6x128. Got {text!r}.")
        return cls(*(int(part) for part in match.groups()))

    @property
    def num_workers(self) -> int:
        """W: all workers of the grid."""
        return self.num_nodes * self.workers_per_node

    @property
    def global_batch(self) -> int:
        """B = W * b: images in one optimizer step."""
        return self.num_workers * self.images_per_worker

    def __str__(self) -> str:
        return f"{self.num_nodes}x{self.workers_per_node}x{self.images_per_worker}"

    def with_workers(self, num_workers: int) -> "WorkerGrid":
        """Return a grid of another number of workers with as many images each."""
        return self if num_workers == self.num_workers else WorkerGrid(1, num_workers, self.images_per_worker)


@dataclass(frozen=True)
class RampPoint:
    """From a whole epoch on, another number of workers.

    Examples
    --------
    >>> RampPoint.parse("30ep:8")
    RampPoint(epoch=30, num_workers=8)
    """

    epoch: int
    num_workers: int

    @classmethod
    def parse(cls, value: "str | RampPoint") -> "RampPoint":
        """Read EPOCH:WORKERS; raises UsageError when it is none."""
        if isinstance(value, RampPoint):
            return value
        match = _RAMP_FORM.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise UsageError(f"A ramp point reads EPOCH:WORKERS, for example 30ep:8, with a whole epoch. Got {value!r}.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.epoch}ep:{self.num_workers}"
