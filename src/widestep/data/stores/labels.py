"""Labels and class names as data sets on disk give them, checked before anything is trained on them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from widestep.errors import DataError

MAX_CLASSES = 1_000_000

Place = Callable[[int], str]
"""From the position of an image in its split to the words that say where its label is."""


def checked_classes(
    names: Sequence[str] | None, train: NDArray[np.int64], val: NDArray[np.int64], place_train: Place, place_val: Place
) -> tuple[str, ...]:
    """Return the class names of a data set whose labels are numbers.

    Parameters
    ----------
    names
        As the data set gives them; None: the numbers from 0 to the largest label of a training image, as text.
    train, val
        Labels of the images of the two splits.
    place_train, place_val
        Say where a label is.

    Raises
    ------
    DataError
        When a label is negative or has no name, a label to validate on is larger than all that are trained on, names are
        repeated, or there are fewer than two classes.
    """
    num_classes = int(train.max(initial=-1)) + 1 if names is None else len(names)
    limit = min(num_classes, MAX_CLASSES)
    for labels, place in ((train, place_train), (val, place_val)):
        wrong = np.flatnonzero((labels < 0) | (labels >= limit))
        if len(wrong):
            first = int(wrong[0])
            count = f" {len(wrong) - 1:,} more are wrong." if len(wrong) > 1 else ""
            raise DataError(
                f"Labels are whole numbers from 0 to {limit - 1:,}, as there are {limit:,} classes. {place(first)} is "
                f"{int(labels[first])}.{count} Correct the labels or the class names."
            )
    classes = tuple(str(label) for label in range(num_classes)) if names is None else tuple(names)
    if len(classes) < 2:
        raise DataError(f"A classifier needs at least two classes. The training images have {len(classes)}: {classes}.")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise DataError(f"Every class must have a name of its own. Two are called {twice!r}: rename one.")
    return classes
