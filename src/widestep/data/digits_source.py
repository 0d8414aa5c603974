"""The embedded digits as one tensor in memory."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from widestep.data import digits
from widestep.data.augment import PADDING, Augmentation, whole_draws
from widestep.data.batched import shifted
from widestep.data.facts import DataFacts
from widestep.data.loading import Computed, Images, to_device
from widestep.data.split import Split, stratified_split
from widestep.errors import UsageError
from widestep.plan.randomness import U64


class DigitsSource:
    """1,797 images of shape (1, 8, 8), float32, normalised as (pixel - 4.884165) / 6.016788.

    Mean and standard deviation are those of the whole set, constants to 6 decimals (pixels run from 0 to 16). A batch is
    one gather from a tensor of 460 kB, so no threads are used, and pixels are normalised once.
    """

    def __init__(self, facts: DataFacts, augment: Augmentation, device: torch.device) -> None:
        if augment == "random-resized-crop":
            raise UsageError(
                "'random-resized-crop' is meant for photographs, and the digits have 8x8 pixels. "
                "Use augment = 'none', 'flip' or 'shift-flip'."
            )
        pixels, labels = digits.load()
        normalised = (torch.from_numpy(pixels.astype(np.float64)) - digits.MEAN) / digits.STD
        self.facts = facts
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self._device = device
        self._images = normalised.to(device, torch.float32)[:, None]
        self._augment = augment
        self._padded = None
        if augment != "none":
            black = (0 - digits.MEAN) / digits.STD
            padding = (PADDING, PADDING, PADDING, PADDING)
            self._padded = torch.nn.functional.pad(self._images, padding, value=black).permute(0, 2, 3, 1).contiguous()

    def split(self, seed: int) -> Split:
        """Draw `facts.num_train` images, the same share of every class; other seeds draw others."""
        return stratified_split(self.labels.numpy(), self.facts.num_train, seed)

    def training_images(self, ids: NDArray[np.int64], keys: U64) -> Images:
        """Return augmented images, float32, shape (M, 1, 8, 8)."""
        padded, index = self._padded, self._index(ids)
        if padded is None:
            return self.evaluation_images(ids)
        shifts = whole_draws(self._augment, keys)
        assert shifts is not None
        return Computed(lambda: shifted(padded, index, shifts).permute(0, 3, 1, 2))

    def evaluation_images(self, ids: NDArray[np.int64]) -> Images:
        """Return images as they are, float32, shape (M, 1, 8, 8)."""
        index = self._index(ids)
        return Computed(lambda: self._images.index_select(0, index))

    def name(self, image: int) -> str:
        """Return the number of a digit."""
        return f"digit {image}"

    def close(self) -> None:
        """Release nothing: there are no threads and no files."""

    def _index(self, ids: NDArray[Any]) -> torch.Tensor:
        """Return ids as a tensor; a read-only array is copied, because torch warns about those."""
        ids = np.asarray(ids, dtype=np.int64)
        return to_device(torch.from_numpy(ids if ids.flags.writeable else ids.copy()), self._device)
