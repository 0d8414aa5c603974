"""The footer of a parquet file, read twice: by this and by pyarrow."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from widestep.data.stores.parquet_footer import null_counts


def by_pyarrow(path):
    footer = pq.read_metadata(path)
    for group in range(footer.num_row_groups):
        for place in range(footer.num_columns):
            column = footer.row_group(group).column(place)
            if column.statistics is not None and column.statistics.has_null_count:
                yield group, column.path_in_schema, column.statistics.null_count


VALUES = st.lists(st.none() | st.binary(max_size=5), min_size=1, max_size=20)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES, st.integers(1, 7), st.booleans(), st.sampled_from(["1.0", "2.4", "2.6"]))
def test_counts_are_those_of_pyarrow(tmp_path, values, rows_a_group, has_statistics, version):
    columns = {
        "image": [{"bytes": value, "path": "a/b"} for value in values],
        "tags": [[1, None] if value is None else [] for value in values],
        "numbers": [{"a": 1}] * len(values),
        "score": [None if value else 0.5 for value in values],
        "ok": [value is None for value in values],
    }
    table = pa.table(columns).replace_schema_metadata({"class_names": "é" * 300})
    pq.write_table(
        table,
        tmp_path / "x.parquet",
        row_group_size=rows_a_group,
        write_statistics=has_statistics,
        version=version,
        write_page_index=True,
    )
    assert sorted(null_counts(tmp_path / "x.parquet")) == sorted(by_pyarrow(tmp_path / "x.parquet"))


def test_a_count_by_hand(tmp_path):
    pq.write_table(pa.table({"a": [1, None, None], "b": ["x", "y", None]}), tmp_path / "x.parquet")
    assert list(null_counts(tmp_path / "x.parquet")) == [(0, "a", 2), (0, "b", 1)]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00" * 8, b"\xff\xff\xff\xffPAR1", b"\x15\x01\x00\x00\x00PAR1"])
def test_what_is_no_footer(tmp_path, content):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        list(null_counts(tmp_path / "x.parquet"))


def test_a_footer_of_any_bytes_is_read_or_refused(tmp_path):
    """Nothing else than ValueError, and soon: lists that claim millions of values end with the bytes."""
    rng = random.Random(3)
    for size in range(400):
        body = rng.choice([rng.randbytes(size), bytes([0x19, 0xFC, *[0xFF] * 8, 0x01]) * size, b"\x1c" * size])
        (tmp_path / "x.parquet").write_bytes(body + len(body).to_bytes(4, "little") + b"PAR1")
        try:
            list(null_counts(tmp_path / "x.parquet"))
        except ValueError:
            continue
