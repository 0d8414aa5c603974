"""What every form of data set on disk keeps to: the same images in the same order are the same ids, labels and bytes."""

import io
import json
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from widestep.data.facts import describe
from widestep.data.stores.folder_store import open_folder
from widestep.data.stores.open_store import OPENERS, open_store
from widestep.data.stores.pack import PackOptions, pack
from widestep.errors import DataError

CLASSES = ("ant", "bee", "cat")
COUNTS = {"train": (5, 3, 4), "val": (1, 2, 1)}


def split_images(split):
    """(class, file name, bytes) in order: JPEGs of every size, PNGs, and one of 80 KB."""
    rng = np.random.default_rng(len(split))
    found = []
    for label, count in enumerate(COUNTS[split]):
        for place in range(count):
            side = 160 if (label, place) == (1, 1) else 9 + 7 * place
            pixels = rng.integers(0, 256, (side, side + label, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG" if place == 1 else "JPEG")
            found.append((label, f"{place:03}.{'png' if place == 1 else 'jpg'}", buffer.getvalue()))
    return found


IMAGES = {split: split_images(split) for split in COUNTS}
EVERY = [image for split in COUNTS for image in IMAGES[split]]


def make_folder(root):
    for split, images in IMAGES.items():
        for label, name, data in images:
            path = root / split / CLASSES[label] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def make_parquet(root):
    root.mkdir()
    features = {"info": {"features": {"label": {"names": CLASSES}}}}
    for split, file in (("train", "train-{}-of-2.parquet"), ("val", "validation-{}-of-2.parquet")):
        for part, images in enumerate((IMAGES[split][:2], IMAGES[split][2:])):
            columns = {
                "image": [{"bytes": data, "path": name} for _, name, data in images],
                "label": [n for n, *_ in images],
            }
            table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(features)})
            pq.write_table(table, root / file.format(part), row_group_size=3)


def make_tar(root):
    root.mkdir()
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for split, images in IMAGES.items():
        for part, own in enumerate((images[:3], images[3:])):
            with tarfile.open(root / f"set-{split}-{part:06}.tar", "w") as archive:
                for label, name, data in own:
                    for member, content in ((f"{label}-{name}", data), (f"{label}-{name[:-4]}.cls", b"%d" % label)):
                        info = tarfile.TarInfo(member)
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))


def make_packed(root):
    make_folder(root.parent / "source")
    store = open_folder(root.parent / "source")
    pack("folder:source", store, root, PackOptions(short_side=None), 1, lambda count: None)


MAKERS = {"folder": make_folder, "parquet": make_parquet, "tar": make_tar, "packed": make_packed}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    made = {kind: tmp_path_factory.mktemp(kind) / "set" for kind in OPENERS}
    for kind, root in made.items():
        MAKERS[kind](root)
    return made


@pytest.fixture(params=sorted(OPENERS))
def kind(request):
    return request.param


@pytest.fixture
def store(kind, roots):
    opened = open_store(kind, roots[kind])
    yield opened
    opened.close()


def test_ids_labels_and_bytes(store):
    assert (store.num_train, store.num_val, store.classes) == (12, 4, CLASSES)
    assert store.labels.tolist() == [label for label, _, _ in EVERY]
    assert store.labels.dtype == np.int64
    assert store.labels.flags.writeable
    assert [store.read(image) for image in range(16)] == [data for _, _, data in EVERY]


def test_any_order_any_threads_and_again_after_close(store):
    order = np.random.default_rng(0).integers(0, 16, 400).tolist()
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(store.read, order)) == [EVERY[image][2] for image in order]
    store.close()
    store.close()


def test_numpy_ids_are_ids(store):
    ids = np.arange(16)
    assert [store.read(image) for image in ids[::-1]] == [data for _, _, data in EVERY[::-1]]
    assert store.name(ids[3]) == store.name(3)


def test_every_image_has_a_name_of_its_own(store, roots, kind):
    names = [store.name(image) for image in range(16)]
    assert len(set(names)) == 16
    assert all(name.startswith(str(roots[kind])) for name in names)


def test_the_fingerprint_is_the_same_again(store, kind, roots):
    assert len(store.fingerprint) == 64
    assert int(store.fingerprint, 16) >= 0
    again = open_store(kind, roots[kind])
    assert again.fingerprint == store.fingerprint
    again.close()


def test_planning_sees_the_same(store, kind, roots):
    facts = describe(f"{kind}:{roots[kind]}")
    assert (facts.num_train, facts.num_val, facts.num_classes) == (12, 4, 3)
    assert facts.fingerprint == store.fingerprint


def test_a_path_with_nothing(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in ("nowhere", "empty"):
        with pytest.raises(DataError, match=path):
            open_store(kind, tmp_path / path)


def test_the_home_directory(kind, roots, monkeypatch):
    monkeypatch.setenv("HOME", str(roots[kind].parent))
    assert describe(f"{kind}:~/set").num_train == 12


def test_nothing_of_this_imports_torch():
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['pyarrow'] = None\n"
        "import widestep.data.stores.open_store, widestep.data.stores.pack, widestep.data.stores.check, widestep.cli.data"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
