"""Checkpoints come back as they were written, or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from widestep.errors import EnvironmentFault, StoreError
from widestep.train import checkpoint

FACTS = {"recipe": "0123456789abcdef", "tally": {"step": 7, "accuracies": [0.1, 0.25]}, "lengths": {"metrics.jsonl": 99}}


def some_tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weights/fc.weight": torch.randn(3, 5, generator=generator),
        "weights/fc.bias": torch.tensor([1e-40, -0.0, float("inf")]),
        "optimizer/fc.weight:momentum_buffer": torch.randn(3, 5, generator=generator),
        "empty": torch.zeros(0),
    }


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    as_bytes = [
        {name: (tensor.shape, tensor.numpy().tobytes()) for name, tensor in tensors.items()} for tensors in (found, expected)
    ]
    return as_bytes[0] == as_bytes[1]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "a.safetensors", some_tensors(), FACTS)
    tensors, facts = checkpoint.read(tmp_path / "a.safetensors")
    assert same(tensors, some_tensors())
    assert facts == {"format": 1, **FACTS}
    assert same(load_file(tmp_path / "a.safetensors"), some_tensors())  # as anybody else reads it


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for number in range(8):
        facts = dict(sorted(FACTS.items(), reverse=number % 2 == 1))
        checkpoint.write(tmp_path / f"{number}.safetensors", some_tensors(), facts)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_tensors_that_are_views_are_written_alone(tmp_path: Path) -> None:
    """A slot's weights share memory with the whole stack."""
    stack = torch.arange(12.0).view(6, 2)
    checkpoint.write(tmp_path / "a.safetensors", {"one": stack[:2], "two": stack[2:4].T}, {})
    tensors, _ = checkpoint.read(tmp_path / "a.safetensors")
    assert tensors["one"].tolist() == [[0, 1], [2, 3]]
    assert tensors["two"].tolist() == [[4, 6], [5, 7]]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.write(path, some_tensors(), FACTS)
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    for bit in rng.choice(8 * len(whole), 300, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreError):
            checkpoint.read(path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.write(path, some_tensors(), FACTS)
    whole = path.read_bytes()
    rng = np.random.default_rng(6)
    for length in [0, 1, 8, 9, len(whole) - 1, *rng.integers(10, len(whole) - 1, 50).tolist()]:
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError):
            checkpoint.read(path)


@pytest.mark.parametrize("change", [b"\0", b"more"])
def test_an_extended_file_is_noticed(tmp_path: Path, change: bytes) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.write(path, some_tensors(), FACTS)
    path.write_bytes(path.read_bytes() + change)
    with pytest.raises(StoreError):
        checkpoint.read(path)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.write(tmp_path / "a.safetensors", some_tensors(), FACTS)
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"format 1.* has format 2"):
        checkpoint.read(tmp_path / "a.safetensors")


def test_a_missing_file_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.read_last(tmp_path) is None
    with pytest.raises(StoreError):
        checkpoint.read(tmp_path / "a.safetensors")


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)


@pytest.fixture
def two_states(tmp_path: Path) -> Path:
    for step in (1, 2):
        checkpoint.write_last(tmp_path, some_tensors(step), {"step": step})
    return tmp_path


def step_of(folder: Path) -> int:
    found = checkpoint.read_last(folder)
    assert found is not None
    tensors, facts = found
    assert same(tensors, some_tensors(facts["step"]))
    return int(facts["step"])


def test_the_last_state_counts(two_states: Path) -> None:
    assert step_of(two_states) == 2
    checkpoint.write_last(two_states, some_tensors(3), {"step": 3})
    assert step_of(two_states) == 3
    assert sorted(os.listdir(two_states)) == ["last.safetensors", "previous.safetensors"]


def test_the_previous_state_serves_when_the_last_is_damaged(two_states: Path) -> None:
    spoil(two_states / "last.safetensors")
    assert step_of(two_states) == 1
    assert step_of(two_states) == 1
    assert (two_states / "damaged.safetensors").exists()  # nothing is deleted


def test_the_previous_state_serves_when_there_is_no_last(two_states: Path) -> None:
    """As after a crash between the two renames of a save."""
    (two_states / "last.safetensors").unlink()
    assert step_of(two_states) == 1


def test_a_whole_state_survives_a_damaged_one_and_a_failing_save(two_states: Path, failing_disk: Callable[[], None]) -> None:
    spoil(two_states / "last.safetensors")
    assert step_of(two_states) == 1
    failing_disk()
    with pytest.raises(EnvironmentFault):
        checkpoint.write_last(two_states, some_tensors(3), {"step": 3})
    assert step_of(two_states) == 1


def test_training_does_not_begin_again_when_all_states_are_damaged(two_states: Path) -> None:
    for name in ("last", "previous"):
        spoil(two_states / f"{name}.safetensors")
    with pytest.raises(StoreError, match=r"last\.safetensors .*No earlier checkpoint is whole either; use --fresh"):
        checkpoint.read_last(two_states)


@pytest.fixture
def failing_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the disk be full from now on: found out when data must reach it."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr(os, "fsync", full)


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, failing_disk: Callable[[], None]) -> None:
    path = tmp_path / "best.safetensors"
    checkpoint.write(path, some_tensors(1), {"step": 1})
    before = path.read_bytes()
    failing_disk()
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        checkpoint.write(path, some_tensors(2), {"step": 2})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["best.safetensors"]


def test_a_failing_save_leaves_the_state_before_it(two_states: Path, failing_disk: Callable[[], None]) -> None:
    failing_disk()
    with pytest.raises(EnvironmentFault):
        checkpoint.write_last(two_states, some_tensors(3), {"step": 3})
    assert step_of(two_states) == 2
