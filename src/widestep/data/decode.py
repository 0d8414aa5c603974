"""Image files to pixels: never a guess, either the image or an error that names the file.

Plain JPEG is decoded by libjpeg-turbo in strict mode, at full size and with its accurate transforms. Everything else
(PNG, WebP, BMP, CMYK JPEG, whatever the file is called) goes through Pillow. The orientation in EXIF is not applied, as
in torchvision's ImageFolder; transparency is dropped and grey becomes three equal channels.
"""

import io
import os
import struct
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from widestep.errors import DataError

MAX_PIXELS = 50_000_000
MAX_ASPECT = 100

Pixels = NDArray[np.uint8]
"""An image, uint8, shape (height, width, 3), red first."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error)


def read_image(path: str | os.PathLike[str]) -> Pixels:
    """Read an image file as red, green and blue.

    Raises
    ------
    DataError
        When the file cannot be read, is no image, is damaged (cut short, or its data do not decode), has more than
        50 million pixels or a side over 100 times the other (both seen in its header, before decoding), or has more
        than 8 bits a channel.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"Every image must be readable. {os.fspath(path)!r} is not ({error.strerror}): "
            "restore the file or correct its permissions."
        ) from error
    try:
        return decode(data)
    except (*_DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"Every image must decode. {os.fspath(path)!r} does not: {_reason(error)}. Replace or remove the file."
        ) from error


def decode(data: bytes) -> Pixels:
    """Decode the bytes of an image file; raises ValueError or what Pillow raises when that is not possible."""
    if data.startswith(b"\xff\xd8"):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return _decode_with_pillow(data)
        if colours not in ("CMYK", "YCCK"):
            _check_size(width, height)
            pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
            return pixels
    return _decode_with_pillow(data)


def _decode_with_pillow(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _check_size(*image.size)
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"it has more than 8 bits a channel (mode {image.mode})")
        # Through RGBA, because Pillow warns when it drops the transparency of a palette.
        opaque = image.convert("RGBA") if "transparency" in image.info else image
        return np.asarray(opaque.convert("RGB"))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width:,} x {height:,} pixels, and at most {MAX_PIXELS:,} are allowed")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"of its {width:,} x {height:,} pixels, one side is over {MAX_ASPECT} times the other")


def _reason(error: Exception) -> str:
    """Say why in a few words that are the same at every attempt (some of Pillow's messages hold an address)."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not a JPEG, PNG, WebP or BMP image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it has more than {MAX_PIXELS:,} pixels"
    return str(error).strip().rstrip(".") or type(error).__name__
