"""The packed form of a data set: a few large files that `widestep data pack` wrote, with checksums of everything.

A directory holds `index.json` (read first, written last), `arrays.safetensors` (label, shard, offset and size of every
image, names, heights and widths of raw pixels) and shards `train-00000.bin`, ..., `val-00000.bin`, ...: the images one after
the other.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from widestep.data.stores.index_cache import unpacked_text
from widestep.data.stores.labels import checked_classes
from widestep.data.stores.shard_files import ShardFiles
from widestep.data.stores.store import Pixels
from widestep.errors import DataError

INDEX, ARRAYS, UNFINISHED = "index.json", "arrays.safetensors", "unfinished.jsonl"
FORMAT, VERSION = "widestep-packed", 1
_DTYPES = {
    **{"labels": np.int64, "shards": np.int32, "offsets": np.int64, "sizes": np.int64},
    **{"heights": np.int32, "widths": np.int32},
}
_CHUNK = 1 << 22


@dataclass(frozen=True)
class PackedFile:
    """A file of a packed data set, with its size in bytes and its SHA-256."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PackedIndex:
    """What `index.json` says.

    Parameters
    ----------
    stored
        `jpeg` (files of images) or `raw` (pixels).
    source, options, libraries
        Where the images came from and how they were made: for people.
    """

    classes: tuple[str, ...]
    num_train: int
    num_val: int
    stored: str
    arrays: PackedFile
    shards: tuple[PackedFile, ...]
    source: Mapping[str, Any]
    options: Mapping[str, Any]
    libraries: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over classes, counts and the checksums of all files: it changes with every bit of every image."""
        content = [self.classes, self.num_train, self.num_val, self.stored, self.arrays.sha256]
        return hashlib.sha256(json.dumps([*content, [shard.sha256 for shard in self.shards]]).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return what is written."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


class PackedStore:
    """Images of a packed data set; keeps some 150 bytes an image and at most 256 open files."""

    def __init__(self, root: Path, index: PackedIndex, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.root, self.index = root, index
        self.classes, self.num_train, self.num_val = index.classes, index.num_train, index.num_val
        self.labels: NDArray[np.int64] = np.array(arrays["labels"], dtype=np.int64)
        self.fingerprint = index.fingerprint
        self._arrays, self._names = arrays, unpacked_text(arrays["names"])
        self._files = ShardFiles([root / shard.file for shard in index.shards])
        self._is_raw = index.stored == "raw"

    def read(self, image: int) -> bytes | Pixels:
        """Return an image as it is stored; raises DataError when a shard cannot be read or has become shorter."""
        shard, offset, size = (int(self._arrays[name][image]) for name in ("shards", "offsets", "sizes"))
        data = self._files.read(shard, offset, size)
        if not self._is_raw:
            return data
        height, width = int(self._arrays["heights"][image]), int(self._arrays["widths"][image])
        return np.frombuffer(data, np.uint8).reshape(height, width, 3).copy()  # a copy can be written to

    def name(self, image: int) -> str:
        """Return the shard of an image and its name in the source."""
        return f"{self._files.paths[int(self._arrays['shards'][image])]}: {self._names[image]}"

    def close(self) -> None:
        """Close the shards."""
        self._files.close()

    def damaged_files(self, progress: Callable[[int], None] | None = None) -> list[tuple[str, str]]:
        """Read every shard and return (path, what is wrong) of those that are not what was written.

        Parameters
        ----------
        progress
            Is told of the bytes that have been read.
        """
        found = []
        for shard in self.index.shards:
            path = self.root / shard.file
            digest = hashlib.sha256()
            try:
                with path.open("rb") as file:
                    while chunk := file.read(_CHUNK):
                        digest.update(chunk)
                        if progress is not None:
                            progress(len(chunk))
            except OSError as error:
                found.append((str(path), f"it cannot be read ({error.strerror})"))
                continue
            if digest.hexdigest() != shard.sha256:
                found.append((str(path), "its SHA-256 is not the one in the index"))
        return found


def open_packed(path: str | os.PathLike[str]) -> PackedStore:
    """Open a packed data set: checks the index, the sizes of all files and the checksum of the arrays, reads no image.

    Raises
    ------
    DataError
        When it is missing, unfinished, damaged or of a version that is not known here.
    """
    root = Path(path)
    if not (root / INDEX).is_file():
        if (root / UNFINISHED).exists():
            raise DataError(
                f"A packed data set must be complete. {str(root)!r} is not: run the same `widestep data pack` again."
            )
        raise DataError(
            f"A packed data set is a directory with {INDEX}. There is none in {str(root)!r}: correct the path, or make one "
            "with `widestep data pack`."
        )
    try:
        index = _parsed(json.loads((root / INDEX).read_bytes()))
        for file in (index.arrays, *index.shards):
            size = (root / file.file).stat().st_size
            if size != file.size:
                raise ValueError(f"{file.file} has {size:,} bytes instead of {file.size:,}")
        content = (root / index.arrays.file).read_bytes()
        if hashlib.sha256(content).hexdigest() != index.arrays.sha256:
            raise ValueError(f"{index.arrays.file} has another checksum than the index says")
        arrays = load(content)
        _check(index, arrays)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else f"{error}"
        raise DataError(
            f"A packed data set must be as it was written. {str(root)!r} is not: {what}. Copy it again or pack it anew."
        ) from error
    store = PackedStore(root, index, arrays)
    checked_classes(
        index.classes,
        store.labels[: store.num_train],
        store.labels[store.num_train :],
        lambda n: f"The label of {store.name(n)!r}",
        lambda n: f"The label of {store.name(store.num_train + n)!r}",
    )
    return store


def _parsed(about: Any) -> PackedIndex:
    """Return the index from what its file holds; raises ValueError, KeyError or TypeError when it is none."""
    if about["format"] != FORMAT or about["version"] != VERSION:
        raise ValueError(f"it is {about['format']!r} version {about['version']!r}, and {FORMAT!r} {VERSION} is known here")
    classes, counts = about["classes"], (about["num_train"], about["num_val"])
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ValueError("its classes are no list of names")
    if not all(type(count) is int and count > 0 for count in counts) or about["stored"] not in ("jpeg", "raw"):
        raise ValueError("its counts or its way of storing are not known")
    shards = tuple(_file(shard, r"(train|val)-[0-9]{5,9}\.bin") for shard in about["shards"])
    arrays = _file(about["arrays"], re.escape(ARRAYS))
    kept = {name: about[name] for name in ("source", "options", "libraries")}
    return PackedIndex(tuple(classes), *counts, about["stored"], arrays, shards, **kept)


def _file(about: Any, name: str) -> PackedFile:
    found = PackedFile(about["file"], about["size"], about["sha256"])
    if not (isinstance(found.file, str) and re.fullmatch(name, found.file) and type(found.size) is int and found.size >= 0):
        raise ValueError(f"its entry {found} is no file of it")
    return found


def _check(index: PackedIndex, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError or KeyError when the arrays do not fit the index: no image may lie outside its shard."""
    count = index.num_train + index.num_val
    for name, dtype in _DTYPES.items():
        if arrays[name].shape != (count,) or arrays[name].dtype != dtype:
            raise ValueError(f"its array {name} has another shape or type")
    shards, offsets, sizes = (arrays[name].astype(np.int64) for name in ("shards", "offsets", "sizes"))
    ends = np.array([shard.size for shard in index.shards], np.int64)
    if shards.min() < 0 or shards.max() >= len(ends) or offsets.min() < 0 or sizes.min() < 0:
        raise ValueError("an image lies in no shard")
    if (offsets > ends[shards]).any() or (sizes > ends[shards] - offsets).any():
        raise ValueError("an image reaches beyond its shard")
    if index.stored == "raw":
        heights, widths = arrays["heights"].astype(np.int64), arrays["widths"].astype(np.int64)
        if min(heights.min(), widths.min()) < 1 or (heights * widths * 3 != sizes).any():
            raise ValueError("raw pixels do not fit their height and width")
    if arrays["names"].dtype != np.uint8 or len(unpacked_text(arrays["names"])) != count:
        raise ValueError("its names are not one an image")
