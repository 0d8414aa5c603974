import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from widestep.data.augment import Box, CropDraws, crop_box, crop_draws, shift_draws
from widestep.plan.randomness import Stream, uniforms_of_keys

KEYS = Stream(3, "augment").keys(np.arange(4000), 0)
keys_of_images = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8).map(lambda k: np.array(k, dtype=np.uint64))


def inception_box(uniforms, width, height):
    """One image at a time, from the definition: ten tries of (area share, aspect), else the largest allowed centre."""
    for attempt in range(10):
        area = width * height * (0.08 + 0.92 * uniforms[3 + attempt])
        low, high = math.log(3 / 4), math.log(4 / 3)
        aspect = math.exp(low + (high - low) * uniforms[13 + attempt])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return [int(uniforms[1] * (width - w + 1)), int(uniforms[2] * (height - h + 1)), w, h]
    w, h = width, height
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return [(width - w) // 2, (height - h) // 2, w, h]


def vectorised_boxes(draws, widths, heights):
    """The same definition for M images at once, in numpy: (left, top, width, height), shape (M, 4)."""
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


@given(keys_of_images, st.integers(1, 6000), st.integers(1, 6000))
def test_boxes_equal_the_definition(keys, width, height):
    draws = crop_draws(keys)
    for position, uniforms in enumerate(uniforms_of_keys(keys, 23)):
        assert list(crop_box(draws, position, width, height)) == inception_box(uniforms, width, height)


def test_boxes_equal_those_of_arrays():
    """# D3: the box of an image alone is the one it has in arithmetic over all images."""
    generator = np.random.default_rng(0)
    widths, heights = generator.integers(1, 900, (2, len(KEYS)))
    draws = crop_draws(KEYS)
    boxes = [crop_box(draws, m, int(widths[m]), int(heights[m])) for m in range(len(KEYS))]
    assert vectorised_boxes(draws, widths, heights).tolist() == [list(box) for box in boxes]


def test_box_is_made_of_integers():
    """Not of numpy's, whose arithmetic is slow and may overflow."""
    assert [type(value) for value in crop_box(crop_draws(KEYS[:1]), 0, 500, 375)] == [int] * 4


def by_hand(share, aspect, across=0.5, down=0.5):
    shares, aspects = np.full((1, 10), share), np.full((1, 10), aspect)
    return CropDraws(np.array([False]), np.array([across]), np.array([down]), shares, aspects)


@pytest.mark.parametrize(
    ("draws", "size", "box"),
    [
        # sqrt(100 * 80 / 2) = 63.2; 38 places across, 18 down.
        (by_hand(0.5, 1.0), (100, 80), (19, 9, 63, 63)),
        (by_hand(0.5, 1.0, across=0.0, down=1 - 2**-53), (100, 80), (0, 17, 63, 63)),
        (by_hand(1.0, 1.0), (64, 64), (0, 0, 64, 64)),
        # Ten squares of side 316 do not fit: the centre of aspect 4/3, 133 wide, or 3/4, 133 high.
        (by_hand(1.0, 1.0), (1000, 100), (433, 0, 133, 100)),
        (by_hand(1.0, 1.0), (100, 1000), (0, 433, 100, 133)),
        # 109 wide does not fit, and 100:90 is within 3/4..4/3: all of it.
        (by_hand(1.0, 4 / 3), (100, 90), (0, 0, 100, 90)),
        # sqrt(0.08) rounds to nothing: a box has at least one pixel.
        (by_hand(0.08, 1.0), (1, 1), (0, 0, 1, 1)),
    ],
)
def test_boxes_by_hand(draws, size, box):
    width, height = size
    assert crop_box(draws, 0, width, height) == Box(*box)


def test_first_box_that_fits_is_taken():
    shares, aspects = np.full((1, 10), 1.0), np.full((1, 10), 1.0)
    shares[0, 4:] = [0.16, 0.09, 0.09, 0.09, 0.09, 0.09]
    draws = CropDraws(np.array([False]), np.array([0.0]), np.array([0.0]), shares, aspects)
    # 400 x 100: the full area would be 200 x 200; 0.16 of it is 80 x 80.
    assert crop_box(draws, 0, 400, 100) == Box(left=0, top=0, width=80, height=80)


def test_law_of_shares_and_aspects():
    draws = crop_draws(KEYS)
    assert 0.08 <= draws.shares.min() < 0.0801
    assert 0.9999 < draws.shares.max() <= 1
    assert 0.75 * (1 - 1e-15) <= draws.aspects.min() < 0.7501
    assert 1.3332 < draws.aspects.max() <= 4 / 3 * (1 + 1e-15)
    assert stats.kstest(draws.shares.ravel(), stats.uniform(0.08, 0.92).cdf).pvalue > 1e-3
    log_aspects = np.log(draws.aspects.ravel())
    assert stats.kstest(log_aspects, stats.uniform(math.log(3 / 4), 2 * math.log(4 / 3)).cdf).pvalue > 1e-3
    assert stats.binomtest(int(draws.flip.sum()), len(KEYS)).pvalue > 1e-3


def test_aspects_are_exact_to_the_last_bits():
    uniforms = uniforms_of_keys(KEYS[:200], 23)[:, 13:]
    expected = [[math.exp((2 * u - 1) * math.log(4 / 3)) for u in row] for row in uniforms]
    np.testing.assert_allclose(crop_draws(KEYS[:200]).aspects, expected, rtol=4e-16)


@given(keys_of_images)
def test_shifts_by_hand(keys):
    shifts = shift_draws(keys)
    for m, (flip, across, down) in enumerate(uniforms_of_keys(keys, 3)):
        assert (shifts.flip[m], shifts.across[m], shifts.down[m]) == (flip < 0.5, int(across * 9), int(down * 9))


def test_law_of_shifts():
    flip, down, across = shift_draws(KEYS)
    for offsets in (down, across):
        counts = np.bincount(offsets)
        assert len(counts) == 9
        assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.binomtest(int(flip.sum()), len(KEYS)).pvalue > 1e-3
    assert abs(np.corrcoef(down, across)[0, 1]) < 0.06
    assert abs(np.corrcoef(down, flip)[0, 1]) < 0.06


@pytest.mark.parametrize("draw", [shift_draws, crop_draws])
def test_no_image_depends_on_the_others(draw):
    """# D3"""
    together, alone = draw(KEYS[:50]), [draw(KEYS[m : m + 1]) for m in range(50)]
    for field, values in enumerate(together):
        assert np.array_equal(values, np.concatenate([one[field] for one in alone]))
