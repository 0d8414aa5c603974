"""A run's saved weights without torch: the seal of a checkpoint file verified, and the digest that the run's result names.

`widestep.train.checkpoint` has the format: eight bytes of length, a JSON header that begins with a SHA-256 over the whole
file in which the digest's own digits are zeros, then the tensors.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widestep.errors import StoreError

_PREFIX = b'{"__metadata__":{"sha256":"'
_DIGITS = 64
_MOST_HEADER = 4 << 20
_BLOCK = 1 << 20
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "u1",
}


@dataclass(frozen=True)
class SavedWeights:
    """What a file of weights holds, once its seal has been verified.

    Parameters
    ----------
    weights_sha256
        As in result.json: over all tensors in the order of their names, as little-endian float32.
    facts
        What was written beside them.
    """

    weights_sha256: str
    facts: dict[str, Any]


def read_weights(path: Path) -> SavedWeights:
    """Verify a file of weights and return its digest and facts.

    Raises
    ------
    StoreError
        When the file is absent, damaged or not one of ours.
    """
    try:
        header = _verified_header(path)
        facts = json.loads(header.pop("__metadata__")["facts"])
        start = path.stat().st_size - max((entry["data_offsets"][1] for entry in header.values()), default=0)
        digest = hashlib.sha256()
        for name in sorted(header):
            digest.update(_as_float32(path, start, header[name]).tobytes())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StoreError(f"{path} must hold a run's weights. It is damaged: {why}.") from None
    if not isinstance(facts, dict):
        raise StoreError(f"{path} must hold a run's weights. It is damaged: its facts have no names.")
    return SavedWeights(digest.hexdigest(), facts)


def _verified_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _MOST_HEADER:
            raise ValueError("its length")
        text = file.read(length)
        if len(text) < length or not text.startswith(_PREFIX):
            raise ValueError("it is no checkpoint of widestep")
        end = len(_PREFIX) + _DIGITS
        digest = hashlib.sha256(start + _PREFIX + b"0" * _DIGITS + text[end:])
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest().encode() != text[len(_PREFIX) : end]:
        raise ValueError("its digest is another")
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("its header")
    return header


def _as_float32(path: Path, start: int, entry: dict[str, Any]) -> NDArray[np.float32]:
    first, last = entry["data_offsets"]
    dtype = np.dtype(_TYPES[entry["dtype"]])
    with path.open("rb") as file:
        values = np.fromfile(file, dtype, (last - first) // dtype.itemsize, offset=start + first)
    if entry["dtype"] == "BF16":
        return np.asarray((values.astype("<u4") << 16).view("<f4"), dtype="<f4")
    return np.asarray(values, dtype="<f4")
