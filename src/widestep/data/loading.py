"""Images that have been asked for, and where they go."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

_CPU = torch.device("cpu")
_T = TypeVar("_T")

NOTHING = -1
"""In the place of an image's id: no image."""


class Images(Protocol):
    """Images that have been asked for and may still be on their way."""

    def result(self) -> Tensor:
        """Wait for the images, once: normalised, float32, shape (M, C, H, W), on the source's device.

        Raises
        ------
        DataError
            When one cannot be read or decoded: the first in the order asked for.
        """

    def replaced(self) -> dict[int, int]:
        """Return, once there is a result, which places hold another image than was asked for: its id, or NOTHING (black).

        Only where damaged images are skipped.
        """


@dataclass(frozen=True)
class Computed:
    """Images that are made in the moment they are wanted."""

    result: Callable[[], Tensor]

    def replaced(self) -> dict[int, int]:
        """Return nothing: every place holds the image asked for."""
        return {}


class Kept:
    """What was made for one key, for who asks for the same key next. Not for several threads."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._made: Any = None

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Return what is kept for the key, or else make it; what was kept for another key is let go before."""
        if self._made is None or self._key != key:
            self._made = None
            self._key, self._made = key, make()
        made: _T = self._made
        return made


@dataclass(frozen=True)
class Loading:
    """Where images go and how they get there; changes no byte.

    Parameters
    ----------
    device
        Where the images are wanted.
    num_threads
        Threads that read and decode; 0 decodes in the thread that waits for the images.
    gib_in_memory
        A data set whose images are the same at every visit but for a shift and a flip is kept decoded on the device when it
        takes at most so many GiB.
    kept
        Where the runs of one process hand decoded images on from one to the next; None: each decodes its own.
    """

    device: torch.device = _CPU
    num_threads: int = 0
    gib_in_memory: float = 2.0
    kept: Kept | None = None


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the processor's memory on a device; the processor does not wait for the transfer."""
    if device.type == "cpu":
        return host
    # What has gaps, as a column of a matrix, would first be copied to memory that is not pinned.
    return host.contiguous().pin_memory().to(device, non_blocking=True)
