"""Small pictures and data sets of folders, made on the spot."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


def smooth(width: int, height: int, phase: float = 0.0) -> NDArray[np.uint8]:
    """A picture without sharp edges (JPEG keeps it nearly as it is), different for every phase."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + phase), np.cos(y / 7 + phase), np.sin((x + y) / 11 - phase)]
    return np.stack([127 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def picture() -> Callable[..., NDArray[np.uint8]]:
    return smooth


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    def encode(image: Image.Image | NDArray[np.uint8], form: str = "JPEG", **options: object) -> bytes:
        buffer = io.BytesIO()
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(buffer, form, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    """Write files given as {relative path: bytes} (a path that ends in / is an empty folder); return their root."""

    def write(content: Mapping[str, bytes], root: str = "set") -> Path:
        for relative, data in content.items():
            path = tmp_path / root / relative
            if relative.endswith("/"):
                path.mkdir(parents=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return tmp_path / root

    return write
