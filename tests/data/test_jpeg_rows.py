import io
from itertools import pairwise

import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from widestep.data.jpeg_rows import find_layout, only_rows, without_rows_below

SAMPLINGS = {"444": (8, 8), "422": (16, 8), "420": (16, 16)}


def jpeg(width, height, sampling="420", seed=0, **options):
    """Noise over a slope: every block differs and no colour is constant."""
    noise = np.random.default_rng(seed).integers(0, 96, (height, width, 3))
    pixels = ((np.arange(height)[:, None, None] * 3 + np.arange(width)[:, None] * 2 + noise) & 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    if sampling.startswith("grey"):
        image.convert("L").save(buffer, "JPEG", **options)
        data = bytearray(buffer.getvalue())
        if sampling == "grey 2x2":  # some programs write so, and it means the same for one component
            data[data.index(b"\xff\xc0") + 11] = 0x22
        return bytes(data)
    image.save(buffer, "JPEG", subsampling=["444", "422", "420"].index(sampling), **options)
    return buffer.getvalue()


def decoded(data, strict=True):
    return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=strict)


@pytest.mark.parametrize("sampling", ["444", "422", "420", "grey", "grey 2x2"])
@pytest.mark.parametrize("height", [5, 48, 59])
def test_rows_are_those_of_the_whole(sampling, height):
    """For every first and last row."""
    whole = jpeg(24, height, sampling, restart_marker_rows=1)
    layout, expected = find_layout(whole), decoded(whole)
    assert layout.has_row_markers
    for top in range(height):
        for bottom in range(top + 1, height + 1):
            rows = only_rows(whole, layout, top, bottom)
            part = decoded(rows.data)
            assert rows.first <= top
            assert np.array_equal(part[top - rows.first : bottom - rows.first], expected[top:bottom])
            # No more than the rows of blocks around it and one neighbour on either side.
            assert part.shape[0] <= bottom - top + 2 * layout.blocks_high


samplings = st.sampled_from(["444", "422", "420", "grey", "grey 2x2"])


@given(samplings, st.integers(1, 60), st.integers(100, 400), st.data())
def test_rows_of_tall_images(sampling, width, height, data):
    """More rows than there are numbers of markers (8)."""
    whole = jpeg(width, height, sampling, restart_marker_rows=1)
    top = data.draw(st.integers(0, height - 1) | st.sampled_from(range(0, height, 8)))
    bottom = data.draw(st.integers(top + 1, height))
    rows = only_rows(whole, find_layout(whole), top, bottom)
    part = decoded(rows.data)[top - rows.first : bottom - rows.first]
    assert np.array_equal(part, decoded(whole)[top:bottom])


@given(samplings, st.integers(1, 60), st.integers(1, 120), st.data())
@example("420", 40, 64, None)
def test_without_the_rows_below(sampling, width, height, data):
    """Also when the box ends where blocks do: colours at half the height are interpolated across."""
    whole = jpeg(width, height, sampling)
    bottoms = [16, 32, 48] if data is None else [data.draw(st.integers(1, height) | st.just(min(height, 16)))]
    for bottom in bottoms:
        upper = decoded(without_rows_below(whole, find_layout(whole), bottom), strict=False)
        assert bottom <= upper.shape[0] <= min(height, bottom + 2)
        assert np.array_equal(upper[:bottom], decoded(whole)[:bottom])


@pytest.mark.parametrize("sampling", ["440", "411"])
@pytest.mark.parametrize("bottom", [8, 15, 16, 17, 31, 32])
def test_other_samplings_without_the_rows_below(sampling, bottom):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    whole = simplejpeg.encode_jpeg(pixels, colorsubsampling=sampling)
    upper = decoded(without_rows_below(whole, find_layout(whole), bottom), strict=False)
    assert np.array_equal(upper[:bottom], decoded(whole)[:bottom])


