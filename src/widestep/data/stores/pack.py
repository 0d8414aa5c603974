"""Makes the packed form of a data set (see `packed_store`): images resized once, encoded so that a part decodes quickly.

Images are made smaller with Pillow's BILINEAR, which is antialiased: it is what evaluation does to bring the short side to
256 pixels, so packed validation images differ from the originals' by being encoded once more only. JPEG is written with
4:2:0 and a restart marker after every row of blocks, so that a crop needs only its rows.

A pack that was stopped goes on where its last whole shard ended; until everything is written there is no index, so nothing
half done is taken for a data set. What is written does not depend on the number of threads.
"""

import hashlib
import io
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, __version__, features
from safetensors.numpy import save

from widestep.data.decode import explaining, open_picture
from widestep.data.facts import parse_store_spec
from widestep.data.stores.index_cache import packed_text
from widestep.data.stores.packed_store import ARRAYS, INDEX, UNFINISHED, PackedFile, PackedIndex
from widestep.data.stores.store import ImageStore
from widestep.errors import DataError, UsageError
from widestep.files import (
    explained,
    remove_leftovers,
    sync_directory,
    write_atomically,
    write_json,
)
from widestep.lines import LineFile, read_json_lines
from widestep.locks import LOCK, DirectoryLock, is_lock

SHARD_BYTES = 256 << 20
_AHEAD_PER_THREAD = 8


@dataclass(frozen=True)
class PackOptions:
    """How images are stored.

    Parameters
    ----------
    short_side
        Pixels that the short side is brought to; images whose short side is not longer stay as they are. None: all do.
    stored
        `jpeg`: files of images, those that are resized as JPEG, the others byte for byte. `raw`: pixels, uint8.
    quality
        Of JPEG, 1 to 100.
    """

    short_side: int | None = 256
    stored: Literal["jpeg", "raw"] = "jpeg"
    quality: int = 90

    def __post_init__(self) -> None:
        if self.short_side is not None and not 8 <= self.short_side <= 8192:
            raise UsageError(f"--short-side is from 8 to 8,192 pixels, or original. Got {self.short_side}.")
        if self.stored not in ("jpeg", "raw"):
            raise UsageError(f"--store is jpeg or raw. Got {self.stored!r}.")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality is from 1 to 100. Got {self.quality}.")


@dataclass(frozen=True)
class PackSummary:
    """What was written: images and bytes in all, images found done from an earlier attempt, and the time it took."""

    num_images: int
    num_bytes: int
    num_found_done: int
    seconds: float
    fingerprint: str


@dataclass(frozen=True)
class _Packed:
    """An image as it is stored; height and width are 0 unless it is pixels."""

    data: bytes
    height: int
    width: int


@dataclass
class _Shard:
    """A finished shard, as the journal of an unfinished pack has it."""

    file: str
    size: int
    sha256: str
    sizes: list[int]
    heights: list[int]
    widths: list[int]


def pack(
    spec: str,
    store: ImageStore,
    out: Path,
    options: PackOptions,
    num_threads: int,
    progress: Callable[[int], None],
) -> PackSummary:
    """Write a data set in packed form.

    Parameters
    ----------
    spec
        What the store was opened by, for the index and to name images without the place where they lie.
    progress
        Is told the number of images that are done.

    Raises
    ------
    UsageError
        When `out` holds a complete packed data set, an unfinished one of other images or options, or anything else.
    DataError
        When an image cannot be read or decoded; names it.
    EnvironmentFault
        When something cannot be written.
    """
    began = time.monotonic()
    _check_place(out)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    with DirectoryLock(out), explained(out):
        _check_place(out)
        remove_leftovers(out)
        request = {"source": {"name": spec, "fingerprint": store.fingerprint}, "options": asdict(options)}
        journal, done = _journal(out, request)
        num_found = sum(len(shard.sizes) for shard in done)
        with closing(journal), ThreadPoolExecutor(num_threads, "widestep-pack") as threads:
            for split, first, count in (("train", 0, store.num_train), ("val", store.num_train, store.num_val)):
                own = [shard for shard in done if shard.file.startswith(split)]
                start = first + sum(len(shard.sizes) for shard in own)
                images = _in_order(
                    threads, num_threads, lambda n: _packed(spec, store, n, options), range(start, first + count)
                )
                for shard in _shards(out, split, len(own), images, progress):
                    journal.append(json.dumps(asdict(shard)))
                    journal.sync()
                    done.append(shard)
        done.sort(key=lambda shard: (shard.file.startswith("val"), shard.file))
        index = _finish(out, store, spec, options, done, request)
        (out / UNFINISHED).unlink()
        (out / LOCK).unlink()
    num_bytes = sum(shard.size for shard in done)
    return PackSummary(len(store.labels), num_bytes, num_found, time.monotonic() - began, index.fingerprint)


def _check_place(out: Path) -> None:
    """Raise UsageError when something is there that is not an unfinished pack."""
    if (out / INDEX).exists():
        raise UsageError(
            f"A packed data set is not overwritten. There is a complete one in {str(out)!r}: choose another place."
        )
    if not out.exists() or (out / UNFINISHED).exists():
        return
    if not out.is_dir() or any(not is_lock(path.name) for path in out.iterdir()):
        raise UsageError(
            f"A packed data set needs a directory of its own. {str(out)!r} holds something else: choose another."
        )


