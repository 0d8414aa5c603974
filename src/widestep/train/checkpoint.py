"""A run's state on disk: safetensors (data, no code) with a digest over every byte, replaced as a whole.

`step-0000840.safetensors` holds weights, optimizer and tally after 840 steps; the newest few are kept, and the newest that
verifies counts. `best` and `final` hold weights alone, under the names that torch users expect;
`safetensors.torch.load_file` reads all of them.

A file is, as the format has it, the length of the header (8 bytes, little endian), the header (JSON, padded with spaces) and
the tensors one after the other. Ours begins its header with a SHA-256 of the whole file in which the digest's own 64 digits
are zeros.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import widestep
from widestep.errors import EnvironmentFault, StoreError
from widestep.files import Fence, sync_directory, write_atomically
from widestep.records.saved import ANY_SAVED, ever_saved, path_of_step, saved_steps

FORMAT = 2

_PREFIX = b'{"__metadata__":{"sha256":"'
_NO_DIGEST = b"0" * 64
_DIGEST_AT = 8 + len(_PREFIX)
_MOST_HEADER = 4 << 20
"""A header that is not ours must not fill the memory; ours has about 100 bytes a tensor."""
_BYTES_PER_LIST = 16
"""Of JSON, at least, for every list or object in a header of ours: empty ones fill the memory fastest."""
_BLOCK = 1 << 20
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    OSError,
)
"""What bytes that anybody may have written can lead to."""
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


class OtherFormat(StoreError):
    """A whole checkpoint that another version of widestep wrote."""


class Layout(NamedTuple):
    """What a header says of a tensor before its values are read."""

    dtype: torch.dtype
    shape: tuple[int, ...]


Fits = Callable[[Mapping[str, Layout]], None]
"""Raises StoreError when tensors of these layouts are not what is expected."""


@dataclass(frozen=True)
class Saved:
    """A state as it was found.

    Parameters
    ----------
    damage
        What is wrong with newer states, which were set aside: a sentence each.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    damage: list[str]


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies in the processor's memory, which training no longer changes."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], fence: Fence | None = None) -> None:
    """Write tensors and facts (plain JSON values) as one file, durably and atomically; equal content gives equal bytes."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    names = sorted(held, key=lambda name: (-held[name].element_size(), name))  # so that every tensor is aligned
    values = [held[name].reshape(-1).view(torch.uint8).numpy().data for name in names]
    header, offset = {}, 0
    for name, value in zip(names, values, strict=True):
        shape = list(held[name].shape)
        header[name] = {"dtype": _NAMES[held[name].dtype], "shape": shape, "data_offsets": [offset, offset + len(value)]}
        offset += len(value)
    text = json.dumps({"format": FORMAT, "widestep": widestep.__version__, **facts}, sort_keys=True)
    pieces = _sealed(
        json.dumps({"__metadata__": {"sha256": "0" * 64, "facts": text}, **header}, separators=(",", ":")), values
    )
    write_atomically(path, pieces, fence)


def _sealed(header: str, values: Sequence[memoryview]) -> list[bytes | memoryview]:
    """Return a file's pieces, the digest over all of them put into its place in the header."""
    data = header.encode()
    assert data.startswith(_PREFIX)
    data += b" " * (-len(data) % 8)
    if len(data) > _MOST_HEADER:
        raise StoreError(f"A checkpoint lists its tensors in {_MOST_HEADER:,} bytes. This model's need {len(data):,}.")
    unsealed = len(data).to_bytes(8, "little") + data
    digest = hashlib.sha256(unsealed)
    for value in values:
        digest.update(value)
    end = _DIGEST_AT + len(_NO_DIGEST)
    return [unsealed[:_DIGEST_AT] + digest.hexdigest().encode() + unsealed[end:], *values]


