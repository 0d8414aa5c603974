import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from widestep.data import decode
from widestep.data.augment import Box
from widestep.data.decode import UndecodableError, explaining, open_picture
from widestep.errors import DataError


class OneFile:
    """A store as far as errors need one."""

    def name(self, image):
        return f"photo {image}.jpg"


def reading(data):
    with explaining(OneFile(), 7, "folder:/data/a b"):
        return open_picture(data).decode()


def test_plain_jpeg(picture, encoded):
    original = picture(60, 40)
    pixels = reading(encoded(original, quality=95, subsampling=0))
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    assert abs(pixels.astype(int) - original).max() <= 8
    assert abs(pixels.astype(int) - original).mean() < 1.5


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"quality": 30}])
def test_plain_jpeg_as_pillow_decodes_it(picture, encoded, options):
    data = encoded(picture(61, 43), **options)
    pixels = reading(data)
    with Image.open(io.BytesIO(data)) as image:
        assert abs(pixels.astype(int) - np.asarray(image)).max() <= 2


def test_what_goes_through_pillow(picture, encoded):
    pixels = picture(20, 20)
    assert not open_picture(pixels).uses_pillow
    assert not open_picture(encoded(pixels)).uses_pillow
    assert not open_picture(encoded(pixels, progressive=True)).uses_pillow
    assert open_picture(encoded(pixels, "PNG")).uses_pillow
    assert open_picture(encoded(Image.fromarray(pixels).convert("CMYK"))).uses_pillow


def test_size_is_known_before_decoding(picture, encoded):
    data = encoded(picture(40, 30))
    for stored in (picture(40, 30), encoded(picture(40, 30), "PNG"), data, data[:-20]):
        opened = open_picture(stored)
        assert (opened.width, opened.height) == (40, 30)


def test_pixels_are_taken_as_they_are(picture):
    pixels = picture(20, 10)
    assert np.shares_memory(open_picture(pixels).decode(), pixels)
    assert np.array_equal(open_picture(pixels).decode(Box(3, 2, 9, 5)), pixels[2:7, 3:12])


def test_grey_becomes_three_equal_channels(picture, encoded):
    grey = picture(50, 30)[:, :, 0]
    pixels = reading(encoded(grey, quality=95))
    assert pixels.shape == (30, 50, 3)
    assert (pixels == pixels[:, :, :1]).all()
    assert abs(pixels[:, :, 0].astype(int) - grey).max() <= 6


def test_cmyk(encoded):
    """Ink (55, 205, 245, 0) leaves light 255 - ink."""
    pixels = reading(encoded(Image.new("CMYK", (16, 24), (55, 205, 245, 0)), quality=100))
    assert pixels.shape == (24, 16, 3)
    assert abs(pixels.astype(int) - [200, 50, 10]).max() <= 2


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_other_forms_under_the_name_of_a_jpeg(picture, encoded, form, options):
    original = picture(30, 20)
    assert np.array_equal(reading(encoded(original, form, **options)), original)


def test_palette_with_transparency(encoded):
    image = Image.new("P", (4, 3), 1)
    image.putpalette([9, 9, 9, 200, 50, 10])
    pixels = reading(encoded(image, "PNG", transparency=bytes([0, 128])))
    assert (pixels == [200, 50, 10]).all()


def test_transparency_is_dropped(encoded):
    assert (reading(encoded(Image.new("RGBA", (4, 3), (200, 50, 10, 0)), "PNG")) == [200, 50, 10]).all()


