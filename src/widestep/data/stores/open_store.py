"""From the form and path of a data set to its store."""

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
    if not path.is_absolute() and not path.exists():
        raise DataError(
            f"There is nothing at '{path}', where the {kind} data set should be. Correct the path, or set {DATA_DIRECTORY} "
            f"to the directory that it starts from."
        )
    return OPENERS[kind](path)
