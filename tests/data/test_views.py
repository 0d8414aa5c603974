import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from widestep.data.views import centre_view, crop_view, usual_short_side


def centre(pixels, size, short_side):
    out = np.empty((size, size, 3), dtype=np.uint8)
    centre_view(pixels, size, short_side, out)
    return out


def crop(pixels, size):
    out = np.empty((size, size, 3), dtype=np.uint8)
    crop_view(pixels, out)
    return out


def triangle_weights(old, new):
    """Of every new pixel, the weights of the old ones, shape (new, old): a triangle as wide as two of the wider pixels."""
    ratio = old / new
    centres = (np.arange(new) + 0.5) * ratio
    distances = np.abs(np.arange(old) + 0.5 - centres[:, None]) / max(ratio, 1.0)
    weights = np.maximum(1.0 - distances, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def resized(pixels, width, height):
    """In double precision, not rounded."""
    down, across = triangle_weights(pixels.shape[0], height), triangle_weights(pixels.shape[1], width)
    return np.einsum("ih,hwc,jw->ijc", down, pixels.astype(float), across)


def noise(width, height):
    return np.random.default_rng(1000 * width + height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_resizing_is_the_mean_under_a_triangle(width, height, size):
    """Within a level: it is rounded twice, once for each direction."""
    pixels = noise(width, height)
    assert abs(crop(pixels, size) - np.rint(resized(pixels, size, size))).max() <= 1


@settings(max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_resizing_is_pillows_within_a_level(width, height, size):
    pixels = noise(width, height)
    theirs = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    assert abs(crop(pixels, size).astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("box", [(500, 375), (333, 251), (150, 190), (97, 224), (2048, 1536)])
def test_photographs_are_resized_as_by_pillow(picture, box):
    pixels = picture(*box) ^ (noise(*box) & 31)
    theirs = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
    ours = crop(pixels, 224)
    assert abs(ours - theirs).max() <= 1
    assert abs(ours - theirs).mean() < 0.02
    assert abs((ours - theirs).mean()) < 0.01


def test_resizing_by_two_by_hand():
    """Halving weighs four pixels by 1, 3, 3, 1 eighths: column 5 gives 3/8 to pixel 2 and 1/8 to pixel 3."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:, 5] = 240
    assert crop(pixels, 8)[:, :, 0].tolist() == [[0, 0, 90, 30, 0, 0, 0, 0]] * 8


def test_nothing_is_resized_without_need(picture):
    pixels = picture(16, 16)
    assert np.array_equal(crop(pixels, 16), pixels)


@pytest.mark.parametrize("size", [9, 17])
def test_pixels_may_lie_anywhere_in_memory(picture, size):
    """A box of a larger image, an image that must not be written to, and a place in a batch."""
    whole = picture(40, 30)
    view = whole[3:20, 7:24]
    before = whole.copy()
    locked = view.copy()
    locked.flags.writeable = False
    batch = np.zeros((3, size, size, 3), dtype=np.uint8)
    crop_view(locked, batch[1])
    assert np.array_equal(batch[1], crop(view, size))
    assert np.array_equal(batch[1], crop(view.copy(), size))
    assert not batch[[0, 2]].any()
    assert np.array_equal(whole, before)
    centre_view(locked, size, size, batch[2])
    assert np.array_equal(batch[2], crop(view, size))


@pytest.mark.parametrize(
    ("width", "height", "left", "top"),
    [(256, 256, 16, 16), (300, 256, 38, 16), (256, 257, 16, 16), (256, 259, 16, 18), (259, 256, 18, 16), (261, 256, 18, 16)],
)
def test_centre_without_resizing(picture, width, height, left, top):
    """A short side of 256 stays; half pixels go to the even side: (257 - 224) / 2 = 16.5 -> 16, 17.5 -> 18."""
    pixels = picture(width, height)
    assert np.array_equal(centre(pixels, 224, 256), pixels[top : top + 224, left : left + 224])


@pytest.mark.parametrize(
    ("width", "height", "short", "scaled"),
    [(500, 375, 256, (341, 256)), (375, 500, 256, (256, 341)), (90, 30, 256, (768, 256)), (500, 375, 232, (309, 232))],
)
def test_centre_keeps_the_aspect(picture, width, height, short, scaled):
    pixels = picture(width, height)
    whole = np.asarray(Image.fromarray(pixels).resize(scaled, Image.Resampling.BILINEAR)).astype(int)
    left, top = round((scaled[0] - 224) / 2), round((scaled[1] - 224) / 2)
    assert abs(centre(pixels, 224, short) - whole[top : top + 224, left : left + 224]).max() <= 1


@pytest.mark.parametrize(
    ("size", "short"), [(224, 256), (160, 183), (128, 146), (96, 110), (65, 74), (64, 64), (32, 32), (8, 8)]
)
def test_usual_short_side(size, short):
    """round(size * 8 / 7), and nothing is cut from images of up to 64 pixels."""
    assert usual_short_side(size) == short


def test_equal_in_any_thread(picture):
    pictures = [picture(300 + m, 200 + m, m) for m in range(12)]
    expected = [crop(pixels, 96) for m, pixels in enumerate(pictures)]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            views = threads.map(lambda m: crop(pictures[m], 96), range(12))
            assert all(np.array_equal(view, one) for view, one in zip(views, expected, strict=True))


def test_no_threads_are_started(program):
    """Each thread that loads would otherwise get as many of torch's as there are processors."""
    code = """
import os, threading
import numpy as np, torch
from widestep.data.views import centre_view, crop_view
torch.set_num_threads(4)
out, num_threads = np.empty((224, 224, 3), np.uint8), []
def work():
    num_threads.append(len(os.listdir("/proc/self/task")))
    for height, width in ((224, 224), (224, 700), (700, 224), (700, 700)):
        crop_view(np.zeros((height, width, 3), np.uint8), out)
        centre_view(np.zeros((height, width, 3), np.uint8), 224, 256, out)
    num_threads.append(len(os.listdir("/proc/self/task")))
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(num_threads[1] - num_threads[0])
"""
    environment = program.environment(OMP_NUM_THREADS="4")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("0\n", "")
