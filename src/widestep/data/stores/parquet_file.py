"""One parquet file of images: which columns it has, their labels, and its images one by one."""

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widestep.data.stores.parquet_footer import null_counts
from widestep.errors import DataError, UsageError

_IMAGE_COLUMNS = ("image", "img", "jpg", "image_bytes", "picture", "photo")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class", "target")


def import_pyarrow() -> tuple[ModuleType, ModuleType]:
    """Return pyarrow and pyarrow.parquet; raises UsageError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            'Parquet files are read with pyarrow, which is not installed here. Run: pip install "widestep[parquet]".'
        ) from error
    return pyarrow, pyarrow.parquet


@dataclass(frozen=True)
class _Columns:
    """Where a file keeps images and labels: names of columns, and of the images' bytes within theirs."""

    image: str
    label: str
    image_path: str
    class_names: tuple[str, ...] | None


class RowGroups:
    """The row groups that were decoded last, shared by all files and threads: at most `limit` bytes, but one at least."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._lock = Lock()

    def find(self, key: tuple[Path, int]) -> Any:
        """Return the images of a row group if they are kept, an array of pyarrow, else None."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def keep(self, key: tuple[Path, int], images: Any) -> None:
        """Keep the images of a row group, and no longer those that were used least recently if there is no room."""
        with self._lock:
            self._held[key] = images
            while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > self._limit:
                self._held.popitem(last=False)


