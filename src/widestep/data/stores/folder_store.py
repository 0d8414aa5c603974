"""Images in folders as a store, their list kept between runs: listing a million files on a shared disk takes a minute."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widestep.data.stores.index_cache import SMALLEST, Arrays, load_index, packed_text, save_index, unpacked_text
from widestep.data.stores.layout import FileList, FolderLayout, class_names, scan_folder, split_directories
from widestep.data.stores.store import unreadable
from widestep.errors import DataError

_SETTLED_NS = 2_000_000_000
"""A directory that was changed this shortly before it was listed may change again without a new time stamp."""


class FolderStore:
    """`PATH/train/CLASS/*.JPEG` and `PATH/val/CLASS/*`, see `layout.scan_folder`.

    Reads whole files, each when it is asked for; keeps only the names, some 100 bytes an image.
    """

    def __init__(self, layout: FolderLayout) -> None:
        self.classes = layout.classes
        self.num_train, self.num_val = len(layout.train), len(layout.val)
        self.labels = np.concatenate([layout.train.labels, layout.val.labels])
        self.fingerprint = layout.fingerprint
        self._layout = layout

    def read(self, image: int) -> bytes:
        """Return the bytes of an image's file; raises DataError naming it when it cannot be read."""
        path = self._path(image)
        try:
            with open(path, "rb", buffering=0) as file:
                return file.readall()
        except OSError as error:
            raise unreadable("image", path, error) from error

    def name(self, image: int) -> str:
        """Return the path of an image."""
        return self._path(image)

    def close(self) -> None:
        """Release nothing: no file stays open."""

    def _path(self, image: int) -> str:
        files = self._layout.train if image < self.num_train else self._layout.val
        place = image if image < self.num_train else image - self.num_train
        # Joined as text: of all that reading costs, pathlib would be a tenth.
        return f"{files.directory}/{files.classes[int(files.labels[place])]}/{files.names[place]}"


def open_folder(path: str | os.PathLike[str]) -> FolderStore:
    """List a data set of folders, or take its list from the index that an earlier run kept.

    A kept list is used when every folder of the data set is the one that was listed (inode and time of change, which
    follow when a file comes, goes or is renamed). A file that was changed in its place since then is read as it is now,
    but its old size is in the fingerprint.

    Raises
    ------
    DataError
        As `layout.scan_folder`.
    """
    root = Path(path)
    witness = _witness(root) if root.is_dir() else None
    if witness is not None and (kept := load_index("folder", root, witness[0])) is not None:
        return FolderStore(_from_arrays(root, kept))
    began = time.time_ns()
    layout = scan_folder(root)
    if witness is not None and len(layout.train) + len(layout.val) > SMALLEST:
        text, changed = witness
        if changed < began - _SETTLED_NS and witness == _witness(root):
            save_index("folder", root, text, _to_arrays(layout))
    return FolderStore(layout)


def _witness(root: Path) -> tuple[str, int] | None:
    """Return what a list of files depends on, and when the last of its folders changed (ns); None for a bad layout."""
    lines, last = [], 0
    try:
        for directory in split_directories(root):
            for name in ("", *class_names(directory)):
                status = os.stat(directory / name)
                lines.append(f"{directory.name}/{name}\0{status.st_ino} {status.st_mtime_ns}")
                last = max(last, status.st_mtime_ns)
    except (DataError, OSError):  # the scan says what is wrong
        return None
    return "\n".join([str(root.absolute()), *lines]), last


def _to_arrays(layout: FolderLayout) -> Arrays:
    arrays: dict[str, NDArray[Any]] = {
        "classes": packed_text(layout.classes),
        "fingerprint": packed_text([layout.fingerprint]),
    }
    for split, files in (("train", layout.train), ("val", layout.val)):
        arrays[f"{split}_directory"] = packed_text([files.directory.name])
        arrays[f"{split}_names"] = packed_text(files.names)
        arrays[f"{split}_labels"] = files.labels
    return arrays


def _from_arrays(root: Path, arrays: Arrays) -> FolderLayout:
    classes = tuple(unpacked_text(arrays["classes"]))
    train, val = (
        FileList(
            root / unpacked_text(arrays[f"{split}_directory"])[0],
            classes,
            tuple(unpacked_text(arrays[f"{split}_names"])),
            arrays[f"{split}_labels"].copy(),
        )
        for split in ("train", "val")
    )
    return FolderLayout(root, classes, train, val, unpacked_text(arrays["fingerprint"])[0])
