"""The packed form: what is written, that a stop leaves nothing half done, and that damage is found."""

import hashlib
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save

from widestep.data.decode import open_picture
from widestep.data.stores import pack as pack_module
from widestep.data.stores.folder_store import open_folder
from widestep.data.stores.pack import PackOptions, pack
from widestep.data.stores.packed_store import open_packed
from widestep.errors import DataError, DirectoryInUse, EnvironmentFault, UsageError

SIZES = [(300, 400), (400, 300), (256, 256), (90, 500), (257, 257), (700, 260)]
"""Heights and widths of the training images, those of validation the same backwards."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory, picture, encoded):
    root = tmp_path_factory.mktemp("photos")
    for split, sizes in (("train", SIZES), ("val", SIZES[::-1])):
        for place, (height, width) in enumerate(sizes):
            folder = root / split / ("cat" if place < 3 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{place}.jpg").write_bytes(encoded(picture(width, height, phase=place), quality=95))
    return root


@pytest.fixture
def packed(photos, tmp_path):
    def make(out="out", num_threads=2, **options):
        store = open_folder(photos)
        return pack(f"folder:{photos}", store, tmp_path / out, PackOptions(**options), num_threads, lambda count: None)

    make.out = tmp_path / "out"
    return make


@pytest.fixture
def small_shards(monkeypatch):
    """Two or three images a shard."""
    monkeypatch.setattr(pack_module, "SHARD_BYTES", 20_000)


def content_of(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_original_is_the_same_bytes(packed, photos):
    packed(short_side=None)
    source, store = open_folder(photos), open_packed(packed.out)
    assert (store.num_train, store.num_val, store.classes) == (6, 6, ("cat", "dog"))
    assert np.array_equal(store.labels, source.labels)
    assert store.labels.flags.writeable
    assert [store.read(image) for image in range(12)] == [source.read(image) for image in range(12)]
    assert store.name(7) == f"{packed.out / 'val-00000.bin'}: val/cat/1.jpg"
    assert (packed.out / "train-00000.bin").read_bytes() == b"".join(source.read(image) for image in range(6))


@pytest.mark.parametrize("stored", ["jpeg", "raw"])
def test_short_sides(packed, photos, stored):
    """The long side is the whole part of short * long / short before; what is smaller or equal stays as it is."""
    packed(stored=stored)
    source, store = open_folder(photos), open_packed(packed.out)
    expected = [(256, 341), (341, 256), (256, 256), (90, 500), (256, 256), (689, 256)]
    for image, (height, width) in enumerate(expected):
        picture = open_picture(store.read(image))
        assert (picture.height, picture.width) == (height, width)
        unchanged = (height, width) == SIZES[image]
        if stored == "jpeg":
            assert (store.read(image) == source.read(image)) == unchanged
        original = Image.open(io.BytesIO(source.read(image))).convert("RGB")
        reduced = np.asarray(original.resize((width, height), Image.Resampling.BILINEAR))
        difference = np.abs(picture.decode().astype(int) - reduced)
        assert difference.max() <= (0 if stored == "raw" else 24)
        assert difference.mean() <= (0 if stored == "raw" else 3)


def test_raw_pixels(packed):
    packed(stored="raw", short_side=64)
    found = open_packed(packed.out).read(0)
    assert (found.shape, found.dtype) == ((64, 85, 3), np.uint8)
    assert found.flags.writeable
    assert (packed.out / "train-00000.bin").read_bytes()[: 64 * 85 * 3] == found.tobytes()


def test_how_jpeg_is_written(packed):
    """Marker SOF0 says 4:2:0 (luminance 2x2, colours 1x1); DRI says a restart after 22 blocks of 16x16, which is a row."""
    packed()
    data = open_packed(packed.out).read(0)
    frame = data[data.index(b"\xff\xc0") :]
    assert (frame[11], frame[14], frame[17]) == (0x22, 0x11, 0x11)
    restart = data[data.index(b"\xff\xdd") :]
    assert int.from_bytes(restart[4:6], "big") == 22 == -(-341 // 16)
    table = data[data.index(b"\xff\xdb") :][5]
    assert table == 3  # 16 at quality 50; at 90 a fifth of it
    packed("other", quality=50)
    other = open_packed(packed.out.parent / "other").read(0)
    assert other[other.index(b"\xff\xdb") :][5] == 16


def test_grey_and_other_formats(tmp_path, encoded, picture):
    pixels = picture(400, 300)
    for split in ("train", "val"):
        for label, name, image in (
            ("a", "grey.jpg", encoded(Image.fromarray(pixels).convert("L"))),
            ("a", "small.png", encoded(pixels[:20, :20], "PNG")),
            ("b", "large.png", encoded(pixels, "PNG")),
        ):
            path = tmp_path / "set" / split / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    source = open_folder(tmp_path / "set")
    pack("folder:x", source, tmp_path / "out", PackOptions(128), 1, lambda count: None)
    store = open_packed(tmp_path / "out")
    grey = open_picture(store.read(0)).decode()
    assert grey.shape == (128, 170, 3)
    assert np.ptp(grey.astype(int), axis=2).max() <= 1
    assert store.read(1) == source.read(1)
    assert store.read(2)[:2] == b"\xff\xd8"


def test_threads_change_no_byte(packed, small_shards):
    first, second = packed("one", num_threads=1), packed("many", num_threads=7)
    one, many = (content_of(packed.out.parent / name) for name in ("one", "many"))
    assert one == many
    assert len([name for name in one if name.startswith("train")]) > 1
    assert first.fingerprint == second.fingerprint == open_packed(packed.out.parent / "one").fingerprint
    assert (first.num_images, first.num_found_done) == (12, 0)
    assert first.num_bytes == sum(len(data) for name, data in one.items() if name.endswith(".bin"))


def test_what_the_index_says(packed, photos, small_shards):
    packed(quality=80, short_side=200)
    about = json.loads((packed.out / "index.json").read_text())
    assert (about["format"], about["version"], about["classes"]) == ("widestep-packed", 1, ["cat", "dog"])
    assert about["source"] == {"name": f"folder:{photos}", "fingerprint": open_folder(photos).fingerprint}
    assert about["options"] == {"short_side": 200, "stored": "jpeg", "quality": 80}
    assert set(about["libraries"]) == {"pillow", "libjpeg_turbo"}
    files = content_of(packed.out)
    assert set(files) == {"index.json", "arrays.safetensors", *(shard["file"] for shard in about["shards"])}
    for entry in [about["arrays"], *about["shards"]]:
        data = files[entry["file"]]
        assert (entry["size"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


class Stop(BaseException):
    """As a kill: nothing catches it."""


@pytest.mark.parametrize("after", [0, 1, 3, 6, 8, 11])
def test_a_stopped_pack_goes_on(packed, photos, small_shards, tmp_path, after):
    packed("whole")
    seen = []

    def stop(count):
        seen.append(count)
        if len(seen) > after:
            raise Stop

    arguments = (f"folder:{photos}", open_folder(photos), packed.out, PackOptions(), 2)
    with pytest.raises(Stop):
        pack(*arguments, stop)
    with pytest.raises(DataError, match="run the same `widestep data pack` again"):
        open_packed(packed.out)
    (packed.out / ".train-00009.bin.tmp").write_bytes(b"left by a kill")
    finished = list(packed.out.glob("*.bin"))
    again = []
    summary = pack(*arguments, again.append)
    assert sum(again) == 12 - summary.num_found_done
    assert (summary.num_found_done > 0) == bool(finished)
    assert content_of(packed.out) == content_of(tmp_path / "whole")


@pytest.mark.parametrize("name", ["arrays.safetensors", "index.json"])
def test_a_stop_at_the_end_leaves_nothing_that_opens(packed, monkeypatch, tmp_path, name):
    real = {"arrays.safetensors": "write_atomically", "index.json": "write_json"}[name]

    def fail(path, content):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(pack_module, real, fail)
        with pytest.raises(Stop):
            packed()
    with pytest.raises(DataError, match="must be complete"):
        open_packed(packed.out)
    assert packed().num_found_done == 12
    packed("whole")
    assert content_of(packed.out) == content_of(tmp_path / "whole")


def test_a_stopped_pack_of_something_else_is_left_alone(packed, monkeypatch):
    def stop(*arguments):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(pack_module, "_finish", stop)
        with pytest.raises(Stop):
            packed()
    before = content_of(packed.out)
    with pytest.raises(UsageError, match=r"begun with.*'quality': 90"):
        packed(quality=91)
    (packed.out / "train-00000.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"train-00000\.bin.*remove"):
        packed()
    assert set(content_of(packed.out)) == set(before)


def test_nothing_is_overwritten(packed, tmp_path):
    packed()
    before = content_of(packed.out)
    with pytest.raises(UsageError, match="complete one"):
        packed()
    assert content_of(packed.out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        packed("mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="something else"):
        packed("mine/notes.txt")
    with pytest.raises(EnvironmentFault):
        packed("mine/notes.txt/inside")


HOLD = """
import sys
from pathlib import Path
from widestep.locks import DirectoryLock
with DirectoryLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_at_once(packed, program):
    packed.out.mkdir()
    command = [sys.executable, "-c", HOLD, str(packed.out)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, env=program.environment()) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(DirectoryInUse):
            packed()
        other.communicate()
    assert packed().num_images == 12


