"""Images in tar shards, named as WebDataset does: members KEY.jpg and KEY.cls (or KEY.json with "label") side by side.

Shards are `*train*.tar` and `*val*.tar` (or `*validation*.tar`) in PATH, or all .tar files of PATH/train and of PATH/val.
Their headers are read once; an image is then one read at a known place. Nothing is extracted, so no name in a shard can
touch a file.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widestep.data.stores.index_cache import SMALLEST, Arrays, load_index, packed_text, save_index, unpacked_text
from widestep.data.stores.labels import checked_classes
from widestep.data.stores.layout import SUFFIXES
from widestep.data.stores.shard_files import ShardFiles
from widestep.data.stores.tar_members import Member, Shard
from widestep.errors import DataError

_MAX_LABEL_BYTES = 1 << 20
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)


@dataclass
class _Found:
    """What the shards of one split hold, image by image."""

    shards: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class TarStore:
    """Images of tar shards, in the order of the shards' names and of the members in each.

    Keeps some 150 bytes an image and at most 256 open files.
    """

    def __init__(self, files: ShardFiles, classes: tuple[str, ...], arrays: Arrays, num_train: int) -> None:
        self.classes = classes
        self.labels: NDArray[np.int64] = np.array(arrays["labels"], dtype=np.int64)
        self.num_train, self.num_val = num_train, len(self.labels) - num_train
        self._files = files
        self._shards, self._offsets, self._sizes = (arrays[name] for name in ("shards", "offsets", "sizes"))
        self._names = unpacked_text(arrays["names"])
        self.fingerprint = self._fingerprint()

    def read(self, image: int) -> bytes:
        """Return the bytes of an image's member; raises DataError when the shard cannot be read or has become shorter."""
        return self._files.read(int(self._shards[image]), int(self._offsets[image]), int(self._sizes[image]))

    def name(self, image: int) -> str:
        """Return shard and member of an image."""
        return f"{self._files.paths[int(self._shards[image])]}:{self._names[image]}"

    def close(self) -> None:
        """Close the shards."""
        self._files.close()

    def _fingerprint(self) -> str:
        """SHA-256 over split, member, size and label of every image, in order, and the class names."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for image, (name, size, label) in enumerate(zip(self._names, self._sizes, self.labels, strict=True)):
            split = b"train/" if image < self.num_train else b"val/"
            digest.update(split + os.fsencode(name) + b"\0%d %d\n" % (size, label))
        return digest.hexdigest()


def open_tar(path: str | os.PathLike[str]) -> TarStore:
    """Open a folder of tar shards.

    The list of the images of large data sets is kept between runs (see `index_cache`) and used when names, sizes and
    times of change of all shards are the same.

    Raises
    ------
    DataError
        When there are no shards for training or validation, a shard is damaged or holds what it must not (see
        `tar_members`), an image has no label or two, a key is used twice, or a label does not fit (see `labels`).
    """
    root = Path(path)
    train, val = _shards(root)
    witness = "\n".join([str(root.absolute()), *map(_state, train), "", *map(_state, val)])
    arrays = load_index("tar", root, witness)
    if arrays is None:
        arrays = _read_all(train, val)
        if len(arrays["labels"]) > SMALLEST:
            save_index("tar", root, witness, arrays)
    num_train = int(arrays["num_train"][0])
    files, names = ShardFiles([*train, *val]), unpacked_text(arrays["names"])

    def place_of(first: int) -> Callable[[int], str]:
        return lambda n: f"The label of {names[first + n]!r} in {str(files.paths[int(arrays['shards'][first + n])])!r}"

    labels = np.array(arrays["labels"], dtype=np.int64)
    given = _class_names(root)
    classes = checked_classes(given, labels[:num_train], labels[num_train:], place_of(0), place_of(num_train))
    return TarStore(files, classes, arrays, num_train)


def _shards(root: Path) -> tuple[list[Path], list[Path]]:
    if not root.is_dir():
        raise DataError(f"A tar data set must be a folder of .tar files. There is none at {str(root)!r}: correct the path.")
    here = sorted(root.glob("*.tar"))
    found = {}
    for split, words in (("train", ("train",)), ("val", ("val", "validation"))):
        inside = [sorted((root / word).glob("*.tar")) for word in words if (root / word).is_dir()]
        named = [path for path in here if _split_of(path.name.lower()) == split]
        if len([shards for shards in [*inside, named] if shards]) > 1:
            raise DataError(f"The shards of {split} must be in one place. {str(root)!r} has several: remove or rename one.")
        found[split] = next((shards for shards in [*inside, named] if shards), [])
        if not found[split]:
            shown = ", ".join(repr(path.name) for path in sorted(root.iterdir())[:3]) or "nothing"
            raise DataError(
                f"A tar data set must have shards named *{split}*.tar, or .tar files in a folder {' or '.join(words)}. "
                f"In {str(root)!r} there are none, but {shown}: rename the shards or correct the path."
            )
    return found["train"], found["val"]


def _split_of(name: str) -> str | None:
    """Return the split that a shard's name says: by a word of its own, else anywhere in it when it names one split."""
    words = re.findall(r"(?<![a-z])(train|val)(?:idation)?(?![a-z])", name)
    found = {*words} or {split for split in ("train", "val") if split in name}
    return found.pop() if len(found) == 1 else None


