"""Photographs that are drawn, and the forms that a benchmark of loading reads them in."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_CLASSES = 5
_SIDES = ((375, 500), (500, 375), (333, 500), (400, 400), (768, 1024))
_QUALITY = 92


def draw_photographs(folder: Path, num_images: int) -> None:
    """Draw photographs into folder/train/CLASS/*.jpg and folder/val: patterns of every size, as in nature, with 1/f weights.

    At quality 92 most take about 100 kB, as ImageNet's do.
    """
    for image in range(num_images):
        part = "val" if image < _CLASSES else "train"
        place = folder / part / f"class{image % _CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        height, width = _SIDES[image % len(_SIDES)]
        pixels = _patterns(np.random.default_rng(image), height, width)
        Image.fromarray(pixels).save(place / f"{image:05d}.jpg", quality=_QUALITY)


def files_of(folder: Path) -> list[Path]:
    """Return the training photographs of a folder in order."""
    return sorted(path for path in (folder / "train").glob("*/*") if path.is_file())


def pack(folder: Path, out: Path, form: str) -> None:
    """Make the packed form of a folder with widestep's own command: `jpeg` or `raw`, short side 256."""
    command = [sys.executable, "-m", "widestep", "data", "pack", f"folder:{folder}", str(out), "--store", form]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write_tar(folder: Path, out: Path) -> None:
    """Write the training photographs as one shard with the names of WebDataset."""
    classes = sorted(path.name for path in (folder / "train").iterdir())
    with tarfile.open(out, "w") as shard:
        for number, path in enumerate(files_of(folder)):
            label = str(classes.index(path.parent.name)).encode()
            for name, held in ((f"{number:06d}.jpg", path.read_bytes()), (f"{number:06d}.cls", label)):
                member = tarfile.TarInfo(name)
                member.size = len(held)
                shard.addfile(member, io.BytesIO(held))


def write_parquet(folder: Path, out: Path) -> None:
    """Write the training photographs in the columns that Hugging Face data sets have; needs pyarrow."""
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": path.read_bytes(), "path": path.name} for path in files_of(folder)]
    labels = [sum(map(ord, path.parent.name)) % _CLASSES for path in files_of(folder)]
    features = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(pyarrow.table({"image": images, "label": labels}).replace_schema_metadata(told), out)


def _patterns(generator: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return noise whose amplitude falls with its frequency, in correlated colours: uint8 (height, width, 3)."""
    down, across = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    weight = 1 / np.maximum(np.hypot(down, across), 1 / max(height, width)) ** 1.1
    noise = np.fft.rfft2(generator.standard_normal((3, height, width)))
    layers = np.fft.irfft2(noise * weight, (height, width))
    light, red, blue = layers / layers.std(axis=(1, 2), keepdims=True)
    colours = np.stack([light + 0.3 * red, light - 0.1 * red - 0.1 * blue, light + 0.3 * blue], axis=-1)
    pixels: NDArray[np.uint8] = np.clip(128 + 50 * colours, 0, 255).astype(np.uint8)
    return pixels
