"""Tar shards: what is read is what tarfile wrote; nothing outside is touched, whatever the headers say."""

import contextlib
import hashlib
import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from widestep.data.stores import tar_store
from widestep.data.stores.tar_members import Shard
from widestep.data.stores.tar_store import open_tar
from widestep.errors import DataError

LONG_AGO = 1_000_000_000


def member(name, content=b"", kind=tarfile.REGTYPE, **about):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in about.items():
        setattr(info, key, value)
    return info, content


def tar(*members, form=tarfile.PAX_FORMAT):
    """The bytes of a tar file of (header, content), or of {name: content}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def shard(*samples, form=tarfile.PAX_FORMAT, **about):
    """A shard of (key, image, label)."""
    pairs = [(f"{key}.jpg", image, f"{key}.cls", str(label).encode()) for key, image, label in samples]
    return tar(*(member(n, c, **about) for a, b, x, y in pairs for n, c in ((a, b), (x, y))), form=form)


@pytest.fixture
def write(tmp_path):
    def write_all(files):
        for name, content in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "set"

    return write_all


GOOD = {
    "x-train-000000.tar": shard(("000", b"a" * 700, 0), ("001", b"bb", 1)),
    "x-train-000001.tar": shard(("000", b"", 1)),
    "x-val-000000.tar": shard(("v", b"vvv", 0)),
}


def test_images_labels_and_places(write):
    root = write(GOOD)
    store = open_tar(str(root))
    assert (store.num_train, store.num_val, store.classes) == (3, 1, ("0", "1"))
    assert [store.read(image) for image in range(4)] == [b"a" * 700, b"bb", b"", b"vvv"]
    assert store.labels.tolist() == [0, 1, 1, 0]
    assert store.name(2) == f"{root}/x-train-000001.tar:000.jpg"
    store.close()
    assert store.read(3) == b"vvv"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_header(write, form):
    """Long names, names that are not ASCII, fractions of a second: what makes each form use headers of its own."""
    deep = "d" * 60 + "/" + "n" * 90
    names = [deep, "ü-ö", "plain"] if form == tarfile.USTAR_FORMAT else [deep * 2, "ü-ö", "x" * 300, "plain"]
    samples = [(name, name.encode() * 3, place % 2) for place, name in enumerate(names)]
    mtime = 1.5 if form == tarfile.PAX_FORMAT else 1
    store = open_tar(write({"train.tar": shard(*samples, form=form, mtime=mtime), "val.tar": GOOD["x-val-000000.tar"]}))
    assert [store.read(place) for place in range(len(names))] == [image for _, image, _ in samples]
    assert [store.name(place).rpartition(":")[2] for place in range(len(names))] == [f"{name}.jpg" for name in names]


def test_folders_other_members_and_json(write):
    content = tar(
        member("./", kind=tarfile.DIRTYPE),
        member("./a.JPEG", b"A"),
        member("./a.json", json.dumps({"label": 1, "width": 3}).encode()),
        member("./a.txt", b"words"),
        member("./b.seg.png", b"mask"),
        member("./b.cls", b" 0\n"),
        member("./b.webp", b"B"),
        member("./.hidden.jpg", b"no"),
        member("./README", b"no"),
        member("./c.json", b'{"about": 1}'),
        member("./d.jpg", b"D", mode=0o4777, uname="root"),
        member("./d.json", b'{"label": 1}'),
        member("./d.cls", b"1"),
    )
    store = open_tar(write({"train.tar": content, "val.tar": GOOD["x-val-000000.tar"]}))
    assert [(store.read(n), int(store.labels[n])) for n in range(3)] == [(b"A", 1), (b"B", 0), (b"D", 1)]


def test_the_size_of_a_folder_is_no_content(write):
    """Some writers give the size that the folder had on disk; no bytes follow (POSIX, ustar, typeflag 5)."""
    folder = tarfile.TarInfo("k/")
    folder.type, folder.size = tarfile.DIRTYPE, 4096
    content = folder.tobuf(tarfile.USTAR_FORMAT) + shard(("k/0", b"a", 0), ("k/1", b"b", 1))
    assert open_tar(write({"train.tar": content, "val.tar": GOOD["x-val-000000.tar"]})).read(1) == b"b"


@pytest.mark.parametrize(
    "names",
    [
        ("x-train-000000.tar", "x-val-000000.tar"),
        ("train.tar", "validation.tar"),
        ("imagenet_train_0.tar", "imagenet_validation_0.tar"),
        ("medieval-train-0.tar", "medieval-val-0.tar"),
        ("pretrain0.tar", "MyVal1.tar"),
        ("train/a.tar", "val/a.tar"),
        ("train/a.tar", "validation/a.tar"),
    ],
)
def test_names_of_shards(write, names):
    store = open_tar(write(dict(zip(names, [GOOD["x-train-000000.tar"], GOOD["x-val-000000.tar"]], strict=True))))
    assert (store.num_train, store.num_val) == (2, 1)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.tar", "b.tar"}, ["shards named *train*.tar", "'a.tar', 'b.tar'"]),
        ({"train.tar"}, ["shards named *val*.tar", "'train.tar'"]),
        ({"train.tar", "train/a.tar", "val.tar"}, ["shards of train must be in one place"]),
        ({"train.tar", "val/a.tar", "validation/a.tar"}, ["shards of val must be in one place"]),
        ({"train-val.tar", "val.tar"}, ["shards named *train*.tar"]),
    ],
)
def test_shards_that_are_missing_or_too_many(write, files, words):
    with pytest.raises(DataError) as caught:
        open_tar(write(dict.fromkeys(files, GOOD["x-train-000000.tar"])))
    for word in words:
        assert word in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"folder of \.tar files.*nowhere"):
        open_tar(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content"), [("classes.txt", "cat\ndog\n\n"), ("classes.json", '["cat", "dog"]'), ("classes.txt", "cat\r\ndog")]
)
def test_class_names(write, file, content):
    assert open_tar(write({**GOOD, file: content.encode()})).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("classes.json", b'{"cat": 0}', "list of names"),
        ("classes.json", b"[1, 2]", "list of names"),
        ("classes.json", b"[", "damaged"),
        ("classes.txt", b"\xff\xfe", "damaged"),
        ("classes.txt", b"cat\ncat\n", "two are called 'cat'"),
        ("classes.txt", b"cat\n", r"0 to 0.*'001\.jpg'.*is 1"),
    ],
)
def test_class_names_that_do_not_fit(write, file, content, words):
    with pytest.raises(DataError, match=f"(?i){words}"):
        open_tar(write({**GOOD, file: content}))


IMAGE, LABEL = member("k.jpg", b"i" * 600), member("k.cls", b"1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tar(IMAGE), ["byte 512", "'k.jpg' has no k.cls"]),
        (tar(LABEL), ["byte 512", "label but no image"]),
        (tar(IMAGE, member("k.cls", b"cat")), ["'k.cls' is 'cat', not a whole number", "byte 2,048"]),
        (tar(IMAGE, member("k.cls", b"1.5")), ["'1.5'"]),
        (tar(IMAGE, member("k.cls", b"")), ["is ''"]),
        (tar(IMAGE, member("k.cls", b"9" * 40)), ["not a whole number"]),
        (tar(IMAGE, member("k.cls", b"-1")), ["'k.jpg'", "is -1"]),
        (tar(IMAGE, member("k.json", b'{"label": "cat"}')), ["'cat'"]),
        (tar(IMAGE, member("k.json", b'{"label": true}')), ["'True'"]),
        (tar(IMAGE, member("k.json", b'{"label": ')), ["no JSON"]),
        (tar(IMAGE, member("k.json", b"[1]")), ["has no k.cls"]),
        (tar(IMAGE, LABEL, member("k.json", b'{"label": 2}')), ["two labels, 1 and 2"]),
        (tar(IMAGE, IMAGE, LABEL), ["'k.jpg' is there twice"]),
        (tar(IMAGE, member("k.png", b""), LABEL), ["two images"]),
        (tar(IMAGE, LABEL, member("l.jpg", b""), member("l.cls", b"0"), IMAGE, LABEL), ["key 'k' is used twice"]),
        (tar(member("../k.jpg", b""), LABEL), ["byte 0", "leads out"]),
        (tar(member("a/../../k.jpg", b"")), ["leads out"]),
        (tar(member("/etc/k.jpg", b"")), ["absolute"]),
        (tar(member("k.jpg", kind=tarfile.SYMTYPE, linkname="/etc/passwd")), ["'k.jpg' is a symbolic link"]),
        (tar(member("k.jpg", kind=tarfile.LNKTYPE, linkname="k.cls")), ["a link"]),
        (tar(member("k.jpg", kind=tarfile.CHRTYPE)), ["a device"]),
        (tar(member("k.jpg", kind=tarfile.FIFOTYPE)), ["a pipe"]),
        (tar(member("k.jpg", kind=b"Z")), ["unknown type b'Z'"]),
        (tar(member("k.txt", b"")), ["hold none"]),
        (tar(), ["hold none"]),
        (b"", ["byte 0", "cut short"]),
        (b"not a tar file at all" * 100, ["byte 0", "no header"]),
        (shard(("k", b"i" * 600, 1))[:1000], ["byte 0", "should have 600 bytes", "ends after 1,000"]),
        (shard(("k", b"i" * 600, 1))[:1536], ["byte 1,536", "cut short"]),
        (shard(("k", b"i" * 600, 1))[:2560], ["byte 2,560", "cut short"]),
        (shard(("k", b"i", 1)) + shard(("l", b"i", 1)), ["more after the end"]),
    ],
)
def test_damage_is_named_with_its_place(write, content, words):
    with pytest.raises(DataError) as caught:
        open_tar(write({"train.tar": content, "val.tar": GOOD["x-val-000000.tar"]}))
    for word in ["train.tar" if "hold none" not in words else "set", *words]:
        assert word in str(caught.value)


def huge(size):
    """A header that claims a size."""
    info, _ = member("k.jpg")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("size", [8**11 - 1, 2**40, 2**62, -1, -513])
def test_a_member_larger_than_the_shard(write, size):
    with pytest.raises(DataError, match=rf"should have {size:,} bytes"):
        open_tar(write({"train.tar": huge(size) + bytes(2048), "val.tar": b""}))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (b"20 path=../evil.jpg\n", "leads out"),
        (b"19 path=/etc/e.jpg\n", "absolute"),
        (b"99 path=x\n", "extended header is damaged"),
        (b"0 path=x\n", "extended header is damaged"),
        (b"path=x\n", "extended header is damaged"),
        (b"11 size=-1\n", "no size"),
        (b"20 size=99999999999\n", "should have 99,999,999,999"),
        (b"22 GNU.sparse.major=1\n", "sparse"),
    ],
)
def test_extended_headers_that_lie(write, records, words):
    content = tar(member("h", records, kind=tarfile.XHDTYPE), IMAGE, LABEL)
    with pytest.raises(DataError, match=words):
        open_tar(write({"train.tar": content, "val.tar": b""}))


def test_a_global_header_may_not_rename(write):
    with pytest.raises(DataError, match="global header"):
        open_tar(write({"train.tar": tar(member("h", b"9 path=x\n", kind=tarfile.XGLTYPE), IMAGE), "val.tar": b""}))
    content = tar(member("h", b"13 comment=x\n", kind=tarfile.XGLTYPE), IMAGE, LABEL, member("l.jpg"), member("l.cls", b"0"))
    assert open_tar(write({"train.tar": content, "val.tar": GOOD["x-val-000000.tar"]})).num_train == 2


def test_a_shard_that_changes_later_is_named(write):
    root = write(GOOD)
    store = open_tar(root)
    (root / "x-val-000000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"x-val-000000\.tar.*before byte 515"):
        store.read(3)
    (root / "x-train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"x-train-000001\.tar.*No such file"):
        store.read(2)


HOSTILE = [b"../x", b"/etc/", b"7777777", b"\x80\xff\xff\xff", b"2", b"5", b"L", b"x", b"g", b"S"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_headers_touch_nothing(write, data):
    """Headers with any bytes changed, most with their checksum made right again: an error that explains, or images."""
    form = data.draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    content = bytearray(shard(("a" * 60 + "/" + "a" * 60, b"x" * 30, 0), ("b", b"y" * 600, 1), form=form))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 11)) * 512
        where = data.draw(st.sampled_from([0, 50, 100, 124, 130, 156, 157, 257, 345]) | st.integers(0, 511))
        what = data.draw(
            st.sampled_from([b"../x", b"/etc/", b"7777777", b"\x80\xff\xff\xff", b"2", b"5", b"L", b"x"])
            | st.binary(max_size=9)
        )
        content[at + where : at + where + len(what)] = what
        if data.draw(st.booleans()) and at + 512 <= len(content):
            header = content[at : at + 512]
            header[148:156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    root = write({"train.tar": bytes(content), "val.tar": GOOD["x-val-000000.tar"]})
    with contextlib.suppress(DataError):
        store = open_tar(root)
        for image in range(store.num_train):
            assert len(store.read(image)) <= len(content)
    assert sorted(path.relative_to(root.parent).as_posix() for path in root.parent.rglob("*")) == [
        *("set", "set/train.tar", "set/val.tar")
    ]


def test_members_are_those_that_tarfile_sees(write):
    rng = np.random.default_rng(0)
    members = [member(f"{'d' * int(n)}/{n}.bin", rng.bytes(int(n) * 7)) for n in rng.integers(1, 200, 60)]
    path = write({"a.tar": tar(*members)}) / "a.tar"
    with tarfile.open(path) as archive:
        expected = [(info.name, info.offset_data, info.size) for info in archive]
    assert [tuple(found) for found in Shard(path).members()] == expected


def test_few_bytes_are_read_to_find_the_images(write, monkeypatch):
    path = write({"a.tar": shard(*((f"{n}", b"x" * 100_000, 0) for n in range(20)))}) / "a.tar"
    amounts = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: amounts.append(size) or pread(file, size, at))
    assert len(list(Shard(path).members())) == 40
    assert sum(amounts) < 20 * 5_000 + 20_000


def test_the_list_is_kept_while_the_shards_are_the_same(write, monkeypatch, tmp_path):
    monkeypatch.setenv("WIDESTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tar_store, "SMALLEST", 3)
    root, read = write(GOOD), []
    monkeypatch.setattr(tar_store, "Shard", lambda path: read.append(path.name) or Shard(path))
    stores = [open_tar(root), open_tar(root)]
    assert len(read) == 3
    for store in stores:
        assert [store.read(image) for image in range(4)] == [b"a" * 700, b"bb", b"", b"vvv"]
        assert store.fingerprint == stores[0].fingerprint
        assert store.labels.flags.writeable
    os.utime(root / "x-val-000000.tar", (LONG_AGO, LONG_AGO))
    assert open_tar(root).num_val == 1
    assert len(read) == 6
    write({"x-train-000002.tar": shard(("n", b"new", 0))})
    assert open_tar(root).read(3) == b"new"
    monkeypatch.setattr(tar_store, "SMALLEST", 10_000)
    monkeypatch.setenv("WIDESTEP_CACHE", str(tmp_path / "other"))
    open_tar(root)
    assert not (tmp_path / "other").exists()


def test_fingerprint_by_hand(write):
    lines = b"train/000.jpg\x00700 0\ntrain/001.jpg\x002 1\ntrain/000.jpg\x000 1\nval/v.jpg\x003 0\n"
    expected = hashlib.sha256(b'["0", "1"]' + lines).hexdigest()
    assert open_tar(write(GOOD)).fingerprint == expected


def test_many_threads_read_what_one_reads(write):
    images = [bytes([n]) * (n * 50) for n in range(200)]
    files = {f"train-{k}.tar": shard(*((f"{n}", images[n], n % 2) for n in range(k, 200, 8))) for k in range(8)}
    store = open_tar(write({**files, "val.tar": GOOD["x-val-000000.tar"]}))
    expected = [images[n] for k in range(8) for n in range(k, 200, 8)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(store.read, range(200))) == expected