def _state(path: Path) -> str:
    status = path.stat()
    return f"{path.parent.name}/{path.name}\0{status.st_size} {status.st_mtime_ns}"


def _class_names(root: Path) -> Sequence[str] | None:
    """Return the names in classes.txt (one a line) or classes.json (a list); None without such a file."""
    lines, listed = root / "classes.txt", root / "classes.json"
    try:
        if lines.exists():
            return [line.strip() for line in lines.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not listed.exists():
            return None
        names = json.loads(listed.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"Class names are in classes.txt or classes.json. Those in {str(root)!r} are damaged: {error}."
        ) from None
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise DataError(f'classes.json is a list of names, such as ["cat", "dog"]. {str(listed)!r} is not: correct it.')
    return names


def _read_all(train: Sequence[Path], val: Sequence[Path]) -> Arrays:
    found = _Found()
    num_train = 0
    for number, path in enumerate([*train, *val]):
        _read_shard(number, Shard(path), found)
        if number == len(train) - 1:
            num_train = len(found.labels)
    if not 0 < num_train < len(found.labels):
        empty = "training" if num_train == 0 else "validation"
        raise DataError(
            f"Both splits must hold images. The {empty} shards in {str(train[0].parent)!r} hold none with an ending of "
            f"{', '.join(sorted(SUFFIXES))}: check them."
        )
    return {
        "shards": np.array(found.shards, dtype=np.int32),
        "offsets": np.array(found.offsets, dtype=np.int64),
        "sizes": np.array(found.sizes, dtype=np.int64),
        "labels": np.array(found.labels, dtype=np.int64),
        "names": packed_text(found.names),
        "num_train": np.array([num_train], dtype=np.int64),
    }


def _read_shard(number: int, shard: Shard, found: _Found) -> None:
    keys: set[str] = set()
    for key, members, label in _samples(shard):
        first = next(iter(members.values()))
        if key in keys:
            raise shard.fault(first.offset, f"the key {key!r} is used twice")
        keys.add(key)
        images = [member for ending, member in members.items() if f".{ending}" in SUFFIXES]
        if len(images) > 1:
            raise shard.fault(images[1].offset, f"the key {key!r} has two images")
        if images and label is None:
            raise shard.fault(images[0].offset, f"the image {images[0].name!r} has no {key}.cls beside it")
        if "cls" in members and not images:
            raise shard.fault(first.offset, f"the key {key!r} has a label but no image")
        if images and label is not None:
            found.shards.append(number)
            found.offsets.append(images[0].offset)
            found.sizes.append(images[0].size)
            found.labels.append(label)
            found.names.append(images[0].name)


def _samples(shard: Shard) -> Iterator[tuple[str, dict[str, Member], int | None]]:
    """Yield key, members by ending, and label of what stands together in a shard."""
    key, members, label = "", dict[str, Member](), None
    for member in shard.members():
        match = _KEY.fullmatch(member.name)
        if match is None:  # no ending, or a hidden file
            continue
        if match[1] != key:
            if members:
                yield key, members, label
            key, members, label = match[1], {}, None
        ending = match[2].lower()
        if ending in members:
            raise shard.fault(member.offset, f"{member.name!r} is there twice")
        members[ending] = member
        if ending in ("cls", "json"):
            own = _label(shard, member, ending)
            if label is not None and own is not None and own != label:
                raise shard.fault(member.offset, f"the key {key!r} has two labels, {label} and {own}")
            label = own if label is None else label
    if members:
        yield key, members, label


def _label(shard: Shard, member: Member, ending: str) -> int | None:
    if member.size > _MAX_LABEL_BYTES:
        raise shard.fault(member.offset, f"{member.name!r} has {member.size:,} bytes, too many for a label")
    content = shard.content(member)
    value: Any = content.strip()
    if ending == "json":
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            raise shard.fault(member.offset, f"{member.name!r} is no JSON") from None
        value = value.get("label") if isinstance(value, dict) else None
        if value is None:
            return None
    elif re.fullmatch(rb"-?[0-9]{1,18}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 10**18:
        shown = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        raise shard.fault(member.offset, f"the label in {member.name!r} is {str(shown)[:40]!r}, not a whole number")
    return value
