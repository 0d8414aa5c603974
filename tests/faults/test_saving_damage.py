"""Damaged and hostile checkpoints: none is accepted, none does harm (rows 40, 41, 50, 51; G4, Security)."""

import hashlib
import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from widestep.errors import StoreError
from widestep.train import checkpoint
from widestep.train.checkpoint import Layout, newest, save_state

LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
NUM_FLIPS, NUM_CUTS, NUM_PAGES = (10_000, 2_000, 2_000) if LONG else (400, 100, 100)
PAGE = 4_096
FACTS = {"recipe": "r", "tally": {"step": 7}, "lengths": {"metrics.jsonl": 4}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The state of a network for digits: 85 KB of weights and momentum, in 30 tensors."""
    generator = torch.Generator().manual_seed(1)
    tensors = {f"weights/layer{n}.weight": torch.randn(40, 18, generator=generator) for n in range(15)}
    tensors |= {f"optimizer/layer{n}.weight:momentum_buffer": torch.randn(40, 18, generator=generator) for n in range(15)}
    place = tmp_path_factory.mktemp("whole")
    save_state(place, 7, tensors, FACTS, keep=2)
    return (place / "step-0000007.safetensors").read_bytes()


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes], None]:
    """Check that bytes are no state, whatever they are."""
    path = tmp_path / "step-0000007.safetensors"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        with pytest.raises(StoreError):
            checkpoint.read(path)

    return check


def test_no_flipped_bit_is_accepted(whole: bytes, refused: Any) -> None:  # row 41
    """In the tensors, the header, its padding and its length alike."""
    rng = np.random.default_rng(1)
    bits = rng.choice(8 * len(whole), NUM_FLIPS, replace=False).tolist()
    header = 8 + int.from_bytes(whole[:8], "little")
    bits += range(8 * 8)
    bits += rng.choice(8 * header, NUM_FLIPS // 2, replace=False).tolist()
    for bit in bits:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        refused(bytes(data))


def test_no_truncated_file_is_accepted(whole: bytes, refused: Any) -> None:  # row 40
    rng = np.random.default_rng(2)
    for length in [*range(9), len(whole) - 1, *rng.integers(9, len(whole) - 1, NUM_CUTS).tolist()]:
        refused(whole[:length])


def test_no_page_of_zeros_or_of_another_place_is_accepted(whole: bytes, refused: Any) -> None:  # row 41
    rng = np.random.default_rng(3)
    for number, place in enumerate(rng.integers(0, len(whole) - PAGE, NUM_PAGES).tolist()):
        other = int(rng.integers(0, len(whole) - PAGE))
        page = bytes(PAGE) if number % 4 else whole[other : other + PAGE]
        data = whole[:place] + page + whole[place + PAGE :]
        if data != whole:
            refused(data)


def test_the_state_before_is_used_every_time(whole: bytes, tmp_path: Path) -> None:  # rows 40, 41
    rng = np.random.default_rng(4)
    header = 8 + int.from_bytes(whole[:8], "little")
    for number in range(500 if LONG else 40):
        place = tmp_path / str(number)
        save_state(place_made(place), 6, {"w": torch.ones(3)}, {**FACTS, "tally": {"step": 6}}, keep=2)
        data = bytearray(whole)
        bit = int(rng.integers(0, 8 * (header if number % 2 else len(whole))))
        data[bit // 8] ^= 1 << bit % 8
        (place / "step-0000007.safetensors").write_bytes(data if number % 3 else whole[: bit // 8])
        found = newest(place)
        assert found is not None
        assert (found.step, len(found.damage)) == (6, 1)


def place_made(place: Path) -> Path:
    place.mkdir()
    return place


class Evil:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("PWNED",)


def sealed(header: Mapping[str, Any] | str, data: bytes = b"", facts: Any = None) -> bytes:
    """A file with a digest that is right, whatever it says: its author can compute one, too."""
    if isinstance(header, str):
        text = header
    else:
        metadata = {"sha256": "0" * 64, "facts": json.dumps({"format": 2, **FACTS} if facts is None else facts)}
        text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":"))
    content = struct.pack("<Q", len(text.encode())) + text.encode() + data
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


def zipped(size: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(size))
    return file.getvalue()


def array(**entry: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **entry}


def saved_by_torch(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Evil()], dtype=object), allow_pickle=True)
    return file.getvalue()


META = '{"__metadata__":{"sha256":"' + "0" * 64 + '","facts":"{}"}'
HOSTILE: dict[str, Callable[[], bytes]] = {
    "pickle": lambda: pickle.dumps(Evil()),
    "torch.save of a pickle": lambda: saved_by_torch({"a": Evil()}),
    "npy with objects": npy,
    "zip bomb": lambda: zipped(200_000_000),
    "stride 0: four bytes that claim to be 4 GB": lambda: sealed({"w": array(shape=[10**9])}, bytes(4)),
    "offsets beyond the file": lambda: sealed({"w": array(shape=[10**9], data_offsets=[0, 4 * 10**9])}, bytes(4)),
    "overlapping tensors": lambda: sealed({f"w{n}": array() for n in range(1_000)}, bytes(4)),
    "a shape that overflows": lambda: sealed({"w": array(shape=[0, 2**62, 2**62], data_offsets=[0, 0])}),
    "a negative shape": lambda: sealed({"w": array(shape=[-1, -1])}, bytes(4)),
    "a shape of text": lambda: sealed({"w": array(shape="1")}, bytes(4)),
    "a shape of a number": lambda: sealed({"w": array(shape=7)}, bytes(4)),
    "numbers with a point": lambda: sealed({"w": array(shape=[1.0])}, bytes(4)),
    "true as a number": lambda: sealed({"w": array(shape=[True])}, bytes(4)),
    "an unknown type": lambda: sealed({"w": array(dtype="OBJECT")}, bytes(4)),
    "a type that is a list": lambda: sealed({"w": array(dtype=["F32"])}, bytes(4)),
    "no tensors but a list": lambda: sealed({"w": []}),
    "a header of 2^63 bytes": lambda: struct.pack("<Q", 2**63) + b"{}",
    "a header as long as the file": lambda: struct.pack("<Q", 10**6) + b"{" * 10**6,
    "deep JSON": lambda: sealed(META + ',"w":' + "[" * 2_000_000 + "]" * 2_000_000 + "}"),
    "deep JSON of facts": lambda: sealed({}, facts="[" * 100_000),
    "a number of a million digits": lambda: sealed(META + ',"w":' + "9" * 1_000_000 + "}"),
    "an entry a byte": lambda: sealed(META + ',"w":[' + "[],{}," * 600_000 + "1]}"),
    "names without end": lambda: sealed(META + "," + ",".join(f'"{n}":1' for n in range(300_000)) + "}"),
    "facts that are a list": lambda: sealed({"w": array()}, bytes(4), facts=[]),
    "facts of nothing": lambda: sealed({"w": array()}, bytes(4), facts={"format": 2}),
    "a tally that is text": lambda: sealed({"w": array()}, bytes(4), facts={**FACTS, "format": 2, "tally": "x"}),
    "lengths that are text": lambda: sealed({"w": array()}, bytes(4), facts={**FACTS, "format": 2, "lengths": {"a": "x"}}),
    "an HTML page": lambda: b"<html>404</html>" * 100,
    "nothing": lambda: b"",
    "zeros": lambda: bytes(100_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_does_no_harm(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # rows 50, 51
    """Refused within a second of the processor, in 100 MB, and nothing is executed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step-0000007.safetensors").write_bytes(HOSTILE[kind]())
    before, began = forget_the_peak(), time.thread_time()
    with pytest.raises(StoreError):
        newest(tmp_path)
    assert time.thread_time() - began < 1
    assert grown(before) < 100e6
    assert os.listdir(tmp_path) == ["step-0000007.safetensors"]


def memory(line: str) -> float:
    """Bytes of this process, of a line of its status."""
    text = Path("/proc/self/status").read_text().partition(f"{line}:")[2]
    return 1024.0 * int(text.split()[0])


def grown(since: float) -> float:
    """How far memory rose at its peak; `forget_the_peak` before."""
    return memory("VmHWM") - since


def forget_the_peak() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def test_a_file_with_holes_as_large_as_it_claims_is_refused_before_it_is_read(tmp_path: Path) -> None:  # row 51
    """4 GB that take no space, a header that agrees with them: but they are not the tensors of this run."""
    path = tmp_path / "step-0000007.safetensors"
    path.write_bytes(sealed({"w": array(shape=[10**9], data_offsets=[0, 4 * 10**9])}))
    os.truncate(path, path.stat().st_size + 4 * 10**9)

    def fits(layouts: Mapping[str, Layout]) -> None:
        if layouts["w"].shape != (3,):
            raise StoreError("w is of another shape")

    before, began = forget_the_peak(), time.thread_time()
    with pytest.raises(StoreError, match="w is of another shape"):
        newest(tmp_path, fits)
    assert time.thread_time() - began < 1
    assert grown(before) < 100e6


def test_the_forger_of_these_files_can_write_whole_ones(tmp_path: Path) -> None:
    """Otherwise all of them could have been refused for the wrong reason."""
    (tmp_path / "step-0000007.safetensors").write_bytes(sealed({"w": array()}, struct.pack("<f", 2.5)))
    found = newest(tmp_path)
    assert found is not None
    assert found.tensors["w"].tolist() == [2.5]
    assert load_file(tmp_path / "step-0000007.safetensors")["w"].tolist() == [2.5]
