import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from widestep.data import decode
from widestep.data.decode import read_image
from widestep.errors import DataError


@pytest.fixture
def reading(tmp_path):
    def read(data: bytes, name: str = "x.jpg"):
        path = tmp_path / name
        path.write_bytes(data)
        return read_image(path)

    return read


def test_plain_jpeg(reading, picture, encoded):
    original = picture(60, 40)
    pixels = reading(encoded(original, quality=95, subsampling=0))
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    assert abs(pixels.astype(int) - original).max() <= 8
    assert abs(pixels.astype(int) - original).mean() < 1.5


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"quality": 30}])
def test_plain_jpeg_as_pillow_decodes_it(reading, picture, encoded, tmp_path, options):
    data = encoded(picture(61, 43), **options)
    pixels = reading(data)
    with Image.open(tmp_path / "x.jpg") as image:
        assert abs(pixels.astype(int) - np.asarray(image)).max() <= 2


def test_plain_jpeg_does_not_go_through_pillow(reading, picture, encoded, monkeypatch):
    monkeypatch.setattr(decode, "_decode_with_pillow", None)
    reading(encoded(picture(20, 20)))


def test_grey_becomes_three_equal_channels(reading, picture, encoded):
    grey = picture(50, 30)[:, :, 0]
    pixels = reading(encoded(grey, quality=95))
    assert pixels.shape == (30, 50, 3)
    assert (pixels == pixels[:, :, :1]).all()
    assert abs(pixels[:, :, 0].astype(int) - grey).max() <= 6


def test_cmyk(reading, encoded):
    """Ink (55, 205, 245, 0) leaves light 255 - ink."""
    pixels = reading(encoded(Image.new("CMYK", (16, 24), (55, 205, 245, 0)), quality=100))
    assert pixels.shape == (24, 16, 3)
    assert abs(pixels.astype(int) - [200, 50, 10]).max() <= 2


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_other_forms_under_the_name_of_a_jpeg(reading, picture, encoded, form, options):
    original = picture(30, 20)
    assert np.array_equal(reading(encoded(original, form, **options), "x.JPEG"), original)


def test_palette_with_transparency(reading, encoded):
    image = Image.new("P", (4, 3), 1)
    image.putpalette([9, 9, 9, 200, 50, 10])
    pixels = reading(encoded(image, "PNG", transparency=bytes([0, 128])))
    assert (pixels == [200, 50, 10]).all()


def test_transparency_is_dropped(reading, encoded):
    assert (reading(encoded(Image.new("RGBA", (4, 3), (200, 50, 10, 0)), "PNG")) == [200, 50, 10]).all()


def test_orientation_is_not_applied(reading, picture, encoded):
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
def test_damaged_jpeg_is_named(reading, picture, encoded, how, kind):
    noisy = picture(200, 150) ^ np.random.default_rng(0).integers(0, 32, (150, 200, 3), dtype=np.uint8)
    data = encoded(noisy[:, :, 0] if kind == "grey" else noisy, progressive=kind == "progressive")
    with pytest.raises(DataError, match=r"must decode.*x\.jpg.*Replace or remove"):
        reading(damaged(data, how))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("how", ["half", "header only"])
def test_other_damaged_files_are_named(reading, picture, encoded, form, how):
    with pytest.raises(DataError, match=r"must decode.*x\.png"):
        reading(damaged(encoded(picture(50, 40), form), how), "x.png")


def test_damaged_cmyk_is_named(reading, encoded):
    data = encoded(Image.effect_noise((80, 80), 90).convert("RGB").convert("CMYK"))
    with pytest.raises(DataError, match="truncated"):
        reading(damaged(data, "half"))


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", bytes(5000)])
def test_what_is_no_image(reading, data):
    with pytest.raises(DataError, match=r"'.*x\.jpg' does not: it is not a JPEG, PNG, WebP or BMP image\."):
        reading(data)


def test_other_forms_are_refused(reading, picture, encoded):
    with pytest.raises(DataError, match="not a JPEG, PNG, WebP or BMP image"):
        reading(encoded(picture(8, 8), "GIF"))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"must be readable.*gone\.jpg.*No such file"):
        read_image(tmp_path / "gone.jpg")


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
def test_huge_image_is_refused_from_its_header(reading, picture, encoded, side, form):
    data = png_header(side, side) if form == "PNG" else jpeg_header(encoded(picture(16, 16)), side, side)
    with pytest.raises(DataError, match=r"x\.jpg.*50,000,000"):
        reading(data)


def test_as_many_pixels_as_allowed_are_not_refused_for_that(reading, picture, encoded):
    with pytest.raises(DataError, match=r"Premature end|Corrupt"):
        reading(jpeg_header(encoded(picture(16, 16)), 10_000, 5_000))


def test_narrow_image_is_refused(reading, encoded):
    """Its long side would not fit in memory once the short one has been brought to 256 pixels."""
    for size in ((1, 101), (101, 1)):
        with pytest.raises(DataError, match="one side is over 100 times the other"):
            reading(encoded(Image.new("RGB", size), "PNG"))
    assert reading(encoded(Image.new("RGB", (100, 1)), "PNG")).shape == (1, 100, 3)


def test_more_than_8_bits_are_refused(reading, encoded):
    deep = Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16))
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        reading(encoded(deep, "PNG"))
