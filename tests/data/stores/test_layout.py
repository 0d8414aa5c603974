import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from widestep.data.stores.layout import scan_folder
from widestep.errors import DataError

GOOD = {
    "train/cat/b.JPEG": b"12",
    "train/cat/a.png": b"1",
    "train/ant/z.jpg": b"123",
    "val/cat/v.webp": b"1234",
    "val/ant/w.BMP": b"",
}


def test_order_and_labels(tree):
    layout = scan_folder(tree(GOOD))
    assert layout.classes == ("ant", "cat")
    assert layout.train.names == ("z.jpg", "a.png", "b.JPEG")
    assert layout.train.labels.tolist() == [0, 1, 1]
    assert layout.train.labels.dtype == np.int64
    assert layout.val.names == ("w.BMP", "v.webp")
    assert [layout.train.path(i).read_bytes() for i in range(len(layout.train))] == [b"123", b"1", b"12"]
    assert layout.val.path(1) == layout.root / "val" / "cat" / "v.webp"


def test_order_is_by_code_point_whatever_the_order_of_writing(tree):
    """Capitals before small letters, é last, 10 before 9: as the bytes of the names."""
    names = ["é.jpg", "9.jpg", "b.jpg", "10.jpg", "A.jpg"]
    layout = scan_folder(tree({f"train/x/{name}": b"" for name in names} | GOOD))
    own = [name for name, label in zip(layout.train.names, layout.train.labels, strict=True) if label == 2]
    assert own == ["10.jpg", "9.jpg", "A.jpg", "b.jpg", "é.jpg"]


def test_what_is_passed_over(tree):
    noise = {
        "train/.hidden/x.jpg": b"",
        "train/list.txt": b"",
        "train/cat/.a.jpg": b"",
        "train/cat/notes.txt": b"",
        "train/cat/jpg": b"",
        "train/cat/inner/x.jpg": b"",
        "train/cat/folder.jpg/x.jpg": b"",
        "readme.jpg": b"",
    }
    layout = scan_folder(tree(GOOD | noise))
    assert layout.classes == ("ant", "cat")
    assert layout.train.names == ("z.jpg", "a.png", "b.JPEG")


def test_validation_may_be_called_validation(tree):
    layout = scan_folder(tree({name.replace("val/", "validation/"): data for name, data in GOOD.items()}, "other"))
    assert layout.val.path(0).parts[-3:] == ("validation", "ant", "w.BMP")
    assert layout.fingerprint == scan_folder(tree(GOOD)).fingerprint


def test_class_of_train_may_be_missing_from_val(tree):
    layout = scan_folder(tree({name: data for name, data in GOOD.items() if name != "val/ant/w.BMP"}))
    assert layout.val.labels.tolist() == [1]


def test_links_are_followed_but_cannot_loop(tree):
    root = tree(GOOD)
    (root / "train" / "bee").symlink_to(root / "train" / "cat")
    (root / "train" / "cat" / "up").symlink_to(root)
    (root / "train" / "cat" / "c.jpg").symlink_to(root / "train" / "ant" / "z.jpg")
    layout = scan_folder(root)
    assert layout.classes == ("ant", "bee", "cat")
    assert layout.train.names == ("z.jpg", "a.png", "b.JPEG", "c.jpg", "a.png", "b.JPEG", "c.jpg")


def test_fingerprint_by_hand(tree):
    lines = [
        b"train/ant/z.jpg\x003\n",
        b"train/cat/a.png\x001\n",
        b"train/cat/b.JPEG\x002\n",
        b"val/ant/w.BMP\x000\n",
        b"val/cat/v.webp\x004\n",
    ]
    assert scan_folder(tree(GOOD)).fingerprint == hashlib.sha256(b"".join(lines)).hexdigest()


def test_fingerprint_ignores_place_and_time(tree):
    first, second = tree(GOOD, "here"), tree(dict(reversed(GOOD.items())), "there/deeper")
    os.utime(second / "train/cat/a.png", (1, 1))
    assert scan_folder(first).fingerprint == scan_folder(str(second)).fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        GOOD | {"train/cat/a.png": b"longer"},
        GOOD | {"train/cat/c.png": b""},
        {name.replace("a.png", "aa.png"): data for name, data in GOOD.items()},
        {name.replace("cat", "cow"): data for name, data in GOOD.items()},
        {name: data for name, data in GOOD.items() if name != "train/cat/a.png"},
        {name.replace("train/cat/a.png", "val/cat/a.png"): data for name, data in GOOD.items()},
    ],
    ids=["size", "added", "renamed", "class", "removed", "moved"],
)
def test_fingerprint_notices(tree, changed):
    assert scan_folder(tree(GOOD)).fingerprint != scan_folder(tree(changed, "changed")).fingerprint


def without(prefix: str) -> dict[str, bytes]:
    return {name: data for name, data in GOOD.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (without("train"), ["no folder train", "set"]),
        (without("val"), ["no folder val or validation"]),
        (GOOD | {"validation/cat/x.jpg": b""}, ["both val and validation"]),
        (without("train") | {"train/x.jpg": b""}, ["one folder a class", "train", "no folders"]),
        (without("val") | {"val/x.jpg": b""}, ["one folder a class", "val/cat", "no folders"]),
        (GOOD | {"train/dog/": b"", "train/eel/": b""}, ["directly inside", "train': 'dog', 'eel'."]),
        (GOOD | {"train/dog/inner/x.jpg": b""}, ["directly inside", "train': 'dog'."]),
        (without("val/ant") | {"val/ant/x.txt": b""}, ["directly inside", "val': 'ant'."]),
        (GOOD | {f"val/new{i}/x.jpg": b"" for i in range(5)}, ["also be trained on", "'new0', 'new1', 'new2' and 2 more."]),
        (without("train") | {"train/ant/x.txt": b"", "train/cat/": b""}, ["must hold images", "None", ".webp"]),
        (without("train/ant") | {"train/dog/x.jpg": b""}, ["also be trained on", "train': 'ant'."]),
        ({"train/cat/x.jpg": b"", "val/cat/x.jpg": b""}, ["at least two classes", "only 'cat'"]),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[0].replace(" ", "-"),
)
def test_what_must_hold(tree, content, words):
    with pytest.raises(DataError) as caught:
        scan_folder(tree(content))
    for word in words:
        assert word in str(caught.value)


def test_missing_path(tmp_path: Path):
    with pytest.raises(DataError, match=r"existing folder.*nowhere"):
        scan_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("target", ["gone.jpg", "x.jpg"], ids=["broken", "to itself"])
def test_link_to_nothing_is_named(tree, target):
    root = tree(GOOD)
    (root / "train/cat/x.jpg").symlink_to(target)
    with pytest.raises(DataError, match=r"must be readable.*x\.jpg.*repair"):
        scan_folder(root)
