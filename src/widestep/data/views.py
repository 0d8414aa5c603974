"""From a decoded image to the square of pixels that the network sees.

Resizing is Pillow's: bilinear, antialiased, in integers, and therefore equal on every machine. A box is cut out before
it is resized (as torchvision does), so that nothing outside the box has an influence.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from widestep.data.augment import PADDING
from widestep.data.decode import Pixels

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of the red, green and blue of ImageNet's training images, on a scale of 0..1: the
constants in general use."""

_OFFSET = (255 * np.array(MEAN)).astype(np.float32)[:, None, None]
_SCALE = (1 / (255 * np.array(STD))).astype(np.float32)[:, None, None]


def centre_view(pixels: Pixels, size: int) -> Pixels:
    """Resize the short side to round(size * 256 / 224), keep the aspect, cut the centre of size x size pixels.

    The long side becomes the whole part of short * long / short before; the centre is rounded half to even.
    """
    height, width = pixels.shape[:2]
    short = round(size * 256 / 224)
    scaled_width = short * width // min(height, width)
    scaled_height = short * height // min(height, width)
    resized = _resize(pixels, scaled_width, scaled_height)
    left, top = round((scaled_width - size) / 2), round((scaled_height - size) / 2)
    return resized[top : top + size, left : left + size]


def crop_view(pixels: Pixels, box: NDArray[np.int64], flip: bool, size: int) -> Pixels:
    """Cut out a box (left, top, width, height), resize it to size x size pixels, flip it left to right if asked."""
    left, top, width, height = (int(value) for value in box)
    view = _resize(pixels[top : top + height, left : left + width], size, size)
    return view[:, ::-1] if flip else view


def shifted_view(pixels: Pixels, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Pixels:
    """Pad with 4 pixels of zeros (black) and take rows (H,) and columns (W,) of that."""
    padded = np.pad(pixels, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    return padded[rows][:, columns]


def normalise(pixels: Pixels, out: NDArray[np.float32]) -> None:
    """Write (pixel / 255 - mean) / std of every channel to `out`, shape (3, height, width)."""
    np.subtract(pixels.transpose(2, 0, 1), _OFFSET, out=out, dtype=np.float32)
    np.multiply(out, _SCALE, out=out)


def _resize(pixels: Pixels, width: int, height: int) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
