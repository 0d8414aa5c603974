"""Batches of decoded images against the formula in double precision, one image after the other."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from widestep.data.batched import normalised

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@given(st.lists(st.booleans(), max_size=5), st.integers(1, 40), st.integers(1, 40))
def test_normalised_and_flipped(flips, height, width):
    """Two roundings of numbers below 151 and one of their product: at most 2e-6 from the exact value."""
    images = np.random.default_rng(height).integers(0, 256, (len(flips), height, width, 3), dtype=np.uint8)
    found = normalised(torch.from_numpy(images), np.array(flips, dtype=bool))
    assert found.shape == (len(flips), 3, height, width)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    for image, is_flipped, one in zip(images, flips, found, strict=True):
        shown = image[:, ::-1] if is_flipped else image
        np.testing.assert_allclose(one.permute(1, 2, 0), (shown / 255 - MEAN) / STD, rtol=0, atol=2e-6)


def test_images_are_not_changed():
    """They may be asked for again."""
    images = torch.arange(2 * 5 * 4 * 3, dtype=torch.uint8).view(2, 5, 4, 3)
    before = images.clone()
    found = normalised(images, np.array([True, False]))
    assert torch.equal(images, before)
    assert torch.equal(found[0], normalised(images)[0].flip(2))
    assert torch.equal(found[1], normalised(images)[1])