def test_orientation_is_not_applied(picture, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert reading(encoded(picture(40, 20), exif=exif)).shape == (20, 40, 3)
    assert reading(encoded(picture(40, 20), "PNG", exif=exif)).shape == (20, 40, 3)


def damaged(data: bytes, how: str) -> bytes:
    half = len(data) // 2
    return {
        "half": data[:half],
        "last bytes": data[:-2],
        "header only": data[:30],
        "two bytes": data[:2],
        "zeroed": data[:half] + bytes(200) + data[half + 200 :],
    }[how]


@pytest.mark.parametrize("how", ["half", "last bytes", "header only", "two bytes", "zeroed"])
@pytest.mark.parametrize("kind", ["jpeg", "progressive", "grey"])
def test_damaged_jpeg_is_named(picture, encoded, how, kind):
    noisy = picture(200, 150) ^ np.random.default_rng(0).integers(0, 32, (150, 200, 3), dtype=np.uint8)
    data = encoded(noisy[:, :, 0] if kind == "grey" else noisy, progressive=kind == "progressive")
    with pytest.raises(DataError, match=r"must decode.*'photo 7\.jpg'.*Replace or remove"):
        reading(damaged(data, how))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("how", ["half", "header only"])
def test_other_damaged_files_are_named(picture, encoded, form, how):
    with pytest.raises(DataError, match=r"must decode.*photo 7"):
        reading(damaged(encoded(picture(50, 40), form), how))


def test_damaged_cmyk_is_named(encoded):
    data = encoded(Image.effect_noise((80, 80), 90).convert("RGB").convert("CMYK"))
    with pytest.raises(DataError, match="truncated"):
        reading(damaged(data, "half"))


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", bytes(5000)])
def test_what_is_no_image(data):
    with pytest.raises(DataError, match=r"'photo 7\.jpg' does not: it is not a JPEG, PNG, WebP or BMP image\."):
        reading(data)


def test_other_forms_are_refused(picture, encoded):
    with pytest.raises(DataError, match="not a JPEG, PNG, WebP or BMP image"):
        reading(encoded(picture(8, 8), "GIF"))


def png_header(width: int, height: int) -> bytes:
    """Signature and header of a PNG without any pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + b"\x78\x9c"
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data)
    )


def jpeg_header(data: bytes, width: int, height: int) -> bytes:
    """The same JPEG with other sizes in its frame header (marker FF C0)."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


@pytest.mark.parametrize("side", [7072, 9000, 10_000, 20_000], ids=["just over", "quiet", "warned", "refused by Pillow"])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_huge_image_is_refused_from_its_header(picture, encoded, side, form):
    data = png_header(side, side) if form == "PNG" else jpeg_header(encoded(picture(16, 16)), side, side)
    with pytest.raises(DataError, match=r"photo 7.*50,000,000"):
        reading(data)


def test_as_many_pixels_as_allowed_are_not_refused_for_that(picture, encoded):
    with pytest.raises(DataError, match=r"Premature end|Corrupt"):
        reading(jpeg_header(encoded(picture(16, 16)), 10_000, 5_000))


def test_narrow_image_is_refused(encoded):
    """Its long side would not fit in memory once the short one has been brought to 256 pixels."""
    for size in ((1, 101), (101, 1)):
        with pytest.raises(DataError, match="one side is over 100 times the other"):
            reading(encoded(Image.new("RGB", size), "PNG"))
    assert reading(encoded(Image.new("RGB", (100, 1)), "PNG")).shape == (1, 100, 3)


def test_more_than_8_bits_are_refused(encoded):
    deep = Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16))
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        reading(encoded(deep, "PNG"))


def test_other_errors_are_not_explained():
    with pytest.raises(KeyError), explaining(OneFile(), 7, "folder:/data/a b"):
        raise KeyError("ours")


FORMS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "rows 4:4:4": {"subsampling": 0, "restart_marker_rows": 1},
    "rows 4:2:2": {"subsampling": 1, "restart_marker_rows": 1},
    "rows 4:2:0": {"subsampling": 2, "restart_marker_rows": 1},
    "rows grey": {"restart_marker_rows": 1},
    "other markers": {"restart_marker_blocks": 3},
    # 22 x 17 blocks in the image of 170 x 130 pixels: 17 intervals, as many as rows.
    "as many markers as rows": {"subsampling": 0, "restart_marker_blocks": 23},
    "progressive": {"progressive": True},
    "PNG": {"form": "PNG"},
}


