"""Checkpoints come back as they were written, or not at all."""

import errno
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import widestep
from widestep.errors import EnvironmentFault, StoreError
from widestep.files import write_atomically
from widestep.train import checkpoint
from widestep.train.checkpoint import Layout, newest, save_state

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
    assert facts == {"format": 2, "widestep": widestep.__version__, **FACTS}
    assert same(load_file(tmp_path / "a.safetensors"), some_tensors())  # as anybody else reads it


TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]


@pytest.mark.parametrize("dtype", [*TYPES, torch.uint8, torch.bool])
def test_every_type_and_shape_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {f"t{number}": (torch.rand(shape) * 9).to(dtype) for number, shape in enumerate([(), (1,), (0, 3), (2, 3, 5)])}
    checkpoint.write(tmp_path / "a", tensors, {})
    for found in (checkpoint.read(tmp_path / "a")[0], load_file(tmp_path / "a")):
        assert all(found[name].dtype == dtype and torch.equal(found[name], tensors[name]) for name in tensors)


def test_the_form_of_a_file(tmp_path: Path) -> None:
    """Written out from the description: length, header with the digest first, tensors from wide to narrow, no gaps."""
    checkpoint.write(tmp_path / "a", {"b": torch.tensor([1, 2], dtype=torch.int16), "a": torch.tensor([1.5])}, {"n": 1})
    data = (tmp_path / "a").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    digest = header["__metadata__"].pop("sha256")
    assert data[8:].startswith(b'{"__metadata__":{"sha256":"' + digest.encode())
    assert json.loads(header.pop("__metadata__")["facts"]) == {"format": 2, "widestep": widestep.__version__, "n": 1}
    assert header == {
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "b": {"dtype": "I16", "shape": [2], "data_offsets": [4, 8]},
    }
    assert (8 + length) % 8 == 0
    assert data[8 + length :] == struct.pack("<fhh", 1.5, 1, 2)
    assert hashlib.sha256(data.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for number in range(8):
        facts = dict(sorted(FACTS.items(), reverse=number % 2 == 1))
        tensors = dict(sorted(some_tensors().items(), reverse=number % 3 == 1))
        checkpoint.write(tmp_path / f"{number}.safetensors", tensors, facts)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    """Others map the file into memory."""
    tensors = {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(3), "c": torch.ones(3, dtype=torch.float64)}
    checkpoint.write(tmp_path / "a", tensors, {})
    with safe_open(tmp_path / "a", "np") as file:
        assert {name: file.get_tensor(name).tolist() for name in file.keys()} == {  # noqa: SIM118
            name: tensor.tolist() for name, tensor in tensors.items()
        }


def test_tensors_that_are_views_are_written_alone(tmp_path: Path) -> None:
    """A slot's weights share memory with the whole stack."""
    stack = torch.arange(12.0).view(6, 2)
    checkpoint.write(tmp_path / "a.safetensors", {"one": stack[:2], "two": stack[2:4].T}, {})
    tensors, _ = checkpoint.read(tmp_path / "a.safetensors")
    assert tensors["one"].tolist() == [[0, 1], [2, 3]]
    assert tensors["two"].tolist() == [[4, 6], [5, 7]]


@pytest.mark.parametrize("change", [b"\0", b"more"])
def test_an_extended_file_is_noticed(tmp_path: Path, change: bytes) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.write(path, some_tensors(), FACTS)
    path.write_bytes(path.read_bytes() + change)
    with pytest.raises(StoreError, match=r"a\.safetensors is damaged \(size\)"):
        checkpoint.read(path)


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "a", some_tensors(), FACTS)
    seen: dict[str, Layout] = {}

    def fits(layouts: Any) -> None:
        seen.update(layouts)
        raise StoreError("too large")

    with pytest.raises(StoreError, match=r"a does not fit the run \(too large\)\."):
        checkpoint.read(tmp_path / "a", fits)
    assert seen["weights/fc.weight"] == Layout(torch.float32, (3, 5))


@pytest.mark.parametrize("number", [1, 3])
def test_another_format_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:  # row 47
    """An older state beside it does not count: what came after it is not thrown away silently."""
    save_state(tmp_path, 7, some_tensors(), FACTS, keep=2)
    monkeypatch.setattr(checkpoint, "FORMAT", number)
    monkeypatch.setattr(widestep, "__version__", "9.9")
    save_state(tmp_path, 8, some_tensors(), {**FACTS, "tally": {"step": 8}}, keep=2)
    monkeypatch.undo()
    words = rf"reads checkpoints of format 2\. .*/step-0000008\.safetensors has format {number}, written by widestep 9\.9;"
    with pytest.raises(StoreError, match=words):
        newest(tmp_path)


