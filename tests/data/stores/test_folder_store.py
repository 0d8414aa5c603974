"""Folders as a store, and the list of files that is kept between runs."""

import os
import stat
import time

import numpy as np
import pytest

from widestep.data.stores import folder_store, index_cache
from widestep.data.stores.folder_store import FolderStore, open_folder
from widestep.data.stores.index_cache import load_index, save_index
from widestep.data.stores.layout import scan_folder
from widestep.errors import DataError

FILES = {
    "train/cat/b.JPEG": b"12",
    "train/cat/a.png": b"1",
    "train/ant/\u00e9 z.jpg": b"123",
    "val/cat/v.webp": b"1234",
    "val/ant/w.BMP": b"",
}
LONG_AGO = 1_000_000_000


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The place of indexes; every data set of more than one image is kept."""
    monkeypatch.setenv("WIDESTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_store, "SMALLEST", 1)
    return tmp_path / "cache"


def settle(root):
    for directory, _, _ in os.walk(root):
        os.utime(directory, (LONG_AGO, LONG_AGO))
    return root


@pytest.fixture
def scans(monkeypatch):
    """Counts how often files are listed."""
    seen = []
    monkeypatch.setattr(folder_store, "scan_folder", lambda root: seen.append(root) or scan_folder(root))
    return seen


def test_images_in_order(tree):
    store = FolderStore(scan_folder(tree(FILES)))
    assert (store.num_train, store.num_val, store.classes) == (3, 2, ("ant", "cat"))
    assert store.labels.tolist() == [0, 1, 1, 0, 1]
    assert [store.read(image) for image in range(5)] == [b"123", b"1", b"12", b"", b"1234"]
    assert store.name(3) == str(tree({}) / "val" / "ant" / "w.BMP")
    assert store.fingerprint == scan_folder(tree({})).fingerprint
    store.close()


@pytest.mark.parametrize("damage", [os.unlink, lambda path: (path.unlink(), path.mkdir())], ids=["gone", "a folder"])
def test_a_file_that_cannot_be_read_is_named(tree, damage):
    store = open_folder(tree(FILES))
    damage(tree({}) / "train/cat/b.JPEG")
    with pytest.raises(DataError, match=r"train/cat/b\.JPEG.*restore the file"):
        store.read(2)


def test_the_list_is_made_once(tree, kept, scans):
    root = settle(tree(FILES))
    first, second = open_folder(root), open_folder(str(root))
    assert len(scans) == 1
    for store in (first, second):
        assert [store.read(image) for image in range(5)] == [b"123", b"1", b"12", b"", b"1234"]
        assert store.labels.flags.writeable
    assert second.fingerprint == first.fingerprint == scan_folder(root).fingerprint
    assert [second.name(image) for image in range(5)] == [first.name(image) for image in range(5)]
    assert np.array_equal(first.labels, second.labels)
    assert first.classes == second.classes
    assert stat.S_ISREG(next(kept.iterdir()).stat().st_mode)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "train/cat/c.jpg").write_bytes(b"new"),
        lambda root: (root / "train/cat/b.JPEG").unlink(),
        lambda root: (root / "train/cat/b.JPEG").rename(root / "train/cat/0.JPEG"),
        lambda root: (root / "val/cat").rename(root / "val/.hidden"),
        lambda root: (root / "val").rename(root / "validation"),
        lambda root: ((root / "train/bee").mkdir(), (root / "train/bee/1.jpg").write_bytes(b"")),
    ],
    ids=["added", "removed", "renamed", "class hidden", "split renamed", "class added"],
)
def test_a_list_that_is_no_longer_true_is_made_anew(tree, kept, scans, change):
    root = settle(tree(FILES))
    open_folder(root)
    change(root)
    assert open_folder(root).fingerprint == scan_folder(root).fingerprint
    assert len(scans) == 2


def test_a_folder_put_in_the_place_of_another_is_noticed(tree, kept, scans):
    root = settle(tree(FILES))
    open_folder(root)
    settle(tree(FILES | {"train/cat/c.jpg": b"new"}, "other"))
    (root / "train/cat").rename(root / "train/.old")
    (root.parent / "other/train/cat").rename(root / "train/cat")
    settle(root)
    assert open_folder(root).num_train == 4


def test_a_folder_that_was_just_changed_is_not_kept(tree, kept, scans):
    """A file that comes within the same tick of the clock would not be noticed."""
    root, soon = tree(FILES), time.time() + 60.0
    for path in (root, *root.rglob("*")):
        os.utime(path, (soon, soon))
    open_folder(root)
    assert open_folder(root).num_train == 3
    assert len(scans) == 2
    assert not kept.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:40],
        lambda data: data[:-1],
        lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        lambda data: bytes([data[0] ^ 1]) + data[1:],
    ],
)
def test_a_damaged_list_is_made_anew(tree, kept, scans, damage):
    root = settle(tree(FILES))
    open_folder(root)
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert open_folder(root).num_train == 3
    assert len(scans) == 2
    assert path.read_bytes() == whole


def test_small_data_sets_and_an_empty_variable_keep_nothing(tree, kept, scans, monkeypatch):
    root = settle(tree(FILES))
    monkeypatch.setattr(folder_store, "SMALLEST", 5)
    open_folder(root)
    assert not kept.exists()
    monkeypatch.setattr(folder_store, "SMALLEST", 4)
    monkeypatch.setenv("WIDESTEP_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    open_folder(root)
    assert not kept.exists()
    monkeypatch.delenv("WIDESTEP_CACHE")
    open_folder(root)
    assert [path.name for path in kept.iterdir()] == ["widestep"]
    assert len(scans) == 3


def test_the_usual_number_of_images_is_kept_from():
    assert index_cache.SMALLEST == 10_000


def test_a_place_that_cannot_be_written_is_passed_over(tree, kept, scans):
    kept.write_bytes(b"a file where the directory should be")
    root = settle(tree(FILES))
    assert open_folder(root).num_train == open_folder(root).num_train == 3
    assert len(scans) == 2


def test_an_index_belongs_to_its_kind_place_and_witness(tmp_path, kept):
    arrays = {"numbers": np.arange(5)}
    save_index("folder", tmp_path, "as it was", arrays)
    found = load_index("folder", tmp_path, "as it was")
    assert found is not None
    assert {name: values.tolist() for name, values in found.items()} == {"numbers": [0, 1, 2, 3, 4]}
    assert load_index("folder", tmp_path, "as it is") is None
    assert load_index("tar", tmp_path, "as it was") is None
    assert load_index("folder", tmp_path / "elsewhere", "as it was") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"cat/1.jpg": b"", "dog/1.jpg": b"", "x/y.jpg": b"", "z/y.jpg": b""},
            ["no folder train", "'cat', 'dog', 'x' and 1"],
        ),
        ({"train-0.parquet": b""}, ["perhaps you meant parquet:"]),
        ({"x-train-0.tar": b""}, ["perhaps you meant tar:"]),
        ({"index.json": b"{}"}, ["perhaps you meant packed:"]),
        ({"notes.txt": b""}, ["only 'notes.txt'"]),
        ({"empty/": b"", "empty/x/": b""}, ["no folder train"]),
        ({"train/a/1.jpg": b"", "train/b/1.jpg": b""}, ["no folder val or validation", "only 'train'"]),
        ({"train/1.jpg": b"", "train/2.jpg": b"", "val/a/1.jpg": b""}, ["no folders but 2 file(s), such as '1.jpg'"]),
        (
            {"train/a/1.jpg": b"", "train/b/1.jpg": b"", "val/ILSVRC2012_val_00000001.JPEG": b""},
            ["one folder a class", "as ImageNet's validation images come", "development kit"],
        ),
    ],
)
def test_bad_layouts_are_explained(tree, content, words):
    with pytest.raises(DataError) as caught:
        open_folder(tree(content))
    for word in words:
        assert word in str(caught.value)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(DataError, match="That is a file"):
        open_folder(tmp_path / "x.zip")
