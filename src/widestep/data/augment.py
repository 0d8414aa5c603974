"""The random part of augmentation: from the 64-bit key of an image to where it is cropped and whether it is flipped.

Everything is a pure function of the keys (statement D3), for any number of images at once; an image gets the same
parameters alone as among thousands. Only operations that IEEE 754 rounds exactly are used (+ - * / and square root), so
that the parameters are the same on every machine; libraries differ in the last bit of `exp`.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from widestep.plan.randomness import U64, uniforms_of_keys

Augmentation = Literal["none", "shift-flip", "random-resized-crop"]

PADDING = 4
"""Pixels of zeros put around an image by "shift-flip"."""
SMALLEST_SHARE = 0.08
NUM_TRIES = 10
_LOG_LARGEST_ASPECT = 0.2876820724517809  # log(4/3); the smallest aspect is 3/4 = exp of minus this


class ShiftFlip(NamedTuple):
    """Rows (M, H) and columns (M, W) of the padded image that image m is made of, int64; columns fall when flipped."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


def shift_flip(keys: U64, height: int, width: int) -> ShiftFlip:
    """Pad by 4 pixels on every side, crop back to the old size at a random place, flip left to right half the time.

    The usual recipe for images of 32x32 pixels (He, Zhang, Ren, Sun: arXiv 1512.03385, section 4.2). Of the uniforms of
    a key, draw 0 decides the flip (below 1/2), draws 1 and 2 the left and top offset, each 0..8.

    Parameters
    ----------
    keys
        One key an image, shape (M,).
    height, width
        Of the images before padding.
    """
    draws = uniforms_of_keys(keys, 3)
    offsets = np.floor(draws[:, 1:] * (2 * PADDING + 1)).astype(np.int64)
    across = np.arange(width)
    columns = np.where(draws[:, :1] < 0.5, across[::-1], across)
    return ShiftFlip(offsets[:, 1:] + np.arange(height), offsets[:, :1] + columns)


class CropDraws(NamedTuple):
    """What `crop_boxes` needs, before the size of the image is known.

    `flip` (M,) bool; `across` and `down` (M,), uniform in [0, 1); `shares` (M, 10), of the image's area; `aspects`
    (M, 10), width / height.
    """

    flip: NDArray[np.bool_]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    shares: NDArray[np.float64]
    aspects: NDArray[np.float64]

    def image(self, position: int) -> "CropDraws":
        """Return the draws of one image, as arrays of one entry."""
        here = slice(position, position + 1)
        return CropDraws(self.flip[here], self.across[here], self.down[here], self.shares[here], self.aspects[here])


def crop_draws(keys: U64) -> CropDraws:
    """Draw what a random resized crop needs: 10 pairs of area share (uniform 0.08..1) and aspect (log-uniform 3/4..4/3).

    Of the uniforms of a key, draw 0 decides the flip (below 1/2), draws 1 and 2 where the box lies across and down,
    draws 3..12 the shares and 13..22 the aspects.

    Parameters
    ----------
    keys
        One key an image, shape (M,).
    """
    draws = uniforms_of_keys(keys, 3 + 2 * NUM_TRIES)
    shares = SMALLEST_SHARE + (1.0 - SMALLEST_SHARE) * draws[:, 3 : 3 + NUM_TRIES]
    aspects = _exp(_LOG_LARGEST_ASPECT * (2.0 * draws[:, 3 + NUM_TRIES :] - 1.0))
    return CropDraws(draws[:, 0] < 0.5, draws[:, 1], draws[:, 2], shares, aspects)


def crop_boxes(draws: CropDraws, widths: NDArray[Any], heights: NDArray[Any]) -> NDArray[np.int64]:
    """Choose the box that a random resized crop cuts out (Szegedy et al., arXiv 1409.4842, section 6).

    As torchvision's RandomResizedCrop: the first of ten boxes that fits in the image, its sides round(sqrt(area * share
    * aspect)) and round(sqrt(area * share / aspect)), at a place uniform among the whole pixels. If none fits, the
    largest centred box whose aspect lies in 3/4..4/3.

    Parameters
    ----------
    draws
        From `crop_draws`, of M images.
    widths, heights
        Sizes of the images in pixels, shape (M,).

    Returns
    -------
    (left, top, width, height) in pixels, int64, shape (M, 4).
    """
    sizes = np.stack([widths, heights], axis=1).astype(np.int64)
    areas = sizes.prod(axis=1, keepdims=True) * draws.shares
    tries = np.rint(np.sqrt(np.stack([areas * draws.aspects, areas / draws.aspects], axis=1))).astype(np.int64)
    fits = ((tries > 0) & (tries <= sizes[:, :, None])).all(axis=1)
    first = np.take_along_axis(tries, fits.argmax(axis=1)[:, None, None], axis=2)[:, :, 0]
    fallback = np.minimum(sizes, np.rint(sizes[:, ::-1] * 4 / 3).astype(np.int64))
    found = fits.any(axis=1)[:, None]
    boxes = np.where(found, first, fallback)
    slack = sizes - boxes
    place = np.stack([draws.across, draws.down], axis=1)
    corners = np.where(found, np.floor(place * (slack + 1)).astype(np.int64), slack // 2)
    return np.concatenate([corners, boxes], axis=1)


def _exp(exponents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return e to small powers by its series in Horner's form; for |x| < 0.3 the rest is below 1e-19."""
    result = np.ones_like(exponents)
    for order in range(14, 0, -1):
        result = 1.0 + exponents * result / order
    return result
