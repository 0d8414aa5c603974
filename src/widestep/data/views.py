"""From a decoded image to the square of pixels that the network sees.

Resizing is bilinear and antialiased: every new pixel is the mean of those under a triangle as wide as two new pixels. torch
computes it in integers, with weights of 16 bits, about four times as fast as Pillow. Its result differs from Pillow's by
one level of 255, seldom two, and may differ by as much between instruction sets, which are recorded in `environment.json`.

A box is cut out before it is resized (as torchvision does), so that nothing outside the box has an influence.
"""

import numpy as np
import torch
from torch.nn import functional

from widestep.data.stores.store import Pixels

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of the red, green and blue of ImageNet's training images, on a scale of 0..1: the
constants in general use."""

_LARGEST_SMALL_SIZE = 64


def usual_short_side(size: int) -> int:
    """Return to what length the short side is brought before the centre of size x size pixels is cut out.

    round(size * 256 / 224), as is usual for photographs; small images (up to 64 pixels) are not cut.
    """
    return size if size <= _LARGEST_SMALL_SIZE else round(size * 256 / 224)


def centre_view(pixels: Pixels, size: int, short_side: int, out: Pixels) -> None:
    """Resize an image so that its short side has a given length, keeping the aspect, and cut the centre out.

    The long side becomes the whole part of short_side * long / short before; the centre is rounded half to even.

    Parameters
    ----------
    pixels
        Shape (height, width, 3).
    size
        Of the centre, in pixels; at most `short_side`.
    short_side
        In pixels.
    out
        Takes the result, shape (size, size, 3).
    """
    height, width = pixels.shape[:2]
    scaled_width = short_side * width // min(height, width)
    scaled_height = short_side * height // min(height, width)
    resized = _resized(pixels, scaled_width, scaled_height)
    left, top = round((scaled_width - size) / 2), round((scaled_height - size) / 2)
    out[...] = resized[top : top + size, left : left + size]


def crop_view(pixels: Pixels, out: Pixels) -> None:
    """Resize a box that has been cut out to the size of `out` (size, size, 3)."""
    out[...] = _resized(pixels, out.shape[1], out.shape[0])


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    # As torch's memory format channels_last: the same memory, the axes named in another order.
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    resized = functional.interpolate(image, size=(height, width), mode="bilinear", antialias=True)
    view: Pixels = resized[0].permute(1, 2, 0).numpy()
    return view