def test_a_damaged_image_stops_with_its_name(packed, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    path = tmp_path / "copy/train/cat/1.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    store = open_folder(tmp_path / "copy")
    with pytest.raises(DataError, match=r"train/cat/1\.jpg"):
        pack("folder:x", store, packed.out, PackOptions(), 2, lambda count: None)


@pytest.mark.parametrize(
    "options", [{"short_side": 7}, {"short_side": 9_000}, {"quality": 0}, {"quality": 101}, {"stored": "x"}]
)
def test_options_out_of_range(options):
    with pytest.raises(UsageError):
        PackOptions(**options)


def test_packing_what_is_packed(packed, tmp_path):
    packed(stored="raw", short_side=100)
    store = open_packed(packed.out)
    with pytest.raises(UsageError, match="no file"):
        pack("packed:x", store, tmp_path / "a", PackOptions(None), 1, lambda count: None)
    pack("packed:x", store, tmp_path / "b", PackOptions(None, "raw"), 1, lambda count: None)
    copy = open_packed(tmp_path / "b")
    assert all(np.array_equal(copy.read(image), store.read(image)) for image in range(12))
    pack("packed:x", store, tmp_path / "c", PackOptions(50, "jpeg"), 1, lambda count: None)
    assert open_picture(open_packed(tmp_path / "c").read(0)).height == 50


# Damage


def changed(path, change):
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda out: (out / "index.json").unlink(), "directory with index.json"),
        (lambda out: (out / "index.json").write_text("{"), "must be as it was written"),
        (lambda out: (out / "index.json").write_text("[]"), "must be as it was written"),
        (lambda out: (out / "index.json").write_text('{"format": "other"}'), "must be as it was written"),
        (lambda out: (out / "train-00000.bin").unlink(), "No such file"),
        (lambda out: (out / "train-00000.bin").write_bytes(b"x"), "has 1 bytes instead of"),
        (lambda out: (out / "arrays.safetensors").write_bytes(b"x"), "has 1 bytes instead of"),
        (lambda out: changed(out / "index.json", lambda about: about.update(version=2)), "version 2"),
        (lambda out: changed(out / "index.json", lambda about: about.pop("classes")), "'classes' is missing"),
        (lambda out: changed(out / "index.json", lambda about: about.update(classes="ab")), "no list of names"),
        (lambda out: changed(out / "index.json", lambda about: about.update(classes=["ab"])), "0 to 0"),
        (lambda out: changed(out / "index.json", lambda about: about.update(num_train=5)), "another shape"),
        (lambda out: changed(out / "index.json", lambda about: about.update(num_train=True)), "counts"),
        (lambda out: changed(out / "index.json", lambda about: about.update(stored="raw")), "height and width"),
        (lambda out: changed(out / "index.json", lambda about: about["shards"].pop()), "no shard"),
        (lambda out: changed(out / "index.json", lambda about: about["shards"][0].update(file="../x.bin")), "no file of it"),
        (lambda out: changed(out / "index.json", lambda about: about["shards"][0].update(size="1")), "no file of it"),
        (lambda out: changed(out / "index.json", lambda about: about["arrays"].update(sha256="0")), "another checksum"),
    ],
)
def test_damage_that_opening_finds(packed, damage, words):
    packed()
    damage(packed.out)
    with pytest.raises(DataError, match=words):
        open_packed(packed.out)


