"""The SHA-256 of every image of a data set in a file, and a data set compared with such a file later.

The fingerprint of a data set follows from names and sizes, so that opening it reads no image; bytes altered in place change
only this. One line of JSON says what the file is, then comes one line an image.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from widestep.data.facts import parse_store_spec
from widestep.data.stores.store import ImageStore
from widestep.errors import StoreError, UsageError
from widestep.files import explained, write_atomically

_FORMAT, _VERSION = "widestep contents", 1
_MAX_LINE = 1 << 16


def check_unused(path: Path) -> None:
    """Raise UsageError when there is something at the path, which recording would overwrite."""
    if os.path.lexists(path):
        raise UsageError(
            f"A record of contents is not overwritten. {str(path)!r} is there: choose another name, or --compare with it."
        )


def record(path: Path, spec: str, store: ImageStore, digests: Sequence[bytes]) -> None:
    """Write down what the images of a data set are.

    Parameters
    ----------
    spec
        What the store was opened by.
    digests
        SHA-256 of every image's bytes, by id.
    """
    check_unused(path)
    about = {"format": _FORMAT, "version": _VERSION, "data": spec, "num_images": len(digests)}
    lines = [about, *(_entry(spec, store, image, digest) for image, digest in enumerate(digests))]
    with explained(path):
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def compare(path: Path, spec: str, store: ImageStore, digests: Sequence[bytes]) -> Iterator[tuple[int | None, str, str]]:
    """Yield id (None: it is not there any more), name and what is different of every image that is not as recorded.

    Raises
    ------
    StoreError
        When the file cannot be read or is no record of contents.
    """
    recorded = _read(path)
    for image, digest in enumerate(digests):
        now = _entry(spec, store, image, digest)
        then = recorded.pop((now["split"], now["name"]), None)
        if then is None:
            yield image, store.name(image), "it was not there when the contents were recorded"
        elif then["sha256"] != now["sha256"]:
            yield image, store.name(image), "its bytes are not those that were recorded"
        elif then["class"] != now["class"]:
            yield image, store.name(image), f"its class is {now['class']!r}, and {then['class']!r} was recorded"
    for split, name in recorded:
        yield None, f"{split}: {name}", "it was recorded, and is not there any more"


def _entry(spec: str, store: ImageStore, image: int, digest: bytes) -> dict[str, str]:
    root = f"{parse_store_spec(spec)[1]}/"
    return {
        "split": "train" if image < store.num_train else "val",
        "name": store.name(image).removeprefix(root),
        "class": store.classes[int(store.labels[image])],
        "sha256": digest.hex(),
    }


def _read(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            about = _line(file.readline(_MAX_LINE))
            if about["format"] != _FORMAT or about["version"] != _VERSION:
                raise ValueError(f"it is {about['format']!r} version {about['version']!r}, not {_FORMAT!r} {_VERSION}")
            found: dict[tuple[str, str], dict[str, str]] = {}
            while text := file.readline(_MAX_LINE):
                entry = _line(text)
                if set(entry) != {"split", "name", "class", "sha256"} or not all(isinstance(v, str) for v in entry.values()):
                    raise ValueError(f"line {len(found) + 2} is no image")
                found[entry["split"], entry["name"]] = entry
        if len(found) != about["num_images"]:
            raise ValueError(f"it has {len(found):,} images of {about['num_images']}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else f"{error}"
        raise StoreError(
            f"A record of contents is what `widestep data check --record FILE` wrote. {str(path)!r} is not: {what}. Record "
            "the contents of a data set that you trust again."
        ) from error
    return found


def _line(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("a line of it is no JSON object")
    return value
