"""From the form and path of a data set to its store."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from widestep.data.stores.folder_store import open_folder
from widestep.data.stores.packed_store import open_packed
from widestep.data.stores.parquet_store import open_parquet
from widestep.data.stores.store import ImageStore
from widestep.data.stores.tar_store import open_tar

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
    return OPENERS[kind](path)