def read(path: Path, fits: Fits | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify a file written by `write`.

    Nothing of the tensors is read before the header agrees with the file's size and with what is expected.

    Parameters
    ----------
    fits
        Is given the layouts of all tensors, and raises StoreError when they are not those of the run.

    Raises
    ------
    StoreError
        When the file is damaged or of another format.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        with path.open("rb") as file:
            found = _read(file, fits)
    except _UNREADABLE as error:
        why = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0][:200]
        raise StoreError(f"{_short(path)} is damaged ({why}).") from None
    except StoreError as error:
        raise StoreError(f"{_short(path)} does not fit the run ({str(error).rstrip('.')}).") from None
    if found[1]["format"] != FORMAT:
        raise OtherFormat(
            f"This version of widestep reads checkpoints of format {FORMAT}. {_short(path)} has format "
            f"{found[1]['format']}, written by widestep {found[1].get('widestep', 'of another version')}; go on with that "
            "version."
        )
    return found


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _read(file: BufferedReader, fits: Fits | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or 8 + length > size or length > _MOST_HEADER:
        raise ValueError("size")
    text = file.read(length)
    if not text.startswith(_PREFIX):
        raise ValueError("it is no checkpoint of widestep")
    if text.count(b"[") + text.count(b"{") > length // _BYTES_PER_LIST + 100:
        raise ValueError("its header is no list of tensors")
    header = json.loads(text)
    metadata = header.pop("__metadata__")
    layouts = _layouts(header, size - 8 - length)
    if fits is not None:
        fits(layouts)
    tensors, digest = {}, hashlib.sha256(start + text[: len(_PREFIX)] + _NO_DIGEST + text[len(_PREFIX) + len(_NO_DIGEST) :])
    for name, layout in layouts.items():
        tensors[name] = torch.empty(layout.shape, dtype=layout.dtype)
        _fill(file, tensors[name].reshape(-1).view(torch.uint8).numpy().data, digest)
    if digest.hexdigest() != metadata["sha256"] or file.read(1):
        raise ValueError("its digest is another")
    facts = json.loads(metadata["facts"])
    facts["format"]
    return tensors, facts


def _layouts(header: Mapping[str, Any], num_bytes: int) -> dict[str, Layout]:
    """Return the layouts of a header's tensors; raises ValueError unless they fill the file exactly, one after the other."""
    found, offset = {}, 0
    for name, entry in header.items():
        dtype, shape, (start, end) = _TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
            raise ValueError(f"the shape of {ascii(name)[:80]}")
        count = dtype.itemsize
        for extent in shape:
            count *= extent
        if start != offset or end != start + count or end > num_bytes:
            raise ValueError("size")
        found[name], offset = Layout(dtype, tuple(shape)), end
    if offset != num_bytes:
        raise ValueError("size")
    return found


def _fill(file: BufferedReader, values: memoryview, digest: "hashlib._Hash") -> None:
    """Read a tensor's bytes into its memory, and the digest, block by block."""
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        if file.readinto(block) != len(block):
            raise ValueError("size")
        digest.update(block)


def save_state(
    directory: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    keep: int,
    fence: Fence | None = None,
) -> None:
    """Save a run's state after `step` steps and, once that is certain, remove all but the newest `keep` states.

    Raises
    ------
    EnvironmentFault
        When it could not be saved: whatever was saved before is still there.
    """
    _prune(directory, keep)  # who was killed right after a save has not done so
    path = path_of_step(directory, step)
    is_new = not path.exists()
    try:
        write(path, tensors, facts, fence)
        if not (directory / ANY_SAVED).exists():
            write_atomically(directory / ANY_SAVED, b"", fence)
    except EnvironmentFault:
        if is_new:  # renamed perhaps, but never acknowledged: it would take the place of one that is certain
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    _prune(directory, keep)


def _prune(directory: Path, keep: int) -> None:
    for old in saved_steps(directory)[keep:]:
        with suppress(OSError):  # it will be tried again
            path_of_step(directory, old).unlink(missing_ok=True)


def newest(directory: Path, fits: Fits | None = None) -> Saved | None:
    """Return the newest state that verifies, or None when none was ever saved.

    Damaged ones are renamed to `*.damaged`: nothing is deleted, and no later save counts them among those to keep.

    Raises
    ------
    StoreError
        When states were saved and none is whole, or one is of a newer format: training does not silently start again.
    """
    damaged: list[tuple[Path, str]] = []
    for step in saved_steps(directory):
        path = path_of_step(directory, step)
        try:
            tensors, facts = read(path, fits)
            _check_facts(path, step, facts)
        except OtherFormat:
            raise
        except StoreError as error:
            damaged.append((path, str(error).rstrip(".")))
            continue
        said = [f"{words}, using {path.stem}" for _, words in damaged]
        _set_aside([path for path, _ in damaged])
        return Saved(step, tensors, facts, said)
    if damaged:
        raise StoreError(
            f"A run goes on from a state that is whole, and none is left in {directory.parent}: "
            f"{'; '.join(words for _, words in damaged)}. Restore one, or use --fresh to begin again."
        )
    if ever_saved(directory):
        raise StoreError(
            f"A run goes on from what it saved. The states in {directory} are gone; restore one, or use --fresh to begin "
            "again."
        )
    return None


def _check_facts(path: Path, step: int, facts: Mapping[str, Any]) -> None:
    """Raise StoreError unless a file that verifies is the state that its name promises."""
    tally, lengths = facts.get("tally"), facts.get("lengths")
    known = isinstance(tally, dict) and tally.get("step") == step
    measured = isinstance(lengths, dict) and all(type(length) is int for length in lengths.values())
    if not (known and measured and isinstance(facts.get("recipe"), str)):
        raise StoreError(f"{_short(path)} is damaged (it is not the state after {step} steps).")


def lost_best(directory: Path) -> list[str]:
    """Return in words that the best weights, which a state speaks of, are gone; nothing when they are whole."""
    path = directory / "best.safetensors"
    try:
        if path.exists():
            read(path)
            return []
        why = f"{_short(path)} is missing"
    except StoreError as error:
        why = str(error).rstrip(".")
    return [f"{why}: the best weights so far are lost, and kept again when later ones are better"]


def _set_aside(paths: Sequence[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # a disk that is read-only will be told of elsewhere
            os.replace(path, path.with_name(f"{path.name}.damaged"))
    if paths:
        with suppress(OSError):
            sync_directory(paths[0].parent)
