"""Parquet files in Hugging Face's columns: every way that writers store bytes, and every way that files are wrong."""

import contextlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from widestep.data.stores import parquet_store
from widestep.data.stores.parquet_file import ParquetImages
from widestep.data.stores.parquet_store import open_parquet
from widestep.errors import DataError, UsageError


def bodies(count, largest, seed=0):
    """Random bytes of random lengths; every fifth is a repetition of an earlier one, every seventh is compressible."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, 256, int(size), dtype=np.uint8).tobytes() for size in rng.integers(0, largest, count)]
    for place in range(0, count, 5):
        found[place] = found[place // 2]
    for place in range(3, count, 7):
        found[place] = b"ab" * (len(found[place]) // 2)
    return found


def table(values, labels=None, metadata=None, binary=False):
    images = pa.array(values, pa.binary()) if binary else pa.array([{"bytes": value, "path": None} for value in values])
    labels = pa.array([n % 3 for n in range(len(values))] if labels is None else labels, pa.int64())
    made = pa.table({"image": images, "label": labels})
    return made.replace_schema_metadata(metadata) if metadata else made


@pytest.fixture
def write(tmp_path):
    """Write tables given by file name; return their folder."""

    def write_all(files, **options):
        for name, content in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(content, path, **options)
        return tmp_path / "set"

    return write_all


def names_of(classes):
    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


TWO = {"train.parquet": table([b"a", b"bc", b""]), "test.parquet": table([b"d", b"e"])}


def test_images_labels_and_places(write):
    root = write(TWO)
    store = open_parquet(str(root))
    assert (store.num_train, store.num_val, store.classes) == (3, 2, ("0", "1", "2"))
    assert [store.read(image) for image in range(5)] == [b"a", b"bc", b"", b"d", b"e"]
    assert store.labels.tolist() == [0, 1, 2, 0, 1]
    assert store.labels.dtype == np.int64
    assert store.labels.flags.writeable
    assert store.name(4) == f"{root / 'test.parquet'}, row 1"
    store.close()
    assert store.read(1) == b"bc"


PHOTOS, ICONS = bodies(40, 60_000), bodies(2_000, 300)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False], ids=["dictionary", "plain"])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip", "lz4", "brotli"])
@pytest.mark.parametrize(("values", "rows"), [(PHOTOS, 7), (PHOTOS, 10**6), (ICONS, 500), (ICONS[:20], 1)])
def test_every_way_of_writing(write, codec, dictionary, version, values, rows):
    content = table(values)
    root = write(
        {"train.parquet": content, "val.parquet": content.slice(0, 2)},
        **{"compression": codec, "use_dictionary": dictionary, "data_page_version": version, "row_group_size": rows},
        **{"data_page_size": 30_000, "write_statistics": codec == "none"},
    )
    store = open_parquet(root)
    order = np.random.default_rng(1).permutation(len(values)).tolist()
    for _ in range(2):
        assert [store.read(image) for image in order] == [values[image] for image in order]


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_encodings_of_differences(write, encoding):
    options = {"use_dictionary": False, "column_encoding": {"image.bytes": encoding}, "row_group_size": 9}
    store = open_parquet(write({"train.parquet": table(PHOTOS), "val.parquet": table(PHOTOS[:2])}, **options))
    assert [store.read(image) for image in reversed(range(40))] == PHOTOS[::-1]
    assert store.read(41) == PHOTOS[1]


@pytest.mark.parametrize(("limit", "decoded"), [(1 << 30, 5), (0, 40), (250_000, 40)])
def test_row_groups_that_find_no_room_are_decoded_again(write, monkeypatch, limit, decoded):
    """Eight images of 30 kB each on the average in a row group; every image of another than the one before it."""
    monkeypatch.setattr(parquet_store, "KEPT_BYTES", limit)
    store = open_parquet(write({"train.parquet": table(PHOTOS), "val.parquet": table(PHOTOS[:2])}, row_group_size=8))
    groups, decode = [], ParquetImages._decoded
    monkeypatch.setattr(ParquetImages, "_decoded", lambda self, group: groups.append(group) or decode(self, group))
    order = [8 * group + place for place in range(8) for group in range(5)]
    assert [store.read(image) for image in order] == [PHOTOS[image] for image in order]
    assert len(groups) == decoded
    groups.clear()
    assert [store.read(image) for image in range(40)] == PHOTOS  # in their order each is decoded once at most
    assert len(groups) <= 5


def test_plain_binary_and_columns_of_other_names(write):
    content = table(PHOTOS, binary=True)
    other = pa.table({"width": pa.array([1.0] * 40), "img": content["image"], "fine_label": content["label"]})
    other = other.append_column("coarse_label", content["label"])
    store = open_parquet(write({"train.parquet": content, "val.parquet": other}))
    assert [store.read(image) for image in range(80)] == PHOTOS * 2
    only = pa.table({"scan": content["image"], "species": content["label"]})
    assert open_parquet(write({"train.parquet": only, "val.parquet": only})).read(3) == PHOTOS[3]


def test_large_binary_and_required_columns(write):
    schema = pa.schema([pa.field("image", pa.large_binary(), nullable=False), pa.field("label", pa.int8(), nullable=False)])
    content = pa.table({"image": PHOTOS, "label": [n % 2 for n in range(40)]}, schema=schema)
    store = open_parquet(write({"train.parquet": content, "val.parquet": content}))
    assert [store.read(image) for image in range(40)] == PHOTOS


def test_many_threads_read_what_one_reads(write):
    store = open_parquet(write({"train.parquet": table(PHOTOS), "val.parquet": table(PHOTOS)}, data_page_size=30_000))
    order = np.random.default_rng(2).integers(0, 80, 600).tolist()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(store.read, order)) == [PHOTOS[image % 40] for image in order]


# Where files are, and which


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (["train.parquet"], ["validation.parquet"]),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], ["val-00000-of-00001.parquet"]),
        (["data/train-00000-of-00001-0a1b2c3d.parquet"], ["data/test-00000-of-00001-fe.parquet"]),
        (["train/0000.parquet", "train/0001.parquet"], ["validation/0000.parquet"]),
        (["train_a.parquet", "train_b.parquet"], ["test.parquet"]),
    ],
)
def test_where_files_are(write, train, val):
    content = {name: table([name.encode()] * 3) for name in [*train, *val]}
    noise = {"extra.parquet": table([b"x"]), "training_notes.parquet": table([b"x"])} if "/" not in train[0] else {}
    store = open_parquet(write({**content, **noise}))
    assert [store.read(image).decode() for image in range(3 * len(content))] == [n for n in [*train, *val] for _ in range(3)]
    assert store.num_val == 3


def test_validation_goes_before_test(write):
    store = open_parquet(write({**TWO, "validation.parquet": table([b"v"])}))
    assert (store.num_val, store.read(3)) == (1, b"v")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train.parquet"}, ["'train.parquet'", "test*.parquet"]),
        ({"test.parquet"}, ["'test.parquet'"]),
        ({"train.parquet", "val.parquet", "validation.parquet"}, ["one set of validation images", "val.parquet"]),
        ({"train-00000-of-00003.parquet", "train-00002-of-00003.parquet", "test.parquet"}, ["3", "number 1 is missing"]),
        ({"train-00000-of-00001-a.parquet", "train-00000-of-00001-b.parquet", "test.parquet"}, ["2 are there"]),
    ],
)
def test_files_that_are_missing_or_too_many(write, files, words):
    with pytest.raises(DataError) as caught:
        open_parquet(write({name: table([b"x"] * 3) for name in files}))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("path", ["nowhere", "set/train.parquet"])
def test_a_path_that_is_no_folder(write, path):
    with pytest.raises(DataError, match="must be a folder"):
        open_parquet(write(TWO).parent / path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="holds nothing"):
        open_parquet(tmp_path)


# Classes and labels


@pytest.mark.parametrize(
    "metadata",
    [
        names_of(["ant", "bee", "cat"]),
        names_of({"0": "ant", "1": "bee", "2": "cat"}),
        {"class_names": "ant,bee, cat"},
        {"class_names": '["ant", "bee", "cat"]'},
    ],
)
def test_class_names(write, metadata):
    files = {name: content.replace_schema_metadata(metadata) for name, content in TWO.items()}
    assert open_parquet(write(files)).classes == ("ant", "bee", "cat")


@pytest.mark.parametrize("metadata", [None, {"huggingface": "{"}, {"huggingface": "[]"}, names_of(None), {"pandas": "{}"}])
def test_without_names_the_numbers_are_names(write, metadata):
    files = {name: content.replace_schema_metadata(metadata) for name, content in TWO.items()}
    assert open_parquet(write(files)).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("train", "val", "classes", "words"),
    [
        ([0, 1, 5], [0], ["a", "b", "c"], ["0 to 2, as there are 3 classes", "train.parquet, row 2 is 5"]),
        ([0, -1, 1], [0], None, ["train.parquet, row 1 is -1"]),
        ([0, 1], [1, 7, 8], None, ["test.parquet, row 1 is 7", "1 more"]),
        ([0, 0], [0], None, ["at least two classes"]),
        ([0, 1], [0], ["a", "a"], ["two are called 'a'".capitalize()]),
        ([0, 10**12], [0], None, ["row 1 is 1000000000000"]),
    ],
)
def test_labels_that_do_not_fit(write, train, val, classes, words):
    metadata = names_of(classes) if classes else None
    files = {"train": table([b"x"] * len(train), train, metadata), "test": table([b"x"] * len(val), val, metadata)}
    with pytest.raises(DataError) as caught:
        open_parquet(write({f"{name}.parquet": content for name, content in files.items()}))
    for word in words:
        assert word in str(caught.value)


def test_classes_that_differ(write):
    files = {
        "train.parquet": table([b"a", b"b"], [0, 1], names_of(["cat", "dog"])),
        "test.parquet": table([b"a"], [0], names_of(["dog", "cat"])),
    }
    with pytest.raises(DataError, match=r"test\.parquet.*dog, cat.*train\.parquet.*cat, dog.*same order"):
        open_parquet(write(files))


# Damage


def columns(**given):
    return {"train.parquet": pa.table(given), "test.parquet": pa.table(given)}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (columns(label=pa.array([0, 1])), ["train.parquet", "column 'image'", "there is none", "label (int64)"]),
        (columns(image=pa.array([b"a", b"b"])), ["column 'label'", "image (binary)"]),
        (columns(image=pa.array([b"a", b"b"]), label=pa.array(["cat", "dog"])), ["whole numbers", "'label' is string"]),
        (columns(image=pa.array([b"a"]), label=pa.array([0.5])), ["'label' is double"]),
        (columns(a=pa.array([b"a"]), b=pa.array([b"b"]), label=pa.array([0])), ["more than one can be meant", "a (binary)"]),
        (columns(image=pa.array(["a.jpg"]), label=pa.array([0])), ["column 'image'", "there is none", "image (string)"]),
        (columns(image=pa.array([b"a", b"b"]), label=pa.array([0, None])), ["row 1 has no 'label'"]),
        (columns(image=pa.array([b"a", None, b"c"]), label=pa.array([0, 1, 1])), ["train.parquet", "row 1 has no 'image'"]),
        (
            columns(image=pa.array([{"bytes": b"a"}, {"bytes": None}]), label=pa.array([0, 1])),
            ["row 1 has no 'image'"],
        ),
        (
            columns(image=pa.array([{"bytes": b"a"}, None]), label=pa.array([0, 1])),
            ["row 1 has no 'image'"],
        ),
        (columns(image=pa.array([], pa.binary()), label=pa.array([], pa.int64())), ["at least two classes"]),
    ],
)
def test_columns_and_values_that_are_missing(write, files, words):
    with pytest.raises(DataError) as caught:
        open_parquet(write(files))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_missing_image_without_statistics_is_found_when_it_is_read(write, version):
    values = [b"a", None, b"c"]
    root = write(
        {"train.parquet": table(values), "test.parquet": table([b"d"])}, write_statistics=False, data_page_version=version
    )
    store = open_parquet(root)
    assert (store.read(0), store.read(2)) == (b"a", b"c")
    with pytest.raises(DataError, match=r"train\.parquet.*row 1 has no 'image'"):
        store.read(1)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"<html>not found</html>", b"PAR1" + bytes(100) + b"PAR1"])
def test_files_that_are_not_parquet(write, content):
    root = write(TWO)
    (root / "test.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"test\.parquet.*footer.*copy the file again"):
        open_parquet(root)


def test_a_file_that_was_cut_short(write):
    root = write(TWO)
    whole = (root / "train.parquet").read_bytes()
    (root / "train.parquet").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"train\.parquet.*footer"):
        open_parquet(root)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32), codec=st.sampled_from(["none", "snappy", "zstd"]), dictionary=st.booleans(), data=st.data()
)
def test_damage_is_an_error_with_a_name_or_other_bytes(write, seed, codec, dictionary, data):
    root = write(
        {"train.parquet": table(bodies(6, 90, seed)), "test.parquet": table([b"d"])},
        **{
            "compression": codec,
            "use_dictionary": dictionary,
            "data_page_version": data.draw(st.sampled_from(["1.0", "2.0"])),
        },
    )
    path = root / "train.parquet"
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # pyarrow's own parser has that
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(4, footer - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        store = open_parquet(root)
        for image in range(store.num_train):
            store.read(image)


def test_without_pyarrow(write, monkeypatch):
    root = write(TWO)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'pip install "widestep\[parquet\]"'):
        open_parquet(root)


def test_the_fingerprint_follows_the_content_and_not_the_place(write, tmp_path):
    root = write(TWO)
    first = open_parquet(root).fingerprint
    assert len(first) == 64
    root.rename(tmp_path / "moved")
    assert open_parquet(tmp_path / "moved").fingerprint == first
    (tmp_path / "moved/test.parquet").rename(tmp_path / "moved/validation.parquet")
    assert open_parquet(tmp_path / "moved").fingerprint != first
    assert open_parquet(write({**TWO, "test.parquet": table([b"d", b"f"])})).fingerprint != first


# The parts, against worked examples
