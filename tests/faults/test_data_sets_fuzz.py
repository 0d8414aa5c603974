"""Shards, parquet files and packed data sets damaged at random: opened and read, or refused by name; nothing else.

WIDESTEP_CHAOS=long: 1,000 tars (goal G11), 10,000 footers of parquet files.
"""

import io
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from widestep.data.stores.folder_store import open_folder
from widestep.data.stores.open_store import open_store
from widestep.data.stores.pack import PackOptions, pack
from widestep.errors import DataError

IS_LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
NUM_MUTANTS = 1000 if IS_LONG else 80
OUTCOMES = ("refused", "read")
NUM_FOOTERS = 10_000 if IS_LONG else 300


def damaged(content: bytes, rng: random.Random, first: int = 0) -> bytes:
    """Return bytes of which some, from `first` on, were flipped, replaced, zeroed, taken out, doubled, or cut off."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        if len(data) <= first + 1:
            break
        place, size = rng.randrange(first, len(data)), rng.choice([1, 4, 8, 100, 512])
        piece = data[place : place + size]
        new = [bytes([piece[0] ^ 1 << rng.randrange(8)]) + piece[1:], rng.randbytes(len(piece)), bytes(len(piece)), b""]
        data[place : place + size] = rng.choice([*new, b"\xff" * len(piece), piece * 2])
        if rng.random() < 0.05:
            del data[place:]
    return bytes(data)


def outcome_of(kind: str, root: Path) -> str:
    """Open a data set and read every image of it."""
    try:
        store = open_store(kind, root)
        num_train, labels = store.num_train, store.labels
        assert 0 < num_train < len(labels)
        assert 0 <= labels.min() <= labels.max() < len(store.classes)
        for image in range(len(labels)):
            store.read(image)
            store.name(image)
        store.close()
    except DataError as error:
        return "refused" if str(root) in str(error) else f"refused without a name: {error}"
    return "read"


def photo(number: int) -> bytes:
    buffer = io.BytesIO()
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def shard(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for number in range(4):
            key = "n" * 120 * (number % 2) + str(number)
            for name, data in ((f"{key}.jpg", photo(number)), (f"{key}.cls", b"%d" % (number % 3))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_tars(tmp_path):
    """Row 72: half of the mutants are damaged in their headers alone; nothing is made outside, memory stays flat."""
    root, rng, outcomes = tmp_path / "set", random.Random(72), {"refused": 0, "read": 0}
    root.mkdir()
    (root / "val-0.tar").write_bytes(shard(tarfile.PAX_FORMAT))
    for number in range(NUM_MUTANTS):
        content = shard((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)[number % 2])
        if number % 4 < 2:
            block = 512 * rng.randrange(len(content) // 512)
            header = damaged(content[block : block + 512], rng)[:512].ljust(512, b"\0")
            content = content[:block] + header + content[block + 512 :]
        else:
            content = damaged(content, rng)
        (root / "train-0.tar").write_bytes(content)
        outcomes[outcome_of("tar", root)] += 1
    print(outcomes)
    assert min(outcomes.values()) > 0
    assert sorted(os.listdir(tmp_path)) == ["set"]
    assert sorted(os.listdir(root)) == ["train-0.tar", "val-0.tar"]


def footers(first: int, count: int, root: Path) -> dict[str, int]:
    """Open parquet files whose footers are damaged; runs in a process of its own, which pyarrow might take down."""
    about = [
        {"compression": "none"},
        {"compression": "snappy", "row_group_size": 3},
        {"compression": "zstd", "use_dictionary": False, "data_page_version": "2.0", "write_page_index": True},
        {"row_group_size": 1, "write_statistics": False},
    ]
    rows = pa.table({"image": [{"bytes": photo(n), "path": "x"} for n in range(8)], "label": [n % 3 for n in range(8)]})
    pq.write_table(rows, root / "val.parquet")
    outcomes = {"refused": 0, "read": 0}
    for number in range(first, first + count):
        pq.write_table(rows, root / "train.parquet", **about[number % 4])
        content = (root / "train.parquet").read_bytes()
        start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        (root / "train.parquet").write_bytes(damaged(content, random.Random(number), start))
        outcomes[outcome_of("parquet", root)] += 1
    return outcomes


def in_child(first: int, count: int, root: Path) -> tuple[int, dict[str, int]]:
    """Return how a child process that runs `footers` ended, and what it found."""
    root.mkdir()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            found = footers(first, count, root)
            os.write(writing, f"{found['refused']} {found['read']}".encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read().split()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, dict(zip(("refused", "read"), map(int, said), strict=False))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads: the child uses none of them
def test_footers_of_parquet_files(tmp_path):
    """Row 73: pyarrow ends the process on some damaged footers where it is asked for statistics; it is not asked."""
    status, outcomes = in_child(0, NUM_FOOTERS, tmp_path / "set")
    print(outcomes)
    assert status == 0
    assert min(outcomes.values()) > 0


def test_pages_of_parquet_files(tmp_path):
    root, rng = tmp_path / "set", random.Random(73)
    root.mkdir()
    rows = pa.table({"image": [{"bytes": photo(n), "path": "x"} for n in range(8)], "label": [n % 3 for n in range(8)]})
    pq.write_table(rows, root / "val.parquet")
    for number in range(NUM_MUTANTS):
        pq.write_table(rows, root / "train.parquet", compression=("none", "snappy", "gzip", "zstd")[number % 4])
        content = (root / "train.parquet").read_bytes()
        start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        body = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            body[rng.randrange(4, start)] = rng.randrange(256)
        (root / "train.parquet").write_bytes(body)
        assert outcome_of("parquet", root) in OUTCOMES


def test_packed_data_sets(tmp_path):
    """Index, arrays and shards: no image ever comes from beyond a shard."""
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            (tmp_path / "photos" / split / name / "0.jpg").write_bytes(photo(len(split + name)))
    source, root = open_folder(tmp_path / "photos"), tmp_path / "set"
    pack("folder:photos", source, root, PackOptions(None), 1, lambda count: None)
    files = sorted(path for path in root.iterdir() if path.is_file())
    kept, rng = {path: path.read_bytes() for path in files}, random.Random(74)
    for number in range(NUM_MUTANTS):
        path = files[number % len(files)]
        path.write_bytes(damaged(kept[path], rng))
        assert outcome_of("packed", root) in OUTCOMES
        path.write_bytes(kept[path])
    assert outcome_of("packed", root) == "read"
