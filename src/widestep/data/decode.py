"""Encoded images to pixels: never a guess, either the image or an error that names it.

Plain JPEG is decoded by libjpeg-turbo in strict mode, at full size and with its accurate transforms. Everything else
(PNG, WebP, BMP, CMYK JPEG, whatever the file is called) goes through Pillow. The orientation in EXIF is not applied, as
in torchvision's ImageFolder; transparency is dropped and grey becomes three equal channels.

A crop needs only a part of an image. Where that is faster only a part is decoded, and its pixels are always exactly those
that decoding everything and cutting would give.
"""

import io
import shlex
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from widestep.data.augment import Box
from widestep.data.jpeg_regions import decode_region
from widestep.data.jpeg_rows import find_layout, only_rows, without_rows_below
from widestep.data.stores.store import ImageStore, Pixels
from widestep.errors import DataError

MAX_PIXELS = 50_000_000
MAX_ASPECT = 100
MAX_SCANNED_PIXELS = 1_000_000_000
_SMALLEST_COUNTED = 1_000_000
_SCAN = b"\xff\xda"
_SMALLEST_IN_PARTS = 128 * 128  # pixels; below, decoding everything is the fastest (measured)

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


class UndecodableError(DataError):
    """An image does not decode; the message says why, in words that fit behind "it does not:"."""


@contextmanager
def explaining(store: ImageStore, image: int, spec: str) -> Iterator[None]:
    """Within this, the error of an image that does not decode, or cannot be read, names it and what to do.

    Parameters
    ----------
    spec
        What the store was opened by.
    """
    try:
        yield
    except DataError as error:
        what = f"Every image must decode. {store.name(image)!r} does not: {error}. Replace or remove it."
        raise DataError(
            f"{what if isinstance(error, UndecodableError) else error} `widestep data check {shlex.quote(spec)}` lists "
            "every damaged image; bad_images = skip trains without them."
        ) from error


class Picture(ABC):
    """An image of which the header has been read.

    Attributes
    ----------
    width, height
        In pixels.
    uses_pillow
        Whether it goes through Pillow, which is slower.
    """

    uses_pillow = False

    def __init__(self, width: int, height: int) -> None:
        _check_size(width, height)
        self.width = width
        self.height = height

    def decode(self, box: Box | None = None, *, trusted: bool = False) -> Pixels:
        """Return the pixels of the image, or of a box in it, shape (height, width, 3).

        When a box of a JPEG with a restart marker after every row of blocks is asked for, damage outside those rows is not
        seen: packed data sets have checksums, and `widestep data check` decodes everything.

        Parameters
        ----------
        box
            Which part; it must lie in the image.
        trusted
            Whether all of this image has been decoded before, so that damage need not be looked for again. Changes no
            pixel of a sound image.

        Raises
        ------
        UndecodableError
            When the data are damaged (cut short, or they do not decode) or have more than 8 bits a channel.
        """
        try:
            if box is None or (box.width, box.height) == (self.width, self.height):
                return self._whole()
            return self._part(box, trusted)
        except _DAMAGE as error:
            raise UndecodableError(_reason(error)) from error

    @abstractmethod
    def _whole(self) -> Pixels: ...

    def _part(self, box: Box, trusted: bool) -> Pixels:
        return cut(self._whole(), box)


def open_picture(stored: bytes | Pixels) -> Picture:
    """Read the header of an image file, or take pixels as they are.

    Raises
    ------
    UndecodableError
        When it is no image, or has more than 50 million pixels or a side over 100 times the other.
    """
    try:
        if isinstance(stored, np.ndarray):
            return _Raw(stored)
        if stored.startswith(b"\xff\xd8"):
            try:
                height, width, colours, _ = simplejpeg.decode_jpeg_header(stored)
            except ValueError:
                return _Other(stored)
            if colours not in ("CMYK", "YCCK"):
                return _PlainJpeg(stored, width, height)
        return _Other(stored)
    except _DAMAGE as error:
        raise UndecodableError(_reason(error)) from error


class _Raw(Picture):
    """Pixels that were stored as such."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(pixels.shape[1], pixels.shape[0])
        self._pixels = pixels

    def _whole(self) -> Pixels:
        return self._pixels


class _PlainJpeg(Picture):
    """A JPEG in grey or in three colours."""

    def __init__(self, data: bytes, width: int, height: int) -> None:
        super().__init__(width, height)
        self._data = data

    def _whole(self) -> Pixels:
        _check_scans(self._data, self.width * self.height)
        return _pixels(self._data)

    def _part(self, box: Box, trusted: bool) -> Pixels:
        if self.width * self.height < _SMALLEST_IN_PARTS:
            return cut(self._whole(), box)
        layout = find_layout(self._data)
        if layout is not None and layout.has_row_markers:
            rows = only_rows(self._data, layout, box.top, box.top + box.height)
            if rows is not None:
                return cut(_pixels(rows.data), box._replace(top=box.top - rows.first))
        if trusted:
            region = decode_region(self._data, box)
            if region is not None:
                return region
            if layout is not None:
                upper = without_rows_below(self._data, layout, box.top + box.height)
                return cut(_pixels(upper, strict=False), box)
        return cut(self._whole(), box)


class _Other(Picture):
    """What only Pillow decodes."""

    uses_pillow = True

    def __init__(self, data: bytes) -> None:
        self._image = Image.open(io.BytesIO(data), formats=_FORMATS)
        super().__init__(*self._image.size)
        if self._image.format == "JPEG":
            _check_scans(data, self.width * self.height)
        if self._image.mode.startswith(("I", "F")):
            raise ValueError(f"it has more than 8 bits a channel (mode {self._image.mode})")

    def _whole(self) -> Pixels:
        # Through RGBA, because Pillow warns when it drops the transparency of a palette.
        opaque = self._image.convert("RGBA") if "transparency" in self._image.info else self._image
        return np.asarray(opaque.convert("RGB"))


def _pixels(jpeg: bytes | bytearray, *, strict: bool = True) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", strict=strict)
    return pixels


def cut(pixels: Pixels, box: Box) -> Pixels:
    """Return the pixels in a box."""
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width:,} x {height:,} pixels, and at most {MAX_PIXELS:,} are allowed")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"of its {width:,} x {height:,} pixels, one side is over {MAX_ASPECT} times the other")


def _check_scans(jpeg: bytes, num_pixels: int) -> None:
    """Refuse a JPEG that goes over all of its pixels so often that decoding it takes minutes; ten times are usual."""
    if num_pixels < _SMALLEST_COUNTED:
        return
    num_scans = jpeg.count(_SCAN)
    if num_scans * num_pixels > MAX_SCANNED_PIXELS:
        raise ValueError(f"it has {num_pixels:,} pixels in {num_scans:,} scans")


def _reason(error: Exception) -> str:
    """Say why in a few words that are the same at every attempt (some of Pillow's messages hold an address)."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not a JPEG, PNG, WebP or BMP image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it has more than {MAX_PIXELS:,} pixels"
    return str(error).strip().rstrip(".") or type(error).__name__
