"""The random part of augmentation: from the 64-bit key of an image to where it is cropped and whether it is flipped.

Everything is a pure function of the keys (statement D3); an image gets the same parameters alone as among thousands. Only
operations that IEEE 754 rounds exactly are used (+ - * / and square root), so that the parameters are the same on every
machine; libraries differ in the last bit of `exp`.

Draws are made for whole batches, because hashing many keys at once is cheap; boxes one by one, because they need the size of
an image, which is known when the image has been opened.
"""

from math import sqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from widestep.plan.randomness import U64, uniforms_of_keys

Augmentation = Literal["none", "flip", "shift-flip", "random-resized-crop"]

PADDING = 4
"""Pixels of zeros put around an image by "shift-flip" (and "flip", which cuts them off again)."""
SMALLEST_SHARE = 0.08
NUM_TRIES = 10
_LOG_LARGEST_ASPECT = 0.2876820724517809  # log(4/3); the smallest aspect is 3/4 = exp of minus this


class Box(NamedTuple):
    """A rectangle of whole pixels in an image."""

    left: int
    top: int
    width: int
    height: int


class Shifts(NamedTuple):
    """Of M images: whether each is flipped, and the first row and column of the padded image that it keeps.

    `flip` (M,) bool; `down` and `across` (M,), int64, 0..8. The image is cut out first and then flipped.
    """

    flip: NDArray[np.bool_]
    down: NDArray[np.int64]
    across: NDArray[np.int64]


def shift_draws(keys: U64) -> Shifts:
    """Pad by 4 pixels on every side, crop back to the old size at a random place, flip left to right half the time.

    The usual recipe for images of 32x32 pixels (He, Zhang, Ren, Sun: arXiv 1512.03385, section 4.2). Of the uniforms of
    a key, draw 0 decides the flip (below 1/2), draws 1 and 2 the left and top offset, each 0..8.

    Parameters
    ----------
    keys
        One key an image, shape (M,).
    """
    draws = uniforms_of_keys(keys, 3)
    offsets = np.floor(draws[:, 1:] * (2 * PADDING + 1)).astype(np.int64)
    return Shifts(draws[:, 0] < 0.5, offsets[:, 1], offsets[:, 0])


def whole_draws(augment: Augmentation, keys: U64) -> Shifts | None:
    """Return how an augmentation that keeps images whole moves those with these keys, or None where it does not.

    "flip" is "shift-flip" without the shift: the same keys flip the same images.
    """
    if augment == "shift-flip":
        return shift_draws(keys)
    if augment == "flip":
        stay = np.full(len(keys), PADDING)
        return Shifts(shift_draws(keys).flip, stay, stay)
    return None


class CropDraws(NamedTuple):
    """What `crop_box` needs, before the size of the image is known.

    `flip` (M,) bool; `across` and `down` (M,), uniform in [0, 1); `shares` (M, 10), of the image's area; `aspects`
    (M, 10), width / height.
    """

    flip: NDArray[np.bool_]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    shares: NDArray[np.float64]
    aspects: NDArray[np.float64]


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


def crop_box(draws: CropDraws, position: int, width: int, height: int) -> Box:
    """Choose the box that a random resized crop cuts out (Szegedy et al., arXiv 1409.4842, section 6).

    As torchvision's RandomResizedCrop: the first of ten boxes that fits in the image, its sides round(sqrt(area * share
    * aspect)) and round(sqrt(area * share / aspect)), at a place uniform among the whole pixels. If none fits, the
    largest centred box whose aspect lies in 3/4..4/3.

    Parameters
    ----------
    draws
        From `crop_draws`, of M images.
    position
        Which of the M.
    width, height
        Size of the image in pixels.
    """
    for attempt in range(NUM_TRIES):
        area = width * height * draws.shares.item(position, attempt)
        aspect = draws.aspects.item(position, attempt)
        across, down = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left = int(draws.across.item(position) * (width - across + 1))
            top = int(draws.down.item(position) * (height - down + 1))
            return Box(left, top, across, down)
    across, down = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return Box((width - across) // 2, (height - down) // 2, across, down)


def _exp(exponents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return e to small powers by its series in Horner's form; for |x| < 0.3 the rest is below 1e-19."""
    result = np.ones_like(exponents)
    for order in range(14, 0, -1):
        result = 1.0 + exponents * result / order
    return result