@pytest.mark.parametrize("sampling", ["444", "422", "420"])
def test_layout(sampling):
    across, down = SAMPLINGS[sampling]
    data = jpeg(3 * across + 1, 50, sampling, restart_marker_rows=1)
    layout = find_layout(data)
    assert layout.height == 50
    assert data[layout.height_at : layout.height_at + 4] == bytes([0, 50, 0, 3 * across + 1])
    assert layout.blocks_high == down
    assert layout.has_row_markers
    header = data.index(b"\xff\xda")  # then a length of 12: itself, a count, three components, three bytes
    assert layout.data_at == header + 14


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 1}, {"restart_marker_rows": 2}])
def test_other_intervals_are_no_rows(options):
    assert not find_layout(jpeg(60, 50, **options)).has_row_markers


def test_a_size_in_a_thumbnail_is_not_the_images():
    """Bytes of an application's segment may look like any marker."""
    exif = b"Exif\x00\x00" + jpeg(9, 7, restart_marker_rows=1)
    layout = find_layout(jpeg(40, 50, exif=exif))
    assert (layout.height, layout.has_row_markers) == (50, False)


def test_unusual_files_have_no_layout():
    data = jpeg(40, 50)
    scan = data.index(b"\xff\xda")
    assert find_layout(jpeg(40, 50, progressive=True)) is None
    assert find_layout(data[:scan]) is None
    assert find_layout(data[: scan + 4] + b"\x01" + data[scan + 5 :]) is None  # the first of several scans
    filled = data[:scan] + b"\xff" + data[scan:]  # a filling byte before a marker, which could be taken for a length 0xda00
    assert find_layout(filled.ljust(scan + 2 + 0xDA00, b"\0") + data[scan:]) is None
    frame = data.index(b"\xff\xc0")
    again = data[frame : frame + 2 + data[frame + 3]]
    assert find_layout(data[:frame] + again + data[frame:]) is None


def test_rows_are_numbered_anew():
    """Rows 9..13 of 20: their five segments are kept, with markers 0, 1, 2, 3 between them."""
    whole = jpeg(24, 160, "444", restart_marker_rows=1)
    layout = find_layout(whole)
    rows = only_rows(whole, layout, 73, 111)
    places = [place for place in range(layout.data_at, len(rows.data) - 1) if rows.data[place] == 0xFF]
    markers = [rows.data[place + 1] for place in places if 0xD0 <= rows.data[place + 1] <= 0xD9]
    assert markers == [0xD0, 0xD1, 0xD2, 0xD3, 0xD9]
    assert rows.first == 72
    assert decoded(rows.data).shape == (40, 24, 3)


def starts_of_rows(data):
    layout = find_layout(data)
    found = [p for p in range(layout.data_at, len(data) - 1) if data[p] == 0xFF and 0xD0 <= data[p + 1] <= 0xD7]
    return [layout.data_at, *(place + 2 for place in found)]


def test_lost_row_is_noticed():
    """Without one row of nine, the count is short; without eight, the numbers still go on but the count does not."""
    data = jpeg(40, 200, "444", restart_marker_rows=1)
    starts = starts_of_rows(data)
    for lost in (1, 8):
        short = data[: starts[3]] + data[starts[3 + lost] :]
        assert only_rows(short, find_layout(short), 0, 8) is None


def test_rows_out_of_order_are_noticed():
    data = jpeg(40, 72, "444", restart_marker_rows=1)
    starts = starts_of_rows(data)
    segments = [data[a:b] for a, b in pairwise(starts)]
    segments[2], segments[3] = segments[3], segments[2]
    swapped = data[: starts[0]] + b"".join(segments) + data[starts[-1] :]
    assert len(swapped) == len(data)
    assert only_rows(swapped, find_layout(swapped), 0, 8) is None


@pytest.mark.parametrize("tail", [b"", b"\xff\xd9\x00"])
def test_data_must_end_with_the_image(tail):
    data = jpeg(40, 72, restart_marker_rows=1)[:-2] + tail
    assert only_rows(data, find_layout(data), 0, 8) is None
