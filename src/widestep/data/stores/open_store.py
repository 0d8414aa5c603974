"""From the form and path of a data set to its store."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from widestep.data.stores.folder_store import open_folder
from widestep.data.stores.packed_store import open_packed
from widestep.data.stores.parquet_store import open_parquet
from widestep.data.stores.store import ImageStore
from widestep.data.stores.tar_store import open_tar
from widestep.errors import DataError

DATA_DIRECTORY = "WIDESTEP_DATA"
"""Environment variable: the directory that relative paths of data sets start from."""

StoreKind = Literal["folder", "parquet", "tar", "packed"]

OPENERS: dict[StoreKind, Callable[[Path], ImageStore]] = {
    "folder": open_folder,
    "parquet": open_parquet,
    "tar": open_tar,
    "packed": open_packed,
}


def open_store(kind: StoreKind, path: Path) -> ImageStore:
    """Open a data set on disk.

    Raises
    ------
    UsageError
        When a library for its form is missing.
    DataError
        When it is missing, damaged or not laid out as it must be.
    """
    require_there(kind, path)
    return OPENERS[kind](path)


def require_there(kind: StoreKind, path: Path) -> None:
    """Raise DataError when nothing is at a path that may have been looked for in the wrong directory."""
    is_set = bool(os.environ.get(DATA_DIRECTORY))
    if (is_set or not path.is_absolute()) and not path.exists():
        advice = f"or {DATA_DIRECTORY}, where" if is_set else f"or set {DATA_DIRECTORY} to the directory that"
        raise DataError(
            f"There is nothing at {str(path)!r}, where the {kind} data set should be. Correct the path, {advice} relative "
            f"paths start{'' if is_set else ' from'}."
        )
