"""Images in folders, one folder a class: `PATH/train/CLASS/*.JPEG` and `PATH/val/CLASS/*` (or `PATH/validation`).

The order of the images and the fingerprint depend on names and sizes only, so that they are the same on every machine.
Nothing is decoded here, and torch is not imported: planning reads this too.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR

import numpy as np
from numpy.typing import NDArray

from widestep.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True, eq=False)
class FileList:
    """The images of one split, ordered by (class, file name), names compared by code point.

    Parameters
    ----------
    directory
        The folder that holds the class folders.
    classes
        All class names of the data set, sorted: label l is `classes[l]`.
    names
        File name of every image, without its folders.
    labels
        Label of every image, int64, shape (len(names),).
    """

    directory: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, position: int) -> Path:
        """Return the path of an image by its position in the order."""
        return self.directory / self.classes[int(self.labels[position])] / self.names[position]


@dataclass(frozen=True, eq=False)
class FolderLayout:
    """What a folder data set holds.

    Parameters
    ----------
    classes
        Class names, sorted: the names of the folders under `train`.
    fingerprint
        SHA-256 over split, class, file name and size in bytes of every image, in order. It changes when a file is
        added, removed, renamed or changes its size, and not with the time stamps or the place of the data set; an
        image changed to another of the same size is not noticed.
    """

    root: Path
    classes: tuple[str, ...]
    train: FileList
    val: FileList
    fingerprint: str


def scan_folder(path: str | os.PathLike[str]) -> FolderLayout:
    """List a data set of folders.

    Images are the files directly inside a class folder that end in .jpg, .jpeg, .png, .webp or .bmp in any case.
    Hidden files and folders, other files, and folders inside a class folder are passed over. Links are followed, but
    nothing below a class folder is entered, so that a link to a folder above cannot loop. A class of `train` may be
    missing from `val`. Takes seconds and some 200 MB for the 1.3 million files of ImageNet on a local disk.

    Raises
    ------
    DataError
        When the path, `train` or `val` is missing, there are fewer than two classes, a class folder has no images, a
        class of `val` is not one of `train`, or something cannot be read.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        instead = "That is a file" if root.exists() else "There is none"
        raise DataError(f"A folder data set must be an existing folder. {instead} at {str(root)!r}: correct the path.")
    train_directory, val_directory = split_directories(root)
    classes = class_names(train_directory)
    if len(classes) < 2:
        raise DataError(
            f"A classifier needs at least two classes. {str(train_directory)!r} has only {classes[0]!r}: "
            "put the images into one folder a class."
        )
    val_classes = class_names(val_directory)
    strangers = sorted(set(val_classes) - set(classes))
    if strangers:
        raise DataError(
            f"Every class to validate on must also be trained on. In {str(val_directory)!r} but not in "
            f"{str(train_directory)!r}: {_few(strangers)}. Add training images or remove the folder."
        )
    digest = hashlib.sha256()
    train = _list_images(train_directory, classes, classes, b"train", digest)
    val = _list_images(val_directory, classes, val_classes, b"val", digest)
    return FolderLayout(root, classes, train, val, digest.hexdigest())


def split_directories(root: Path) -> tuple[Path, Path]:
    """Return the folders of the training and of the validation images, or raise DataError saying what is there instead."""
    return _split_directory(root, "train"), _split_directory(root, "val", "validation")


def _split_directory(root: Path, *names: str) -> Path:
    found = [root / name for name in names if (root / name).is_dir()]
    if not found:
        raise DataError(
            f"A folder data set must hold the folders train and val. {str(root)!r} has no folder "
            f"{' or '.join(names)}{_instead(root)}: sort the images into {names[0]}/CLASS/."
        )
    if len(found) > 1:
        raise DataError(
            f"A folder data set must hold one set of validation images. {str(root)!r} has both {' and '.join(names)}: "
            "remove or hide one."
        )
    return found[0]


def _instead(root: Path) -> str:
    """Say what a folder holds where class folders or splits were looked for, and which form of data set that may be."""
    entries = sorted((name, is_folder) for name, _, is_folder in _entries(root))
    folders = [name for name, is_folder in entries if is_folder]
    files = [name for name, is_folder in entries if not is_folder]
    for form, suffix in (("parquet", ".parquet"), ("tar", ".tar")):
        if any(name.endswith(suffix) for name in files):
            return f", but {suffix} files (perhaps you meant {form}:{root})"
    if "index.json" in files:
        return f", but an index.json (perhaps you meant packed:{root})"
    if {"train", "val", "validation"}.isdisjoint(folders) and folders:
        return f", but {len(folders):,} other folder(s): {_few(folders)}"
    kept = [name for name in folders if name in ("train", "val", "validation")] or files
    return f", only {_few(kept)}" if kept else " and is empty"


def class_names(directory: Path) -> tuple[str, ...]:
    """Return the names of the class folders in a split's folder, sorted; raises DataError when there are none."""
    names = tuple(sorted(name for name, _, is_folder in _entries(directory) if is_folder))
    if not names:
        raise DataError(
            f"{str(directory)!r} must hold one folder a class, for example {directory.name}/cat/1.jpg. "
            f"It has no folders{_files_instead(directory)}: sort the images into class folders."
        )
    return names


def _files_instead(directory: Path) -> str:
    files = sorted(name for name, _, _ in _entries(directory))
    if not files:
        return " and no files"
    known = ", as ImageNet's validation images come; their classes are in its development kit"
    return f" but {len(files):,} file(s), such as {files[0]!r}" + (known if files[0].startswith("ILSVRC2012_val_") else "")


def _list_images(
    directory: Path, classes: tuple[str, ...], present: tuple[str, ...], split: bytes, digest: "hashlib._Hash"
) -> FileList:
    """List the images of the classes present in one split and add them to the fingerprint."""
    label_of = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    counts = np.zeros(len(classes), dtype=np.int64)
    for class_name in present:
        images = sorted(
            (name, size) for name, size, is_folder in _entries(directory / class_name, SUFFIXES) if not is_folder
        )
        prefix = split + b"/" + os.fsencode(class_name) + b"/"
        for name, size in images:
            digest.update(prefix + os.fsencode(name) + b"\0%d\n" % size)
        names.extend(name for name, _ in images)
        counts[label_of[class_name]] = len(images)
    empty = [name for name in present if counts[label_of[name]] == 0]
    if len(empty) == len(present):
        raise DataError(
            f"{str(directory)!r} must hold images. None of its class folders has a file that ends in "
            f"{', '.join(sorted(SUFFIXES))} directly inside it: check the path."
        )
    if empty:
        raise DataError(
            f"Every class folder must have at least one image directly inside it. Without one in {str(directory)!r}: "
            f"{_few(empty)}. Add images or remove the folder."
        )
    return FileList(directory, classes, tuple(names), np.repeat(np.arange(len(classes)), counts))


def _entries(directory: Path, suffixes: frozenset[str] | None = None) -> Iterator[tuple[str, int, bool]]:
    """Yield (name, size in bytes, is it a folder) of what is in a directory, hidden things and other suffixes left out."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if suffixes is not None and os.path.splitext(name)[1].lower() not in suffixes:
                    continue
                status = entry.stat()
                yield name, status.st_size, S_ISDIR(status.st_mode)
    except OSError as error:
        raise DataError(
            f"Everything in a data set must be readable. {error.filename or str(directory)!r} is not "
            f"({error.strerror}): repair the link or the permissions, or remove it."
        ) from error


def _few(names: list[str]) -> str:
    """Return at most three of the names, quoted: `'a', 'b', 'c' and 4 more`."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
