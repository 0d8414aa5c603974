"""The embedded data set: 1,797 handwritten digits of 8x8 pixels, read from the package without torch.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
doi 10.24432/C50P49 (CC BY 4.0; see embedded/README.md).
"""

import functools
import gzip
import hashlib
import io
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_IMAGES = 1_797
NUM_CLASSES = 10
SIDE = 8
MEAN = 4.884165
"""Mean of all 1,797 x 64 pixels, on their scale of 0..16, to 6 decimals."""
STD = 6.016788
"""Standard deviation of the same pixels (divided by their number), to 6 decimals."""


class Digits(NamedTuple):
    """Pixels, uint8 of shape (1797, 8, 8), from 0 (paper) to 16 (ink), and labels, uint8 of shape (1797,). Read-only."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def fingerprint(self) -> str:
        """Return the SHA-256 of the pixel bytes followed by the label bytes."""
        return hashlib.sha256(self.pixels.tobytes() + self.labels.tobytes()).hexdigest()


@functools.cache
def load() -> Digits:
    """Read the embedded file, once a process.

    Examples
    --------
    >>> digits = load()
    >>> digits.pixels.shape, digits.labels[:4].tolist()
    ((1797, 8, 8), [0, 1, 2, 3])
    """
    packed = (files("widestep.data") / "embedded" / "digits.csv.gz").read_bytes()
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    table.setflags(write=False)
    return Digits(table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1])
