"""Images in folders, one folder a class: `PATH/train/CLASS/*.JPEG` and `PATH/val/CLASS/*` (or `PATH/validation`).

The order of the images and the fingerprint depend on names and sizes only, so that they are the same on every machine.
Nothing is decoded here, and torch is not imported: planning reads this too.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple

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


def scan_folder(path: str | os.PathLike[str], problems: list[tuple[str, str]] | None = None) -> FolderLayout:
    """List a data set of folders.

    Images are the files directly inside a class folder that end in .jpg, .jpeg, .png, .webp or .bmp in any case.
    Hidden files and folders, other files, and folders inside a class folder are passed over. Links are followed, but
    nothing below a class folder is entered, and links to a folder above or to another image of the class are passed
    over: each file counts once. A class of `train` may be missing from `val`. Takes seconds and some 200 MB for the 1.3
    million files of ImageNet on a local disk.

    Parameters
    ----------
    problems
        Takes the folders that cannot be trained on and why, so that all can be listed at once: class folders without
        images, and classes of `val` that are not in `train`, whose images are left out. None: they are an error.

    Raises
    ------
    DataError
        When the path, `train` or `val` is missing, there are fewer than two classes, a class folder has no images, a
        class of `val` is not one of `train`, or something cannot be read.
    """
    root = Path(path)
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
    if strangers and problems is not None:
        problems += [(str(val_directory / name), "there is no such class to train on") for name in strangers]
    elif strangers:
        raise DataError(
            f"Every class to validate on must also be trained on. In {str(val_directory)!r} but not in "
            f"{str(train_directory)!r}: {_few(strangers)}. Add training images or remove the folder."
        )
    digest = hashlib.sha256()
    train = _list_images(train_directory, classes, classes, b"train", digest, problems)
    known = tuple(name for name in val_classes if name in set(classes))
    val = _list_images(val_directory, classes, known, b"val", digest, problems)
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
    entries = sorted(_entries(root))
    folders = [entry.name for entry in entries if entry.is_folder]
    files = [entry.name for entry in entries if not entry.is_folder]
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
    names = tuple(sorted(entry.name for entry in _entries(directory) if entry.is_folder))
    if not names:
        raise DataError(
            f"{str(directory)!r} must hold one folder a class, for example {directory.name}/cat/1.jpg. "
            f"It has no folders{_files_instead(directory)}: sort the images into class folders."
        )
    return names


def _files_instead(directory: Path) -> str:
    files = sorted(entry.name for entry in _entries(directory))
    if not files:
        return " and no files"
    known = ", as ImageNet's validation images come; their classes are in its development kit"
    return f" but {len(files):,} file(s), such as {files[0]!r}" + (known if files[0].startswith("ILSVRC2012_val_") else "")


def _list_images(
    directory: Path,
    classes: tuple[str, ...],
    present: tuple[str, ...],
    split: bytes,
    digest: "hashlib._Hash",
    problems: list[tuple[str, str]] | None,
) -> FileList:
    """List the images of the classes present in one split and add them to the fingerprint."""
    label_of = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    counts = np.zeros(len(classes), dtype=np.int64)
    for class_name in present:
        images = _each_once([entry for entry in _entries(directory / class_name, SUFFIXES) if not entry.is_folder])
        prefix = split + b"/" + os.fsencode(class_name) + b"/"
        for image in images:
            digest.update(prefix + os.fsencode(image.name) + b"\0%d\n" % image.size)
        names.extend(image.name for image in images)
        counts[label_of[class_name]] = len(images)
    empty = [name for name in present if counts[label_of[name]] == 0]
    if len(empty) == len(present):
        raise DataError(
            f"{str(directory)!r} must hold images. None of its class folders has a file that ends in "
            f"{', '.join(sorted(SUFFIXES))} directly inside it: check the path."
        )
    if empty and problems is not None:
        problems += [(str(directory / name), "this class folder has no image directly inside it") for name in empty]
    elif empty:
        raise DataError(
            f"Every class folder must have at least one image directly inside it. Without one in {str(directory)!r}: "
            f"{_few(empty)}. Add images or remove the folder."
        )
    return FileList(directory, classes, tuple(names), np.repeat(np.arange(len(classes)), counts))


class _Entry(NamedTuple):
    """Something in a directory; `identity` is the same for links to the same file."""

    name: str
    size: int
    is_folder: bool
    is_link: bool
    identity: tuple[int, int]


def _each_once(images: list[_Entry]) -> list[_Entry]:
    """Return the images of a class by name, without links to others of them."""
    images.sort()
    if not any(image.is_link for image in images):
        return images
    first = {
        image.identity: image.name for image in sorted(images, key=lambda image: (image.is_link, image.name), reverse=True)
    }
    return [image for image in images if not image.is_link or first[image.identity] == image.name]


def _entries(directory: Path, suffixes: frozenset[str] | None = None) -> Iterator[_Entry]:
    """Yield what is in a directory; hidden things, other suffixes, pipes and links to the folders above are left out."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if suffixes is not None and os.path.splitext(name)[1].lower() not in suffixes:
                    continue
                status = entry.stat()
                is_folder, is_link = S_ISDIR(status.st_mode), entry.is_symlink()
                if (is_folder and is_link and _is_above(entry.path)) or not (is_folder or S_ISREG(status.st_mode)):
                    continue
                yield _Entry(name, status.st_size, is_folder, is_link, (status.st_dev, status.st_ino))
    except OSError as error:
        raise DataError(
            f"Everything in a data set must be readable. {error.filename or str(directory)!r} is not "
            f"({error.strerror}): repair the link or the permissions, or remove it."
        ) from error


def _is_above(link: str) -> bool:
    """Say whether a link leads to a directory that it lies in."""
    return Path(os.path.realpath(os.path.dirname(link))).is_relative_to(os.path.realpath(link))


def _few(names: list[str]) -> str:
    """Return at most three of the names, quoted: `'a', 'b', 'c' and 4 more`."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
