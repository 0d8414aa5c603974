"""What training asks of a data set, and opening one by its name."""

import difflib
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.augment import Augmentation
from widestep.data.digits_source import DigitsSource
from widestep.data.facts import DataFacts, check_options, digits_facts, folder_facts, parse_spec
from widestep.data.folder_source import FolderSource
from widestep.data.layout import scan_folder
from widestep.data.split import Split
from widestep.errors import UsageError
from widestep.plan.randomness import U64

__all__ = ["ImageSource", "Split", "open_source"]


class ImageSource(Protocol):
    """A data set opened for training. Image ids are one range for training and validation images.

    Attributes
    ----------
    facts
        Counts, classes, image shape and fingerprint.
    labels
        Label of every image id, int64, shape (num_images,).
    """

    facts: DataFacts
    labels: Tensor

    def split(self, seed: int) -> Split:
        """Return which image ids train and which validate, a function of the seed."""

    def training_images(self, ids: NDArray[np.int64], keys: U64) -> Tensor:
        """Return images normalised and augmented, float32, shape (M, C, H, W).

        Parameters
        ----------
        ids
            Image ids, shape (M,).
        keys
            One 64-bit key an image, shape (M,): the augmentation of image m is a function of keys[m] and nothing else
            (statement D3).
        """

    def evaluation_images(self, ids: NDArray[np.int64]) -> Tensor:
        """Return images normalised and not augmented, float32, shape (M, C, H, W)."""

    def close(self) -> None:
        """End threads and release files."""


def open_source(
    spec: str, *, augment: str, image_size: int | None, train_images: int | None, num_threads: int
) -> ImageSource:
    """Open a data set for training.

    Parameters
    ----------
    spec, train_images, image_size
        As in `facts.describe`.
    augment
        `none`: training images are the same as for evaluation. `shift-flip`: pad by 4 pixels of zeros, crop back at a
        random place, flip half the time. `random-resized-crop`: a random box of 0.08..1 of the area and an aspect of
        3/4..4/3, resized, flipped half the time; for photographs only.
    num_threads
        Threads that decode files; 0 decodes in the calling thread. Changes no byte.

    Raises
    ------
    UsageError
        When the spec or augmentation is unknown, does not fit the other options, or has no files (`imagenet`).
    DataError
        When the folder is missing, empty or not laid out as it must be.

    Examples
    --------
    >>> source = open_source("digits", augment="none", image_size=None, train_images=960, num_threads=0)
    >>> source.evaluation_images(source.split(seed=0).val[:5]).shape
    torch.Size([5, 1, 8, 8])
    """
    chosen = _augmentation(augment)
    if num_threads < 0:
        raise UsageError(f"The number of decoder threads must be 0 or more. Got {num_threads}.")
    kind, path = parse_spec(spec)
    if kind == "digits":
        return DigitsSource(digits_facts(train_images, image_size), chosen)
    if kind == "imagenet":
        raise UsageError(
            "Training needs the files of a data set, and 'imagenet' is only its counts, for planning. "
            "Use folder:PATH with the folder that holds train and val."
        )
    shape = check_options(spec, train_images, image_size)
    layout = scan_folder(path)
    return FolderSource(folder_facts(spec, layout, shape), layout, chosen, num_threads)


def _augmentation(name: str) -> Augmentation:
    for known in get_args(Augmentation):
        if name == known:
            return known  # type: ignore[no-any-return]
    near = difflib.get_close_matches(name, get_args(Augmentation), n=1)
    hint = f"; perhaps you meant {near[0]!r}" if near else ""
    raise UsageError(f"augment must be one of {', '.join(get_args(Augmentation))}. Got {name!r}{hint}.")
