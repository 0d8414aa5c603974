import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from widestep.data.augment import CropDraws, crop_boxes, crop_draws, shift_flip
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


@given(keys_of_images, st.integers(1, 6000), st.integers(1, 6000))
def test_boxes_equal_the_definition(keys, width, height):
    boxes = crop_boxes(crop_draws(keys), np.full(len(keys), width), np.full(len(keys), height))
    expected = [inception_box(row, width, height) for row in uniforms_of_keys(keys, 23)]
    assert boxes.tolist() == expected


def test_boxes_of_images_of_different_sizes():
    """# D3: the same box alone and among others."""
    generator = np.random.default_rng(0)
    widths, heights = generator.integers(1, 900, (2, 500))
    draws = crop_draws(KEYS[:500])
    together = crop_boxes(draws, widths, heights)
    alone = [crop_boxes(draws.image(m), widths[m : m + 1], heights[m : m + 1])[0] for m in range(500)]
    assert np.array_equal(together, alone)
    expected = [
        inception_box(row, int(width), int(height))
        for row, width, height in zip(uniforms_of_keys(KEYS[:500], 23), widths, heights, strict=True)
    ]
    assert together.tolist() == expected


def by_hand(share, aspect, across=0.5, down=0.5):
    shares, aspects = np.full((1, 10), share), np.full((1, 10), aspect)
    return CropDraws(np.array([False]), np.array([across]), np.array([down]), shares, aspects)


@pytest.mark.parametrize(
    ("draws", "size", "box"),
    [
        # sqrt(100 * 80 / 2) = 63.2; 38 places across, 18 down.
        (by_hand(0.5, 1.0), (100, 80), [19, 9, 63, 63]),
        (by_hand(0.5, 1.0, across=0.0, down=1 - 2**-53), (100, 80), [0, 17, 63, 63]),
        (by_hand(1.0, 1.0), (64, 64), [0, 0, 64, 64]),
        # Ten squares of side 316 do not fit: the centre of aspect 4/3, 133 wide, or 3/4, 133 high.
        (by_hand(1.0, 1.0), (1000, 100), [433, 0, 133, 100]),
        (by_hand(1.0, 1.0), (100, 1000), [0, 433, 100, 133]),
        # 109 wide does not fit, and 100:90 is within 3/4..4/3: all of it.
        (by_hand(1.0, 4 / 3), (100, 90), [0, 0, 100, 90]),
        # sqrt(0.08) rounds to nothing: a box has at least one pixel.
        (by_hand(0.08, 1.0), (1, 1), [0, 0, 1, 1]),
    ],
)
def test_boxes_by_hand(draws, size, box):
    width, height = size
    assert crop_boxes(draws, np.array([width]), np.array([height])).tolist() == [box]


def test_first_box_that_fits_is_taken():
    shares, aspects = np.full((1, 10), 1.0), np.full((1, 10), 1.0)
    shares[0, 4:] = [0.16, 0.09, 0.09, 0.09, 0.09, 0.09]
    draws = CropDraws(np.array([False]), np.array([0.0]), np.array([0.0]), shares, aspects)
    # 400 x 100: the full area would be 200 x 200; 0.16 of it is 80 x 80.
    assert crop_boxes(draws, np.array([400]), np.array([100])).tolist() == [[0, 0, 80, 80]]


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


@given(keys_of_images, st.integers(1, 40), st.integers(1, 40))
def test_shifts_by_hand(keys, height, width):
    rows, columns = shift_flip(keys, height, width)
    for m, (flip, across, down) in enumerate(uniforms_of_keys(keys, 3)):
        left, top = int(across * 9), int(down * 9)
        assert rows[m].tolist() == list(range(top, top + height))
        expected = list(range(left, left + width))
        assert columns[m].tolist() == (expected[::-1] if flip < 0.5 else expected)


def test_law_of_shifts():
    rows, columns = shift_flip(KEYS, 8, 8)
    for first in (rows[:, 0], columns.min(axis=1)):
        counts = np.bincount(first)
        assert len(counts) == 9
        assert stats.chisquare(counts).pvalue > 1e-3
    flipped = columns[:, 0] > columns[:, 1]
    assert stats.binomtest(int(flipped.sum()), len(KEYS)).pvalue > 1e-3
    assert abs(np.corrcoef(rows[:, 0], columns.min(axis=1))[0, 1]) < 0.06


def test_no_image_depends_on_the_others():
    """# D3"""
    together, alone = shift_flip(KEYS[:50], 8, 8), [shift_flip(KEYS[m : m + 1], 8, 8) for m in range(50)]
    assert np.array_equal(together.rows, np.concatenate([one.rows for one in alone]))
    assert np.array_equal(together.columns, np.concatenate([one.columns for one in alone]))
    many, one = crop_draws(KEYS[:50]), crop_draws(KEYS[49:50])
    for mine, theirs in zip(many.image(49), one, strict=True):
        assert np.array_equal(mine, theirs)
