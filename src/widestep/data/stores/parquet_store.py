"""Images in parquet files in the column layout of Hugging Face's data sets: a column of encoded images, one of labels.

Files are `train*.parquet` and `val*.parquet` (or `validation*`, else `test*`) in PATH or PATH/data, or all .parquet files of
folders with these names.
"""

import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from widestep.data.stores.labels import checked_classes
from widestep.data.stores.parquet_file import ParquetImages, RowGroups, import_pyarrow
from widestep.errors import DataError

KEPT_BYTES = 1 << 30
"""Decoded row groups that are kept."""


class ParquetStore:
    """Images of parquet files: files in the order of their names, rows as they come.

    Parquet gives access to row groups, not to rows: an image's row group is decoded as a whole. Row groups of up to 1 GiB
    together are kept, so that data sets of that size (CIFAR: 46 MB) are decoded once. In a larger one nearly every image
    costs a row group; `widestep data pack` reads them in their order, each once.
    """

    def __init__(self, files: Sequence[ParquetImages], num_train_files: int) -> None:
        self._files = tuple(files)
        self._first = [0, *accumulate(file.footer.num_rows for file in files)]
        self.num_train = self._first[num_train_files]
        self.num_val = self._first[-1] - self.num_train
        train, val = files[:num_train_files], files[num_train_files:]
        _check_agreement(files)
        self.labels = np.concatenate([file.labels() for file in files])
        self.classes = checked_classes(
            files[0].columns.class_names,
            self.labels[: self.num_train],
            self.labels[self.num_train :],
            lambda n: f"The label of {self.name(n)}",
            lambda n: f"The label of {self.name(self.num_train + n)}",
        )
        for file in files:
            file.check_nulls()
        self.fingerprint = _fingerprint(train, val)

    def read(self, image: int) -> bytes:
        """Return the bytes of an image; raises DataError naming file and row when it is missing or cannot be read."""
        number, row = self._place(image)
        return self._files[number].read(row)

    def name(self, image: int) -> str:
        """Return file and row of an image."""
        number, row = self._place(image)
        return f"{self._files[number].path}, row {row}"

    def close(self) -> None:
        """Release nothing: no file stays open."""

    def _place(self, image: int) -> tuple[int, int]:
        number = bisect_right(self._first, image) - 1
        return number, image - self._first[number]


def open_parquet(path: str | os.PathLike[str]) -> ParquetStore:
    """Open the parquet files of a data set.

    Raises
    ------
    UsageError
        When pyarrow is not installed.
    DataError
        When there are no files for training or validation or one of a numbered row is missing, a footer or a column is
        damaged, columns are missing, values are missing, or labels or classes do not fit; names file, column and row.
    """
    import_pyarrow()
    root = Path(path)
    if not root.is_dir():
        raise DataError(
            f"A parquet data set must be a folder of .parquet files. There is none at {str(root)!r}: give the folder that "
            "holds the files."
        )
    train, val = _split_files(root)
    row_groups = RowGroups(KEPT_BYTES)
    files = [ParquetImages(each, row_groups) for each in [*train, *val]]
    for split in (files[: len(train)], files[len(train) :]):
        if not any(file.footer.num_rows for file in split):
            raise DataError(
                f"Both splits must hold images of at least two classes. {str(split[0].path)!r} and what belongs to it has "
                "no rows: check it."
            )
    return ParquetStore(files, len(train))


def _split_files(root: Path) -> tuple[list[Path], list[Path]]:
    for directory in (root, root / "data"):
        train = _files(directory, "train")
        if train:
            for words in (["val", "validation", "valid"], ["test"]):
                found = [files for files in (_files(directory, word) for word in words) if files]
                if len(found) > 1:
                    raise DataError(
                        f"A data set must hold one set of validation images. {str(directory)!r} has {found[0][0].name!r} "
                        f"and {found[1][0].name!r}: remove or rename one."
                    )
                if found:
                    return train, found[0]
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    shown = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "") or "nothing"
    raise DataError(
        "A parquet data set must hold train*.parquet and val*.parquet, validation*.parquet or test*.parquet, in the folder "
        f"or in one called data. {str(root)!r} holds {shown}: correct the path or rename the files."
    )


def _files(directory: Path, split: str) -> list[Path]:
    """Return the files of a split in name order: those whose names begin with the word, or all of a folder of its name."""
    inside = directory / split
    found = sorted(inside.glob("*.parquet")) if inside.is_dir() else []
    if not found:
        word = re.compile(rf"{split}(?![a-z]).*\.parquet", re.IGNORECASE)
        found = sorted(path for path in directory.glob("*.parquet") if word.fullmatch(path.name))
    parts = [re.search(r"-(\d+)-of-(\d+)\D*\.parquet$", path.name) for path in found]
    numbered = [match for match in parts if match]
    if numbered:
        there, count = {int(match[1]) for match in numbered}, int(numbered[0][2])
        missing = sorted(set(range(min(count, 1_000_000))) - there)
        if missing or len(numbered) != count or len(found) != count:
            what = f"number {missing[0]} is missing" if missing else f"{len(found)} are there"
            raise DataError(
                f"Numbered files must all be there. Of the {count} like {str(found[0])!r} {what}: copy them again."
            )
    return found


def _check_agreement(files: Sequence[ParquetImages]) -> None:
    """Raise DataError when the files do not agree on the names of their classes."""
    first = files[0]
    for file in files[1:]:
        ours, theirs = first.columns.class_names, file.columns.class_names
        if ours != theirs:
            raise file.fault(
                f"its classes are {_shown(theirs)}, and those of {first.path.name!r} are {_shown(ours)}; they must be the "
                "same in the same order"
            )


def _shown(names: Sequence[str] | None) -> str:
    return "not named" if names is None else ", ".join(names[:4]) + (f" ... ({len(names)})" if len(names) > 4 else "")


def _fingerprint(train: Sequence[ParquetImages], val: Sequence[ParquetImages]) -> str:
    """SHA-256 over split, name, size and footer of every file: what the footer says of every page is in it."""
    digest = hashlib.sha256()
    for split, files in (("train", train), ("val", val)):
        for file in files:
            size = file.path.stat().st_size
            length = 8 + file.footer.serialized_size
            with file.path.open("rb") as content:
                content.seek(max(0, size - length))
                footer = content.read()
            digest.update(f"{split}/{file.path.name}\0{size} {len(footer)}\n".encode("utf-8", "surrogateescape") + footer)
    return digest.hexdigest()
