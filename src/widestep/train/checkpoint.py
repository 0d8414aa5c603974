"""A run's state on disk: safetensors (no pickle) with a digest over everything, replaced as a whole.

`last.safetensors` holds weights, optimizer and tally; the one before it stays as `previous.safetensors` until the next save,
so that there is a verified state whatever happens to a write. `best` and `final` hold weights alone, under the names that
torch users expect.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from widestep.errors import StoreError
from widestep.files import write_atomically

FORMAT = 1


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts (plain JSON values) as one file, durably and atomically; equal content gives equal bytes."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry of metadata only: safetensors writes several in an order that changes from process to process.
    write_atomically(path, save(held, {"facts": _sealed(held, {"format": FORMAT, **facts})}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify a file written by `write`.

    Raises
    ------
    StoreError
        When the file is damaged or of an unknown format.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(metadata["facts"])
        del facts["sha256"]
        intact = metadata["facts"] == _sealed(tensors, facts)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise StoreError(f"A checkpoint must be whole. {path} is damaged: {error}.") from None
    if not intact:
        raise StoreError(f"A checkpoint must hold what was written. {path} does not match its digest.")
    if facts["format"] != FORMAT:
        raise StoreError(f"This version reads checkpoints of format {FORMAT}. {path} has format {facts['format']}.")
    return tensors, facts


def write_last(directory: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Save a run's state, keeping the state before it."""
    last = directory / "last.safetensors"
    if last.exists():
        last.replace(directory / "previous.safetensors")
    write(last, tensors, facts)


def read_last(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the newest state that verifies, or None when nothing was saved yet.

    A damaged `last` is renamed to `damaged.safetensors`, so that the next save cannot push it over the state that is whole.

    Raises
    ------
    StoreError
        When states were saved and none is whole: training does not silently start again.
    """
    last, previous = directory / "last.safetensors", directory / "previous.safetensors"
    damage: StoreError | None = None
    for path in (last, previous):
        if path.exists():
            try:
                state = read(path)
            except StoreError as error:
                damage = damage or error
                continue
            if damage is not None:
                last.replace(directory / "damaged.safetensors")
            return state
    if damage is not None:
        raise StoreError(f"{damage} No earlier checkpoint is whole either; use --fresh to begin again.")
    return None


def _sealed(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Return the facts as text, with a digest over them and the tensors among them."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"\0{name}\0{tensors[name].dtype}\0{tuple(tensors[name].shape)}\0".encode())
        digest.update(tensors[name].numpy().tobytes())
    return json.dumps({**facts, "sha256": digest.hexdigest()}, sort_keys=True)
