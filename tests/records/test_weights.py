"""Saved weights read without torch: the digest that torch computes, and no damaged file passes."""

import hashlib
import json

import pytest
import torch

from widestep.errors import StoreError
from widestep.records.weights import read_weights
from widestep.train import checkpoint
from widestep.train.state import weights_sha256

TENSORS = {
    "wide": torch.linspace(-3, 3, 7, dtype=torch.float64) / 7,
    "b": torch.randn(3, 2, generator=torch.Generator().manual_seed(1)),
    "half": torch.tensor([1.5, -2.25, 65504.0], dtype=torch.float16),
    "brain": torch.tensor([1.5, -2.25, 3e38, -0.0], dtype=torch.bfloat16),
    "count": torch.tensor(1_000_003),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "flags": torch.tensor([True, False, True]),
    "none": torch.zeros(0, 4),
}


@pytest.fixture
def path(tmp_path):
    checkpoint.write(tmp_path / "final.safetensors", TENSORS, {"recipe": "abc", "step": 7})
    return tmp_path / "final.safetensors"


def test_the_digest_is_that_of_torch(path):
    found = read_weights(path)
    assert found.weights_sha256 == weights_sha256(TENSORS)
    assert (found.facts["recipe"], found.facts["step"]) == ("abc", 7)


def test_every_changed_byte_is_noticed(path):
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="It is damaged"):
            read_weights(path)


def test_every_cut_is_noticed(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match="It is damaged"):
            read_weights(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(StoreError, match="digest is another"):
        read_weights(path)


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": {"sha256": "0" * 64, "facts": "[]"}},
        {"__metadata__": {"sha256": "0" * 64}},
        {"__metadata__": {"sha256": "0" * 64, "facts": "{}"}, "w": {"dtype": "F99", "data_offsets": [0, 0]}},
        {"__metadata__": {"sha256": "0" * 64, "facts": "{}"}, "w": 3},
        {"__metadata__": {"sha256": "0" * 64, "facts": "{}"}, "w": {"dtype": "F32", "data_offsets": [-8, 10**9]}},
    ],
)
def test_a_sealed_file_of_another_kind_is_no_weights(tmp_path, header):
    text = json.dumps(header, separators=(",", ":")).encode()
    start = len(text).to_bytes(8, "little")
    seal = hashlib.sha256(start + text).hexdigest().encode()
    path = tmp_path / "final.safetensors"
    path.write_bytes(start + text.replace(b"0" * 64, seal, 1))
    with pytest.raises(StoreError, match="It is damaged"):
        read_weights(path)


def test_no_file(tmp_path):
    with pytest.raises(StoreError, match="No such file"):
        read_weights(tmp_path / "absent")