def _journal(out: Path, request: dict[str, Any]) -> tuple[LineFile, list[_Shard]]:
    """Return the journal, open for appending, and the shards that an earlier attempt at the same has finished."""
    records = list(read_json_lines(out / UNFINISHED))
    if records and records[0] != request:
        raise UsageError(
            f"A stopped pack is finished with the images and options that it was begun with. {str(out)!r} was begun with "
            f"{records[0]}: give the same, or choose another place."
        )
    done = [_Shard(**record) for record in records[1:]]
    for shard in done:
        path = out / shard.file
        if not path.exists() or path.stat().st_size != shard.size:
            raise DataError(
                f"The shards of a stopped pack must be whole. {str(path)!r} is not: remove {out} and start again."
            )
    journal = LineFile(out / UNFINISHED)
    if not records:
        journal.append(json.dumps(request))
        journal.sync()
    return journal, done


def _in_order(
    threads: ThreadPoolExecutor, num_threads: int, make: Callable[[int], _Packed], images: Iterable[int]
) -> Iterator[_Packed]:
    """Yield what `make` returns for every image in order, a bounded number of them at work."""
    waiting: deque[Future[_Packed]] = deque()
    try:
        for image in images:
            waiting.append(threads.submit(make, image))
            if len(waiting) > num_threads * _AHEAD_PER_THREAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _packed(spec: str, store: ImageStore, image: int, options: PackOptions) -> _Packed:
    with explaining(store, image, spec):
        stored = store.read(image)
    file = stored if isinstance(stored, bytes) and options.stored == "jpeg" else None
    if options.short_side is None and file is not None:
        return _Packed(file, 0, 0)
    if options.short_side is None and options.stored == "jpeg":
        raise UsageError("Pixels have no file to be kept as it is. Choose --store raw, or a --short-side in pixels.")
    with explaining(store, image, spec):
        picture = open_picture(stored)
        pixels = picture.decode()
    height, width = pixels.shape[:2]
    short = min(height, width)
    if options.short_side is not None and short > options.short_side:
        size = options.short_side * width // short, options.short_side * height // short
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    elif file is not None:
        return _Packed(file, 0, 0)
    if options.stored == "raw":
        return _Packed(pixels.tobytes(), *pixels.shape[:2])
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=options.quality, subsampling="4:2:0", restart_marker_rows=1)
    return _Packed(encoded.getvalue(), 0, 0)


def _shards(
    out: Path, split: str, number: int, images: Iterator[_Packed], progress: Callable[[int], None]
) -> Iterator[_Shard]:
    """Write the images into shards from `number` on; yields each when it is whole and lies under its name."""
    image = next(images, None)
    while image is not None:
        path = out / f"{split}-{number:05}.bin"
        temporary = path.with_name(f".{path.name}.tmp")
        shard = _Shard(path.name, 0, "", [], [], [])
        digest = hashlib.sha256()
        with temporary.open("wb") as file:
            while image is not None and shard.size < SHARD_BYTES:
                _write(file, digest, shard, image)
                progress(1)
                image = next(images, None)
            file.flush()
            os.fsync(file.fileno())
        shard.sha256 = digest.hexdigest()
        temporary.replace(path)
        sync_directory(out)
        yield shard
        number += 1


def _write(file: BinaryIO, digest: "hashlib._Hash", shard: _Shard, image: _Packed) -> None:
    file.write(image.data)
    digest.update(image.data)
    shard.size += len(image.data)
    shard.sizes.append(len(image.data))
    shard.heights.append(image.height)
    shard.widths.append(image.width)


def _finish(
    out: Path, store: ImageStore, spec: str, options: PackOptions, done: list[_Shard], request: dict[str, Any]
) -> PackedIndex:
    """Write the arrays and, last of all, the index."""
    root = f"{parse_store_spec(spec)[1]}/"
    content = save(
        {
            "labels": np.asarray(store.labels, np.int64),
            "shards": np.repeat(np.arange(len(done), dtype=np.int32), [len(shard.sizes) for shard in done]),
            "offsets": np.concatenate([np.cumsum([0, *shard.sizes[:-1]], dtype=np.int64) for shard in done]),
            "sizes": np.concatenate([np.array(shard.sizes, np.int64) for shard in done]),
            "heights": np.concatenate([np.array(shard.heights, np.int32) for shard in done]),
            "widths": np.concatenate([np.array(shard.widths, np.int32) for shard in done]),
            "names": packed_text(store.name(image).removeprefix(root) for image in range(len(store.labels))),
        }
    )
    write_atomically(out / ARRAYS, content)
    index = PackedIndex(
        classes=store.classes,
        num_train=store.num_train,
        num_val=store.num_val,
        stored=options.stored,
        arrays=PackedFile(ARRAYS, len(content), hashlib.sha256(content).hexdigest()),
        shards=tuple(PackedFile(shard.file, shard.size, shard.sha256) for shard in done),
        libraries={"pillow": __version__, "libjpeg_turbo": features.version_feature("libjpeg_turbo")},
        **request,
    )
    write_json(out / INDEX, index.as_dict())
    return index
