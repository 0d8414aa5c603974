"""Batches of decoded images, on any device: shift and flip, and normalisation.

Images are uint8 of shape (M, H, W, 3), red first; every operation treats each image alone, so a batch is cut as one likes.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.augment import PADDING, Shifts
from widestep.data.loading import to_device
from widestep.data.views import MEAN, STD


@cache
def _offset_and_scale(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what a row of pixels has subtracted, and what it is multiplied by, (width * 3,); made once for a device."""
    offset, scale = 255 * np.array(MEAN), 1 / (255 * np.array(STD))
    first, second = (torch.from_numpy(row.astype(np.float32)).repeat(width).to(device) for row in (offset, scale))
    return first, second


def normalised(images: Tensor, flip: NDArray[np.bool_] | None = None) -> Tensor:
    """Return (pixel / 255 - mean) / std of every channel, with the constants of ImageNet.

    Parameters
    ----------
    images
        uint8, shape (M, H, W, 3).
    flip
        Which of them to flip left to right, shape (M,); None for none.

    Returns
    -------
    float32, shape (M, 3, H, W), in torch's channels_last memory format.
    """
    num_images, height, width, channels = images.shape
    offset, scale = _offset_and_scale(width, images.device)
    if flip is not None and images.device.type == "cpu":
        # One after the other, while it lies in the processor's cache: half the time of a large batch at once.
        rows = torch.empty(num_images, height, width * channels)
        for row, image, is_flipped in zip(rows, images, flip.tolist(), strict=True):
            row.view(image.shape).copy_(image.flip(1) if is_flipped else image)
            row.sub_(offset).mul_(scale)
    else:
        shown = images if flip is None else _flipped(images, to_device(torch.from_numpy(flip), images.device))
        rows = shown.view(num_images, height, width * channels).to(torch.float32).sub_(offset).mul_(scale)
    return rows.view(images.shape).permute(0, 3, 1, 2)


def _flipped(images: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(2), images)


def padded(images: Tensor) -> Tensor:
    """Put 4 pixels of zeros (black) around images: (M, H, W, 3) -> (M, H+8, W+8, 3)."""
    return torch.nn.functional.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))


def shifted(images: Tensor, index: Tensor, shifts: Shifts) -> Tensor:
    """Cut shifted images out of padded ones and flip some.

    Parameters
    ----------
    images
        Padded, uint8, shape (N, H+8, W+8, 3).
    index
        Which of them, shape (M,), int64, on their device.
    shifts
        Where to cut each of the M.

    Returns
    -------
    uint8, shape (M, H, W, 3).
    """
    places = 2 * PADDING + 1
    image, row, column, channel = images.stride()
    num_images, height, width, channels = images.shape
    windows = images.as_strided(
        (num_images, places, places, height - 2 * PADDING, width - 2 * PADDING, channels),
        (image, row, column, row, column, channel),
    )
    if images.device.type == "cpu":  # NumPy copies rows, torch's gather single values: half the time
        return torch.from_numpy(_cut(windows.numpy(), index.numpy(), shifts))
    return _cut_on_device(windows, index, shifts)


def _cut_on_device(windows: Tensor, index: Tensor, shifts: Shifts) -> Tensor:
    """Cut in few and simple operations: where torch must be deterministic, to write by index means to sort first."""
    draws = np.stack((shifts.down, shifts.across, shifts.flip.astype(np.int64)))
    down, across, flip = to_device(torch.from_numpy(draws), windows.device)
    return _flipped(windows[index, down, across], flip.bool())


def _cut(windows: NDArray[Any], index: NDArray[np.int64], shifts: Shifts) -> NDArray[Any]:
    mirrored = np.flatnonzero(shifts.flip)
    cut = windows[index, shifts.down, shifts.across]
    width, channels = cut.shape[2:]
    backwards = np.arange(width * channels).reshape(width, channels)[::-1].ravel()
    rows = cut.reshape(*cut.shape[:2], width * channels)
    rows[mirrored] = rows[mirrored].take(backwards, axis=2)
    return cut
