"""The embedded digits as one tensor in memory."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data import digits
from widestep.data.augment import PADDING, Augmentation, shift_flip
from widestep.data.facts import DataFacts
from widestep.data.split import Split, stratified_split
from widestep.errors import UsageError
from widestep.plan.randomness import U64


class DigitsSource:
    """1,797 images of shape (1, 8, 8), float32, normalised as (pixel - 4.884165) / 6.016788.

    Mean and standard deviation are those of the whole set, constants to 6 decimals (pixels run from 0 to 16). A batch is
    one gather from a tensor of 460 kB, so no threads are used.
    """

    def __init__(self, facts: DataFacts, augment: Augmentation) -> None:
        if augment == "random-resized-crop":
            raise UsageError(
                "'random-resized-crop' is meant for photographs, and the digits have 8x8 pixels. "
                "Use augment = 'none' or 'shift-flip'."
            )
        pixels, labels = digits.load()
        normalised = (torch.from_numpy(pixels.astype(np.float64)) - digits.MEAN) / digits.STD
        self.facts = facts
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self._images = normalised.to(torch.float32)[:, None]
        self._padded = None
        if augment == "shift-flip":
            black = (0 - digits.MEAN) / digits.STD
            padding = (PADDING, PADDING, PADDING, PADDING)
            self._padded = torch.nn.functional.pad(self._images, padding, value=black)

    def split(self, seed: int) -> Split:
        """Draw `facts.num_train` images, the same share of every class; other seeds draw others."""
        return stratified_split(self.labels.numpy(), self.facts.num_train, seed)

    def training_images(self, ids: NDArray[np.int64], keys: U64) -> Tensor:
        """Return augmented images, float32, shape (M, 1, 8, 8)."""
        if self._padded is None:
            return self.evaluation_images(ids)
        rows, columns = (torch.from_numpy(index) for index in shift_flip(keys, digits.SIDE, digits.SIDE))
        return self._padded[_index(ids)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]

    def evaluation_images(self, ids: NDArray[np.int64]) -> Tensor:
        """Return images as they are, float32, shape (M, 1, 8, 8)."""
        return self._images.index_select(0, _index(ids))

    def close(self) -> None:
        """Release nothing: there are no threads and no files."""


def _index(ids: NDArray[Any]) -> Tensor:
    """Return ids as a tensor; a read-only array is copied, because torch warns about those."""
    ids = np.asarray(ids, dtype=np.int64)
    return torch.from_numpy(ids if ids.flags.writeable else ids.copy())
