import numpy as np
import pytest
from PIL import Image

from widestep.data.views import centre_view, crop_view, normalise, shifted_view


@pytest.mark.parametrize(
    ("width", "height", "left", "top"),
    [(256, 256, 16, 16), (300, 256, 38, 16), (256, 257, 16, 16), (256, 259, 16, 18), (261, 256, 18, 16)],
)
def test_centre_without_resizing(picture, width, height, left, top):
    """A short side of 256 stays; half pixels go to the even side: (257 - 224) / 2 = 16.5 -> 16, 17.5 -> 18."""
    pixels = picture(width, height)
    assert np.array_equal(centre_view(pixels, 224), pixels[top : top + 224, left : left + 224])


@pytest.mark.parametrize(
    ("width", "height", "scaled"), [(500, 375, (341, 256)), (375, 500, (256, 341)), (90, 30, (768, 256))]
)
def test_centre_keeps_the_aspect(picture, width, height, scaled):
    pixels = picture(width, height)
    whole = np.asarray(Image.fromarray(pixels).resize(scaled, Image.Resampling.BILINEAR))
    left, top = round((scaled[0] - 224) / 2), round((scaled[1] - 224) / 2)
    assert np.array_equal(centre_view(pixels, 224), whole[top : top + 224, left : left + 224])


@pytest.mark.parametrize(("size", "short"), [(224, 256), (8, 9), (32, 37), (160, 183), (56, 64)])
def test_short_side(picture, size, short):
    """round(size * 8 / 7): an image whose short side is that already is only cut."""
    pixels = picture(short, short)
    start = round((short - size) / 2)
    assert np.array_equal(centre_view(pixels, size), pixels[start : start + size, start : start + size])


def test_resizing_by_two_by_hand():
    """Halving weighs four pixels by 1, 3, 3, 1 eighths: column 5 gives 3/8 to pixel 2 and 1/8 to pixel 3."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:, 5] = 240
    view = crop_view(pixels, np.array([0, 0, 16, 16]), False, 8)
    assert view[:, :, 0].tolist() == [[0, 0, 90, 30, 0, 0, 0, 0]] * 8


def test_crop_is_left_top_width_height(picture):
    pixels = picture(40, 30)
    assert np.array_equal(crop_view(pixels, np.array([7, 3, 16, 16]), False, 16), pixels[3:19, 7:23])


def test_nothing_outside_the_box_has_an_influence(picture):
    pixels = picture(40, 30)
    box = np.array([7, 3, 20, 17])
    other = np.full_like(pixels, 255)
    other[3:20, 7:27] = pixels[3:20, 7:27]
    assert np.array_equal(crop_view(pixels, box, False, 9), crop_view(other, box, False, 9))


def test_flip_reverses_the_columns(picture):
    pixels, box = picture(40, 30), np.array([7, 3, 20, 17])
    assert np.array_equal(crop_view(pixels, box, True, 9), crop_view(pixels, box, False, 9)[:, ::-1])


def test_shift_by_hand():
    pixels = np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3)
    view = shifted_view(pixels, np.array([3, 4]), np.array([6, 5]))
    assert view.tolist() == [[[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [4, 5, 6]]]


def test_normalise_by_hand():
    """Red 0, green 255, blue 128: (0 - .485) / .229, (1 - .456) / .224, (128 / 255 - .406) / .225."""
    out = np.empty((3, 1, 1), dtype=np.float32)
    normalise(np.array([[[0, 255, 128]]], dtype=np.uint8), out)
    np.testing.assert_allclose(out.ravel(), [-2.1179039, 2.4285714, 0.4264924], rtol=1e-6)