def noisy(width, height):
    slope = np.arange(height)[:, None, None] * 2 + np.arange(width)[:, None]
    return (slope + np.random.default_rng(width).integers(0, 90, (height, width, 3)) & 255).astype(np.uint8)


@pytest.fixture(params=["with nvImageCodec", "without"])
def codec(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setattr(decode, "decode_region", lambda data, box: None)


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("size", [(170, 130), (129, 333), (60, 50)])
def test_a_box_is_cut_out_of_the_whole(encoded, codec, form, trusted, size):
    pixels = noisy(*size)
    data = encoded(pixels[:, :, 0] if "grey" in form else pixels, **FORMS[form])
    whole = open_picture(data).decode()
    width, height = size

    @settings(max_examples=8)
    @given(st.data())
    def check(drawn):
        left, top = (
            drawn.draw(st.integers(0, width - 1)),
            drawn.draw(st.integers(0, height - 1) | st.integers(0, 6).map((8).__mul__)),
        )
        across = drawn.draw(st.integers(1, width - left))
        down = drawn.draw(st.integers(1, height - top) | st.just(min(16, height - top)))
        found = open_picture(data).decode(Box(left, top, across, down), trusted=trusted)
        assert np.array_equal(found, whole[top : top + down, left : left + across])

    check()


@pytest.fixture
def decoded_rows(monkeypatch):
    """How many rows of pixels simplejpeg has decoded, one number a call."""
    rows, real = [], decode.simplejpeg.decode_jpeg

    def counting(*arguments, **options):
        pixels = real(*arguments, **options)
        rows.append(len(pixels))
        return pixels

    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", counting)
    return rows


def test_only_rows_around_a_box_are_decoded(encoded, decoded_rows):
    """Rows 40..79 lie in the blocks of rows 32..79; row 80 is interpolated with 79, so its blocks are needed too."""
    marked = open_picture(encoded(noisy(200, 240), restart_marker_rows=1))
    marked.decode(Box(5, 40, 60, 40))
    marked.decode(Box(5, 40, 60, 40), trusted=True)
    assert decoded_rows == [64, 64]


def test_what_is_below_a_box_is_looked_at_only_once(encoded, decoded_rows, monkeypatch):
    monkeypatch.setattr(decode, "decode_region", lambda data, box: None)
    plain = open_picture(encoded(noisy(200, 240)))
    plain.decode(Box(5, 40, 60, 40))
    plain.decode(Box(5, 40, 60, 40), trusted=True)
    assert decoded_rows == [240, 82]


def test_small_images_are_decoded_as_a_whole(encoded, decoded_rows):
    open_picture(encoded(noisy(100, 120), restart_marker_rows=1)).decode(Box(5, 40, 60, 40), trusted=True)
    assert decoded_rows == [120]


@pytest.mark.parametrize("how", ["half", "last bytes", "zeroed"])
def test_damage_anywhere_is_found_without_row_markers(encoded, how):
    data = damaged(encoded(noisy(200, 240), subsampling=0), how)
    with pytest.raises(UndecodableError):
        open_picture(data).decode(Box(0, 0, 40, 20))


@pytest.mark.parametrize("how", ["half", "last bytes"])
def test_cut_data_are_found_with_row_markers(encoded, how):
    data = damaged(encoded(noisy(200, 240), restart_marker_rows=1), how)
    with pytest.raises(UndecodableError):
        open_picture(data).decode(Box(0, 0, 40, 20))


def test_with_row_markers_damage_is_found_in_the_rows_that_are_used(encoded):
    """As the docstring says: that is the price of not reading the others."""
    data = encoded(noisy(200, 240), restart_marker_rows=1)
    middle = len(data) * 5 // 8  # rows of about 150
    broken = data[:middle] + bytes(100) + data[middle + 100 :]
    with pytest.raises(UndecodableError):
        open_picture(broken).decode()
    with pytest.raises(UndecodableError):
        open_picture(broken).decode(Box(0, 100, 40, 80))
    box = Box(0, 0, 40, 40)
    assert np.array_equal(open_picture(broken).decode(box), open_picture(data).decode(box))
