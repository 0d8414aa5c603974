"""Looks at every image of a data set: is it there, does all of it decode, how large is it?"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from widestep.data.decode import UndecodableError, open_picture
from widestep.data.stores.packed_store import PackedStore
from widestep.data.stores.store import ImageStore, Pixels
from widestep.errors import DataError

_MAGIC = {b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP", b"BM": "BMP"}
_IMAGES_PER_TASK = 16


@dataclass(frozen=True)
class Damage:
    """An image that cannot be trained on (its id), or a file (None), by name, and why."""

    image: int | None
    name: str
    reason: str


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    Parameters
    ----------
    num_bytes, heights, widths
        Of every sound image, int64, in the order of their ids.
    formats
        Number of sound images by format.
    num_slow
        Sound images that only Pillow decodes, which is slower.
    content
        SHA-256 over label and SHA-256 of the bytes of every image in order; None when it was not asked for.
    digests
        SHA-256 of the bytes of every image, by id (of one that cannot be read, of no bytes); empty when not asked for.
    """

    num_bytes: NDArray[np.int64]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]
    formats: dict[str, int]
    num_slow: int
    damaged: list[Damage]
    content: str | None
    digests: list[bytes]


@dataclass(frozen=True)
class _Seen:
    """One image: its size, format and digest, or what is wrong with it."""

    num_bytes: int = 0
    height: int = 0
    width: int = 0
    format: str = ""
    is_slow: bool = False
    digest: bytes = b""
    reason: str | None = None


def check(store: ImageStore, num_threads: int, *, hashed: bool, progress: Callable[[int], None]) -> CheckReport:
    """Decode every image in full and strictly; of a packed data set, compare the checksums of its files too.

    Parameters
    ----------
    hashed
        Compute `content`: it tells that an image was replaced by another of the same size.
    progress
        Is told the number of images that are done.
    """
    num_images = len(store.labels)

    def some(start: int) -> list[_Seen]:
        return [_see(store, image, hashed) for image in range(start, min(start + _IMAGES_PER_TASK, num_images))]

    digest = hashlib.sha256()
    seen: list[_Seen] = []
    damaged: list[Damage] = []
    with ThreadPoolExecutor(num_threads, "widestep-check") as threads:
        for found in threads.map(some, range(0, num_images, _IMAGES_PER_TASK)):
            for one in found:
                image = len(seen)
                seen.append(one)
                digest.update(b"%d " % store.labels[image] + one.digest)
                if one.reason is not None:
                    damaged.append(Damage(image, store.name(image), one.reason))
            progress(len(found))
    if isinstance(store, PackedStore):
        damaged += [Damage(None, name, reason) for name, reason in store.damaged_files()]
    sound = [one for one in seen if one.reason is None]
    return CheckReport(
        num_bytes=np.array([one.num_bytes for one in sound], np.int64),
        heights=np.array([one.height for one in sound], np.int64),
        widths=np.array([one.width for one in sound], np.int64),
        formats=dict(Counter(one.format for one in sound).most_common()),
        num_slow=sum(one.is_slow for one in sound),
        damaged=damaged,
        content=digest.hexdigest() if hashed else None,
        digests=[one.digest for one in seen] if hashed else [],
    )


def equal_names(store: ImageStore) -> list[tuple[str, str]]:
    """Return pairs of images whose names differ by letter case or accents' encoding alone.

    Mostly they are one image twice; on other file systems one would overwrite the other.
    """
    first: dict[str, int] = {}
    pairs = []
    for image in range(len(store.labels)):
        name = store.name(image)
        known = first.setdefault(unicodedata.normalize("NFC", name.casefold()), image)
        if known != image:
            pairs.append((store.name(known), name))
    return pairs


@dataclass(frozen=True)
class EqualImages:
    """Images that are byte for byte an earlier one.

    Parameters
    ----------
    pairs
        Ids of the earlier image and of its copy.
    num_relabelled, num_across
        How many of the copies have another label, and how many validate while the earlier image trains.
    """

    pairs: list[tuple[int, int]]
    num_relabelled: int
    num_across: int


def equal_images(store: ImageStore, digests: Sequence[bytes]) -> EqualImages:
    """Find images that are in a data set more than once."""
    first: dict[bytes, int] = {}
    pairs = [(known, image) for image, one in enumerate(digests) if (known := first.setdefault(one, image)) != image]
    return EqualImages(
        pairs,
        sum(bool(store.labels[one] != store.labels[other]) for one, other in pairs),
        sum(one < store.num_train <= other for one, other in pairs),
    )


def _see(store: ImageStore, image: int, hashed: bool) -> _Seen:
    try:
        stored = store.read(image)
    except DataError as error:
        return _Seen(reason=str(error), digest=hashlib.sha256().digest() if hashed else b"")
    content = stored if isinstance(stored, bytes) else stored.tobytes()
    digest = hashlib.sha256(content).digest() if hashed else b""
    try:
        picture = open_picture(stored)
        picture.decode()
    except UndecodableError as error:
        return _Seen(reason=str(error), digest=digest)
    return _Seen(len(content), picture.height, picture.width, _format(stored), picture.uses_pillow, digest)


def _format(stored: bytes | Pixels) -> str:
    if not isinstance(stored, bytes):
        return "raw pixels"
    return next((name for magic, name in _MAGIC.items() if stored.startswith(magic)), "other")
