"""Numbers on their way from the device to the host, which does not wait for them before it needs them."""

from typing import Any

import torch
from torch import Tensor


class Arriving:
    """The values of a tensor of a device, sent for at once and read later.

    Parameters
    ----------
    values
        On a GPU they are copied as they are at this point of its work, while the host goes on; on the CPU they are here, and
        must not be written to any more.
    """

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = values
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event(
                blocking=True
            )  # whoever waits leaves the processor to the threads that load images
            self._event.record()

    @property
    def here(self) -> bool:
        """Whether reading never waits, because nothing had to come over."""
        return self._event is None

    def read(self) -> Any:
        """Return the values as (nested) lists, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()
