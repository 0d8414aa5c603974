"""Where encoded images are: what every form of data set on disk (folders, parquet, tar, packed) has in common.

A store knows names, labels and bytes; it decodes nothing and does not import torch, because planning opens one too.
"""

import errno
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from widestep.errors import DataError, EnvironmentFault

Pixels = NDArray[np.uint8]
"""An image, uint8, shape (height, width, 3), red first."""


_OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def unreadable(kind: str, path: str | Path, error: OSError) -> DataError | EnvironmentFault:
    """Return the error for a file of a data set (an `image`, a `shard`) that cannot be read: its own, or the process's."""
    if error.errno in _OF_THE_PROCESS:
        return EnvironmentFault(
            f"A process must be able to open the files of its data set. For {str(path)!r} it cannot ({error.strerror}): "
            "raise the limit (ulimit -n), or use fewer --loader-threads."
        )
    return DataError(
        f"Every {kind} must be readable. {str(path)!r} is not ({error.strerror}): restore the file or correct its "
        "permissions."
    )


class ImageStore(Protocol):
    """A data set on disk. Image ids 0..num_train-1 are the training images, then come the num_val validation images.

    Attributes
    ----------
    classes
        Class names: label l is `classes[l]`.
    num_train, num_val
        Numbers of images.
    labels
        Label of every image id, int64, shape (num_train + num_val,).
    fingerprint
        SHA-256, 64 hexadecimal digits, of what the data set holds, not of where it lies.
    """

    classes: tuple[str, ...]
    num_train: int
    num_val: int
    labels: NDArray[np.int64]
    fingerprint: str

    def read(self, image: int) -> bytes | Pixels:
        """Return an image as it is stored: the bytes of an image file, or its pixels. Any number of threads may call this.

        Raises
        ------
        DataError
            When it cannot be read; names it.
        """

    def name(self, image: int) -> str:
        """Return what the user knows an image by, for messages: a path, or a file and the place in it."""

    def close(self) -> None:
        """Release files."""