def rewritten(out, change):
    """Change the arrays and make their checksum right again."""
    arrays = load((out / "arrays.safetensors").read_bytes())
    change(arrays)
    content = save(arrays)
    (out / "arrays.safetensors").write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    changed(out / "index.json", lambda about: about["arrays"].update(entry))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays["offsets"].__setitem__(3, 2**62), "beyond its shard"),
        (lambda arrays: arrays["sizes"].__setitem__(3, 2**62), "beyond its shard"),
        (lambda arrays: arrays["offsets"].__setitem__(3, -1), "no shard"),
        (lambda arrays: arrays["shards"].__setitem__(3, 99), "no shard"),
        (lambda arrays: arrays["shards"].__setitem__(3, -1), "no shard"),
        (lambda arrays: arrays["labels"].__setitem__(3, 2), "0 to 1.*dog/3.*is 2"),
        (lambda arrays: arrays.update(labels=arrays["labels"].astype(np.int32)), "another shape or type"),
        (lambda arrays: arrays.update(names=arrays["names"][:-5]), "names are not one an image"),
        (lambda arrays: arrays.pop("widths"), "'widths' is missing"),
    ],
)
def test_arrays_that_lie(packed, change, words):
    packed()
    rewritten(packed.out, change)
    with pytest.raises(DataError, match=words):
        open_packed(packed.out)


def test_a_changed_bit_is_found_by_the_checksum(packed):
    packed()
    path = packed.out / "val-00000.bin"
    content = bytearray(path.read_bytes())
    amounts = []
    assert open_packed(packed.out).damaged_files(amounts.append) == []
    assert sum(amounts) == sum(item.stat().st_size for item in packed.out.glob("*.bin"))
    content[-100] ^= 1
    path.write_bytes(content)
    assert open_packed(packed.out).damaged_files() == [(str(path), "its SHA-256 is not the one in the index")]
    store = open_packed(packed.out)
    path.unlink()
    assert store.damaged_files() == [(str(path), "it cannot be read (No such file or directory)")]


def test_the_fingerprint_is_of_the_content(packed, photos, tmp_path):
    first = packed().fingerprint
    assert packed("again").fingerprint == first
    assert packed("smaller", short_side=255).fingerprint != first
    packed.out.rename(tmp_path / "moved")
    assert open_packed(tmp_path / "moved").fingerprint == first
