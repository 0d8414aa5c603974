import os
import subprocess
import sys
import threading
from importlib.util import find_spec

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from widestep.data import jpeg_regions
from widestep.data.augment import Box
from widestep.data.jpeg_regions import decode_region

is_installed = find_spec("nvidia") is not None and find_spec("nvidia.nvimgcodec") is not None
installed = pytest.mark.skipif(not is_installed, reason="needs the extra `fast`")


def jpeg(width, height, **options):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(pixels, **options)


def cut(data, box):
    left, top, width, height = box
    return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)[top : top + height, left : left + width]


@installed
@given(st.sampled_from(["444", "422", "420", "440", "411", "gray"]), st.integers(16, 140), st.integers(16, 140), st.data())
def test_region_is_cut_out_of_the_whole(sampling, width, height, data):
    box_width, box_height = data.draw(st.integers(16, width)), data.draw(st.integers(16, height))
    left, top = data.draw(st.integers(0, width - box_width)), data.draw(st.integers(0, height - box_height))
    box = Box(left, top, box_width, box_height)
    if sampling == "gray":
        grey = np.random.default_rng(width).integers(0, 256, (height, width, 1), dtype=np.uint8)
        encoded = simplejpeg.encode_jpeg(grey, colorspace="GRAY", colorsubsampling="Gray")
    else:
        encoded = jpeg(width, height, colorsubsampling=sampling)
    assert np.array_equal(decode_region(encoded, box), cut(encoded, box))


@installed
@pytest.mark.parametrize("turned", range(1, 9))
def test_orientation_is_not_applied(picture, encoded, turned):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = turned
    data, box = encoded(picture(90, 60), exif=exif), Box(10, 20, 40, 30)
    assert np.array_equal(decode_region(data, box), cut(data, box))


@installed
def test_every_thread_has_its_own_decoder():
    data, box = jpeg(200, 150), Box(11, 20, 120, 90)
    expected, found = cut(data, box), []

    def work():
        found.extend(np.array_equal(decode_region(data, box), expected) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80


@pytest.mark.parametrize("box", [Box(0, 0, 15, 40), Box(0, 0, 40, 15)])
def test_narrow_boxes_are_left_to_others(box):
    assert decode_region(jpeg(60, 50), box) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", bytes(500)])
def test_what_it_cannot_decode_is_left_to_others(data):
    assert decode_region(data, Box(0, 0, 20, 20)) is None


@pytest.fixture
def anew():
    """The search for nvImageCodec begins again, before and after."""
    jpeg_regions._tried_codec.cache_clear()
    yield
    jpeg_regions._tried_codec.cache_clear()


def test_without_it_nothing_is_decoded(anew, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia", None)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    assert decode_region(jpeg(60, 50), Box(0, 0, 40, 40)) is None


@installed
def test_it_is_not_used_when_its_pixels_differ(anew, monkeypatch):
    """Without interpolated colours, as its own default is."""
    monkeypatch.setattr(jpeg_regions, "_OPTIONS", ":fancy_upsampling=0 :fast_idct=0")
    monkeypatch.setattr(jpeg_regions, "_of_thread", threading.local())
    assert decode_region(jpeg(60, 50), Box(0, 0, 40, 40)) is None


@installed
def test_it_is_quiet_and_leaves_the_environment_as_it_was(program):
    code = """
import os
before = dict(os.environ)
import numpy as np, simplejpeg
from widestep.data.jpeg_regions import Box, decode_region
data, box = simplejpeg.encode_jpeg(np.zeros((50, 50, 3), np.uint8)), Box(0, 0, 20, 20)
print(decode_region(data, box).shape, decode_region(data[:300], box), os.environ == before)
"""
    extra = {"NVIMGCODEC_EXTENSIONS_PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=program.environment(**extra)
    )
    assert (done.stdout, done.stderr) == ("(20, 20, 3) None True\n", "")
    assert "NVIMGCODEC_EXTENSIONS_PATH" not in os.environ