def test_a_missing_file_is_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "nowhere") is None
    with pytest.raises(StoreError, match=r"damaged \(No such file or directory\)"):
        checkpoint.read(tmp_path / "a.safetensors")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A named pipe would wait for somebody to write to it."""
    os.mkfifo(tmp_path / "step-0000007.safetensors")
    with pytest.raises(StoreError, match="it is no file"):
        newest(tmp_path)


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)


def save(directory: Path, step: int, keep: int = 2) -> None:
    save_state(directory, step, some_tensors(step), {"recipe": "r", "tally": {"step": step}, "lengths": {}}, keep=keep)


@pytest.fixture
def two_states(tmp_path: Path) -> Path:
    for step in (830, 840):
        save(tmp_path, step)
    return tmp_path


def step_of(folder: Path) -> int:
    found = newest(folder)
    assert found is not None
    assert same(found.tensors, some_tensors(found.step))
    return found.step


def files(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != ".saved")


def test_the_newest_state_counts_and_the_newest_are_kept(two_states: Path) -> None:  # row 60
    assert step_of(two_states) == 840
    save(two_states, 850)
    assert step_of(two_states) == 850
    assert files(two_states) == ["step-0000840.safetensors", "step-0000850.safetensors"]
    save(two_states, 860, keep=3)
    save(two_states, 12_345_678, keep=3)
    assert files(two_states)[0] == "step-0000850.safetensors"
    assert step_of(two_states) == 12_345_678
    save(two_states, 12_345_679, keep=1)
    assert files(two_states) == ["step-12345679.safetensors"]


@pytest.mark.parametrize(
    "damage", [spoil, Path.unlink, lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 99)]
)
def test_the_state_before_serves_when_the_newest_is_damaged(two_states: Path, damage: Callable[[Path], None]) -> None:
    """Rows 40, 41, 42; it is said, and nothing is deleted."""
    path = two_states / "step-0000840.safetensors"
    damage(path)
    exists = path.exists()
    found = newest(two_states)
    assert found is not None
    assert found.step == 830
    if exists:
        (said,) = found.damage
        assert said.startswith(f"{two_states.name}/step-0000840.safetensors is damaged (")
        assert said.endswith("), using step-0000830")
        assert files(two_states) == ["step-0000830.safetensors", "step-0000840.safetensors.damaged"]
    assert step_of(two_states) == 830
    save(two_states, 835)
    save(two_states, 840)
    assert step_of(two_states) == 840


def test_a_damaged_state_is_not_among_those_that_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    for step in (20, 30):
        spoil(tmp_path / f"step-00000{step}.safetensors")
    assert step_of(tmp_path) == 10
    save(tmp_path, 15)
    assert files(tmp_path)[:2] == ["step-0000010.safetensors", "step-0000015.safetensors"]
    spoil(tmp_path / "step-0000015.safetensors")
    assert step_of(tmp_path) == 10


def test_states_of_lives_that_ended_right_after_saving_do_not_gather(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # G13
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for step in range(1, 10):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_atomically", lambda path, *rest: (write_atomically(path, *rest), killed()))
            with pytest.raises(KeyboardInterrupt):
                save(tmp_path, step)
        assert len([name for name in files(tmp_path) if name.startswith("step-")]) <= 3


def test_a_state_under_the_name_of_another_is_damage(two_states: Path) -> None:
    (two_states / "step-0000840.safetensors").rename(two_states / "step-0000990.safetensors")
    found = newest(two_states)
    assert found is not None
    assert found.step == 830
    assert "is damaged (it is not the state after 990 steps), using" in found.damage[0]


def test_weights_alone_are_no_state(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "step-0000010.safetensors", some_tensors(), {"recipe": "r"})
    with pytest.raises(StoreError, match="it is not the state after 10 steps"):
        newest(tmp_path)


def test_training_does_not_begin_again_when_all_states_are_damaged(two_states: Path) -> None:  # row 44
    for path in two_states.glob("*.safetensors"):
        spoil(path)
    words = r"none is left in .*step-0000840\.safetensors is damaged \(.*step-0000830\.safetensors is damaged .*--fresh"
    for _ in range(2):
        with pytest.raises(StoreError, match=words) as caught:
            newest(two_states)
    assert caught.value.exit_code == 6


def test_training_does_not_begin_again_when_all_states_are_gone(two_states: Path) -> None:  # row 42
    for path in two_states.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(StoreError, match=r"The states in .* are gone; restore one, or use --fresh"):
        newest(two_states)


@pytest.fixture
def failing_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a call be refused from now on: by default found out when data must reach the disk."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda name="fsync": monkeypatch.setattr(os, name, full)


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, failing_disk: Callable[..., None]) -> None:
    path = tmp_path / "best.safetensors"
    checkpoint.write(path, some_tensors(1), {"step": 1})
    before = path.read_bytes()
    failing_disk()
    with pytest.raises(EnvironmentFault, match=r"best\.safetensors could not be written: No space left .* bytes are free\)"):
        checkpoint.write(path, some_tensors(2), {"step": 2})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["best.safetensors"]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_failing_save_leaves_the_states_before_it(
    two_states: Path, failing_disk: Callable[..., None], call: str
) -> None:  # row 35
    failing_disk(call)
    with pytest.raises(EnvironmentFault):
        save(two_states, 850)
    assert files(two_states) == ["step-0000830.safetensors", "step-0000840.safetensors"]


def test_a_save_whose_name_is_not_certain_does_not_count(two_states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory's fsync fails after the rename: whoever reads the directory must not find what may not last."""

    def full(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("widestep.files.sync_directory", full)
    for step in range(850, 900, 10):
        with pytest.raises(EnvironmentFault):
            save(two_states, step)
    assert files(two_states) == ["step-0000830.safetensors", "step-0000840.safetensors"]


def test_what_cannot_be_removed_is_removed_later(two_states: Path, failing_disk: Callable[..., None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "")))
        save(two_states, 850)
    assert len(files(two_states)) == 3
    save(two_states, 860)
    assert files(two_states) == ["step-0000850.safetensors", "step-0000860.safetensors"]
