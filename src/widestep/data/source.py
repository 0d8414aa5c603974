"""What training asks of a data set, and opening one by its name."""

import difflib
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.augment import Augmentation
from widestep.data.digits_source import DigitsSource
from widestep.data.facts import DataFacts, check_options, digits_facts, parse_spec, store_facts
from widestep.data.loading import Images, Loading
from widestep.data.photo_source import PhotoSource
from widestep.data.split import Split
from widestep.data.stores.open_store import open_store
from widestep.errors import UsageError
from widestep.plan.randomness import U64
from widestep.plan.recipe import Recipe


class ImageSource(Protocol):
    """A data set opened for training. Image ids are one range for training and validation images.

    Attributes
    ----------
    facts
        Counts, classes, image shape and fingerprint.
    labels
        Label of every image id, int64, shape (num_images,), in the processor's memory.
    """

    facts: DataFacts
    labels: Tensor

    def split(self, seed: int) -> Split:
        """Return which image ids train and which validate, a function of the seed."""

    def training_images(self, ids: NDArray[np.int64], keys: U64) -> Images:
        """Begin to load images, augmented.

        Parameters
        ----------
        ids
            Image ids, shape (M,).
        keys
            One 64-bit key an image, shape (M,): the augmentation of image m is a function of keys[m] and nothing else
            (statement D3).
        """

    def evaluation_images(self, ids: NDArray[np.int64]) -> Images:
        """Begin to load images, not augmented."""

    def name(self, image: int) -> str:
        """Return what the user knows an image by."""

    def close(self) -> None:
        """End threads and release files."""


def open_source(
    spec: str,
    *,
    augment: str = "none",
    image_size: int | None = None,
    evaluation_resize: int | None = None,
    train_images: int | None = None,
    bad_images: str = "error",
    loading: Loading | None = None,
) -> ImageSource:
    """Open a data set for training.

    Parameters
    ----------
    spec, train_images, image_size
        As in `facts.describe`.
    augment
        `none`: training images are the same as for evaluation. `flip`: flip half the time. `shift-flip`: pad by 4 pixels
        of zeros, crop back at a random place, flip half the time. `random-resized-crop`: a random box of 0.08..1 of the
        area and an aspect of 3/4..4/3, resized, flipped half the time; for photographs only.
    evaluation_resize
        Short side in pixels that images are brought to before their centre of image_size is cut out, at least that; None:
        `views.usual_short_side`.
    bad_images
        What becomes of images that do not decode: `error`, or `skip` (see `damage`).

    Raises
    ------
    UsageError
        When the spec or augmentation is unknown, does not fit the other options, or has no files (`imagenet`).
    DataError
        When the data set is missing, empty or not laid out as it must be.

    Examples
    --------
    >>> source = open_source("digits", train_images=960)
    >>> source.evaluation_images(source.split(seed=0).val[:5]).result().shape
    torch.Size([5, 1, 8, 8])
    """
    chosen, loading = known_augmentation(augment), loading or Loading()
    if loading.num_threads < 0:
        raise UsageError(f"The number of decoder threads must be 0 or more. Got {loading.num_threads}.")
    kind, path = parse_spec(spec)
    if kind == "digits":
        if evaluation_resize is not None:
            raise UsageError(f"The digits are not resized. Got evaluation_resize = {evaluation_resize}: leave it out.")
        return DigitsSource(digits_facts(train_images, image_size), chosen, loading.device)
    if kind == "imagenet":
        raise UsageError(
            "Training needs the files of a data set, and 'imagenet' is only its counts, for planning. "
            "Use folder:PATH with the folder that holds train and val."
        )
    check_options(spec, train_images, image_size)
    store = open_store(kind, path)
    facts = store_facts(spec, store, image_size)
    return PhotoSource(facts, store, chosen, evaluation_resize, loading, skips_damaged=bad_images == "skip")


def open_recipe_data(recipe: Recipe, loading: Loading) -> ImageSource:
    """Open the data set of a recipe, as `open_source`."""
    return open_source(
        recipe.data,
        augment=recipe.augment,
        image_size=recipe.image_size,
        evaluation_resize=recipe.evaluation_resize,
        train_images=recipe.train_images,
        bad_images=recipe.bad_images,
        loading=loading,
    )


def known_augmentation(name: str) -> Augmentation:
    """Return an augmentation by its name; raises UsageError when there is none."""
    for known in get_args(Augmentation):
        if name == known:
            return known  # type: ignore[no-any-return]
    near = difflib.get_close_matches(name, get_args(Augmentation), n=1)
    hint = f"; perhaps you meant {near[0]!r}" if near else ""
    raise UsageError(f"augment must be one of {', '.join(get_args(Augmentation))}. Got {name!r}{hint}.")
