"""A small data set, decoded once and kept on the device as one tensor of bytes."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.augment import PADDING, Shifts
from widestep.data.batched import padded, shifted
from widestep.data.loading import to_device


class ResidentImages:
    """Images of one size, uint8, that fill up as they are visited.

    Parameters
    ----------
    num_images, size
        N images of size x size pixels.
    has_border
        Whether they will be shifted: each then lies within a border of 4 black pixels.
    """

    def __init__(self, num_images: int, size: int, device: torch.device, *, has_border: bool) -> None:
        self._border = PADDING if has_border else 0
        side = size + 2 * self._border
        self._images = torch.zeros(num_images, side, side, 3, dtype=torch.uint8, device=device)
        self._present = np.zeros(num_images, dtype=bool)
        self._replaced: dict[int, int] = {}

    @staticmethod
    def num_bytes(num_images: int, size: int) -> int:
        """Return the memory that the images would take, borders included."""
        return num_images * 3 * (size + 2 * PADDING) ** 2

    def missing(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of the ids that have not been put in, each once, in ascending order."""
        return np.unique(ids[~self._present[ids]])

    def put(self, ids: NDArray[np.int64], images: Tensor, replaced: Mapping[int, int]) -> None:
        """Keep images, uint8 of shape (M, size, size, 3), on the device, and which of their places hold another image."""
        self._images[self._index(ids)] = padded(images) if self._border else images
        self._present[ids] = True
        self._replaced.update({int(ids[place]): used for place, used in replaced.items()})

    def replaced(self, ids: NDArray[np.int64]) -> dict[int, int]:
        """Return the places in `ids` whose image is another one, and which."""
        if not self._replaced:
            return {}
        return {place: self._replaced[image] for place, image in enumerate(ids.tolist()) if image in self._replaced}

    def get(self, ids: NDArray[np.int64], shifts: Shifts | None = None) -> Tensor:
        """Return images, uint8 of shape (M, size, size, 3), shifted and flipped if asked; all must have been put in."""
        index = self._index(ids)
        if shifts is not None:
            return shifted(self._images, index, shifts)
        side = self._images.shape[1] - self._border
        return self._images[:, self._border : side, self._border : side].index_select(0, index)

    def _index(self, ids: NDArray[np.int64]) -> Tensor:
        return to_device(torch.from_numpy(np.array(ids)), self._images.device)