class ParquetImages:
    """A parquet file: its footer, and its row groups once an image of theirs has been asked for."""

    def __init__(self, path: Path, row_groups: RowGroups) -> None:
        self.path, self._row_groups, self._decoding = path, row_groups, Lock()
        pyarrow, parquet = import_pyarrow()
        if not path.is_file():
            raise self.fault("it is no regular file; remove or restore it")
        try:
            self.footer = parquet.read_metadata(path)
            self.schema = self.footer.schema.to_arrow_schema()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise self.fault(f"its footer cannot be read ({_first_line(error)}); copy the file again") from error
        counts = [self.footer.row_group(group).num_rows for group in range(self.footer.num_row_groups)]
        self.first_rows = [0, *accumulate(counts)]
        if self.first_rows[-1] != self.footer.num_rows:
            raise self.fault("its footer contradicts itself; copy the file again")

    def fault(self, what: str) -> DataError:
        """Return the error that says what is wrong with this file."""
        return DataError(f"A parquet file of images must hold an image and a label a row. {str(self.path)!r}: {what}.")

    @cached_property
    def columns(self) -> _Columns:
        """The columns of images and labels; raises DataError when there are none, or more than one can be meant."""
        pyarrow, _ = import_pyarrow()

        def is_binary(kind: Any) -> bool:
            return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

        images, labels = {}, []
        for column in self.schema:
            inner = column.type.field("bytes") if _has_bytes(pyarrow, column.type) else column
            if is_binary(inner.type):
                images[column.name] = f"{column.name}.bytes" if inner is not column else column.name
            if column.name in _LABEL_COLUMNS or pyarrow.types.is_integer(column.type):
                labels.append(column.name)
        image = self._chosen("image", "struct<bytes, path> or binary", list(images), _IMAGE_COLUMNS)
        label = self._chosen("label", "int64", labels, _LABEL_COLUMNS)
        if not pyarrow.types.is_integer(self.schema.field(label).type):
            raise self.fault(f"labels must be whole numbers, and column {label!r} is {self.schema.field(label).type}")
        return _Columns(image, label, images[image], self._class_names(label))

    def _chosen(self, purpose: str, form: str, found: Sequence[str], usual: Sequence[str]) -> str:
        """Return the column with the usual name, or the only one of the form."""
        best = next((name for name in usual if name in found), None)
        if best is None and len(found) == 1:
            best = found[0]
        if best is None:
            shown = ", ".join(f"{column.name} ({column.type})" for column in self.schema) or "none"
            problem = "more than one can be meant" if found else "there is none"
            raise self.fault(f"a column '{purpose}' ({form}) is needed and {problem} among its columns: {shown}")
        return best

    def _class_names(self, label: str) -> tuple[str, ...] | None:
        """Return the names in the schema's metadata: Hugging Face's, or a list `class_names`."""
        about = self.schema.metadata or {}
        try:
            features = json.loads(about.get(b"huggingface", b"{}"))["info"]["features"]
            names = features[label]["names"]
        except (ValueError, KeyError, TypeError, RecursionError):
            names = None
        if names is None and b"class_names" in about:
            text = about[b"class_names"].decode("utf-8", "replace")
            try:
                names = json.loads(text)
            except (ValueError, RecursionError):
                names = [name.strip() for name in text.split(",")]
        if isinstance(names, dict):  # older files number the names
            names = [names.get(str(number)) for number in range(len(names))]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            return None
        return tuple(names)

    def labels(self) -> NDArray[np.int64]:
        """Read the label of every row; raises DataError for a missing one."""
        pyarrow, parquet = import_pyarrow()
        name = self.columns.label
        try:
            with parquet.ParquetFile(self.path) as file:
                column = file.read(columns=[name], use_threads=False).column(0).combine_chunks()
            if column.null_count:
                row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
                raise self.fault(f"row {row:,} has no {name!r}; remove the row or label it")
            found = np.array(column.cast(pyarrow.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise self.fault(f"column {name!r} cannot be read ({_first_line(error)}); copy the file again") from error
        if len(found) != self.footer.num_rows:
            raise self.fault(f"column {name!r} has {len(found):,} of {self.footer.num_rows:,} rows; copy the file again")
        return found

    def check_nulls(self) -> None:
        """Raise DataError for a missing image where the footer's statistics tell of one."""
        image_path = self.columns.image_path
        try:
            told = [found.group for found in null_counts(self.path) if found.num_missing and found.column == image_path]
        except (OSError, ValueError) as error:
            raise self.fault(f"its footer cannot be read ({_first_line(error)}); copy the file again") from error
        for group in told:
            if group < self.footer.num_row_groups:
                for row in range(self.first_rows[group], self.first_rows[group + 1]):
                    self.read(row)

    def read(self, row: int) -> bytes:
        """Return the image in a row; raises DataError when it is missing or cannot be read."""
        group = bisect_right(self.first_rows, row) - 1
        pyarrow, _ = import_pyarrow()
        try:
            value = self._images(group)[row - self.first_rows[group]]
        except (pyarrow.ArrowException, OSError, ValueError, IndexError) as error:
            raise self.fault(
                f"column {self.columns.image!r}, row {row:,} cannot be read ({_first_line(error)}); copy the file again"
            ) from error
        if not value.is_valid:
            raise self.fault(f"row {row:,} has no {self.columns.image!r}; remove the row or add the image")
        image: bytes = value.as_py()
        return image

    def _images(self, group: int) -> Any:
        """Return the images of a row group, decoded as a whole where it is not kept."""
        key = self.path, group
        images = self._row_groups.find(key)
        if images is None:
            with self._decoding:  # by one thread, for all that wait
                images = self._row_groups.find(key)
                if images is None:
                    images = self._decoded(group)
                    self._row_groups.keep(key, images)
        return images

    def _decoded(self, group: int) -> Any:
        pyarrow, parquet = import_pyarrow()
        with parquet.ParquetFile(self.path) as file:
            table = file.read_row_group(group, columns=[self.columns.image_path], use_threads=False)
        column = table.column(0).combine_chunks()
        images = column.flatten()[column.type.get_field_index("bytes")] if _has_bytes(pyarrow, column.type) else column
        if len(images) != self.footer.row_group(group).num_rows:
            raise ValueError(f"it has {len(images):,} values for {self.footer.row_group(group).num_rows:,} rows")
        return images


def _has_bytes(pyarrow: ModuleType, kind: Any) -> bool:
    return bool(pyarrow.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
