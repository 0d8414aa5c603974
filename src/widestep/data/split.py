"""Which images train and which validate, as image ids."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from widestep.plan.randomness import Stream


class Split(NamedTuple):
    """Image ids, int64 and ascending, of the training and of the validation images; no id is in both."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]


def share_out(num_images: int, class_sizes: NDArray[Any]) -> NDArray[np.int64]:
    """Divide `num_images` among classes in proportion to their sizes, by the largest remainder.

    Every class gets the whole part of its quota num_images * size / sum(sizes); what is left goes, one each, to the
    classes with the largest fractions, the earlier class first when two are equal. Integers throughout.

    Parameters
    ----------
    num_images
        Images to divide, at most the sum of the sizes.
    class_sizes
        Images of every class, shape (num_classes,).

    Examples
    --------
    >>> share_out(10, np.array([6, 5, 4])).tolist()
    [4, 3, 3]
    """
    sizes = np.asarray(class_sizes, dtype=np.int64)
    shares, remainders = np.divmod(num_images * sizes, sizes.sum())
    num_left = num_images - int(shares.sum())
    shares[np.argsort(-remainders, kind="stable")[:num_left]] += 1
    return shares


def stratified_split(labels: NDArray[Any], num_train: int, seed: int) -> Split:
    """Draw the training images class by class, in proportion to the class sizes; the rest validates.

    Parameters
    ----------
    labels
        Label of every image id, shape (num_images,), from 0.
    num_train
        Number of training images.
    seed
        Of the stream "split": another seed takes other images, never other numbers a class.

    Examples
    --------
    >>> split = stratified_split(np.array([0, 0, 1, 1, 1, 1]), num_train=3, seed=0)
    >>> len(split.train), len(split.val)
    (3, 3)
    """
    order = Stream(seed, "split").permutation(len(labels))
    quotas = share_out(num_train, np.bincount(labels))
    is_train = np.zeros(len(labels), dtype=bool)
    for label, quota in enumerate(quotas):
        is_train[order[labels[order] == label][:quota]] = True
    return Split(np.flatnonzero(is_train).astype(np.int64), np.flatnonzero(~is_train).astype(np.int64))
