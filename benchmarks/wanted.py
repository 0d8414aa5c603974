"""What somebody asks of the benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Case = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """How to measure.

    Parameters
    ----------
    quick
        Small sizes and few rounds: shows that everything works, says nothing about speed.
    device
        `cpu` or `cuda`, for the benchmarks that train.
    gpu
        Measure what is measured on a GPU, wherever: with `quick`, to see on a processor that it works.
    photos
        A folder with train/CLASS/*.jpg for the benchmark of loading; None: photographs are drawn.
    model
        Measure training and emulation of this network only; None: all that the benchmark has.
    """

    quick: bool = False
    device: str = "cpu"
    gpu: bool = False
    photos: Path | None = None
    model: str | None = None

    def cases(self, known: Sequence[Case]) -> list[Case]:
        """Return the cases of the network that is asked for."""
        return [case for case in known if self.model in (None, case["model"])]
