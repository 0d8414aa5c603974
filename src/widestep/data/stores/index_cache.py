"""Lists of images that took long to make, kept between runs: `$WIDESTEP_CACHE`, else `$XDG_CACHE_HOME/widestep`, else
`~/.cache/widestep`. An empty WIDESTEP_CACHE switches this off.

An index is a convenience: whatever is wrong with a kept one (damaged, of other files, of another version, a place that
cannot be read or written), it is passed over in silence and made anew.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from widestep.errors import EnvironmentFault
from widestep.files import write_atomically

SMALLEST = 10_000
"""Only indexes of more images than this are kept; shorter ones are made in less time than it takes to look."""

_VERSION = 1
_WITNESS = "witness"

Arrays = Mapping[str, NDArray[Any]]


def load_index(kind: str, root: Path, witness: str) -> Arrays | None:
    """Return the arrays kept for a data set, or None when there are none for exactly this witness.

    Parameters
    ----------
    kind
        Form of the data set, such as `folder`.
    root
        Where the data set lies.
    witness
        What the index depends on (names, sizes, times of change), as text.
    """
    path = _path(kind, root)
    if path is None:
        return None
    with suppress(OSError, SafetensorError, ValueError, KeyError):
        content = path.read_bytes()
        digest, body = content[:32], content[32:]
        if hashlib.sha256(body).digest() == digest:
            arrays = load(body)
            if arrays.pop(_WITNESS).tobytes() == _described(witness):
                return arrays
    return None


def save_index(kind: str, root: Path, witness: str, arrays: Arrays) -> None:
    """Keep the arrays of a data set, in the place of older ones."""
    path = _path(kind, root)
    if path is None:
        return
    body = save({**arrays, _WITNESS: np.frombuffer(_described(witness), np.uint8)})
    with suppress(OSError, EnvironmentFault):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(body).digest() + body)


def _path(kind: str, root: Path) -> Path | None:
    chosen = os.environ.get("WIDESTEP_CACHE")
    if chosen == "":
        return None
    try:
        base = Path(chosen or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()
        name = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:32]
    except (RuntimeError, OSError):  # no home directory, or the present one is gone
        return None
    return (base if chosen else base / "widestep") / f"{kind}-{name}.index"


def _described(witness: str) -> bytes:
    return f"{_VERSION}\n{witness}".encode(errors="surrogateescape")


def packed_text(texts: Iterable[str]) -> NDArray[np.uint8]:
    """Return texts without zero characters, such as file names, as one array of bytes; each ends with a zero."""
    return np.frombuffer(b"".join(os.fsencode(text) + b"\0" for text in texts), np.uint8)


def unpacked_text(packed: NDArray[np.uint8]) -> Sequence[str]:
    """Return the texts that `packed_text` was given."""
    return os.fsdecode(packed.tobytes()).split("\0")[:-1]
