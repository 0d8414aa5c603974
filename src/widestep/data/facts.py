"""What a data set is, for planning: its counts, classes and image shape, without loading an image or importing torch."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from widestep.data import digits
from widestep.data.layout import FolderLayout, scan_folder
from widestep.errors import UsageError

FORMS = "digits, imagenet (planning only: its published counts, no files) or folder:PATH"
DEFAULT_IMAGE_SIZE = 224
SMALLEST_IMAGE_SIZE, LARGEST_IMAGE_SIZE = 8, 2048
DEFAULT_DIGITS_TRAIN = digits.NUM_IMAGES // 2
SMALLEST_DIGITS_SPLIT = 10


@dataclass(frozen=True)
class DataFacts:
    """What planning needs to know about a data set.

    Parameters
    ----------
    name
        The data set as it was asked for, for example `digits` or `folder:/data/flowers`.
    num_train, num_val
        Numbers of training and validation images.
    image_shape
        (channels, height, width) of an image as the model gets it.
    fingerprint
        SHA-256 of the contents; see `layout.FolderLayout` for what a folder's covers. Of `imagenet` it is the words
        `published counts`, because no file has been seen.
    """

    name: str
    num_train: int
    num_val: int
    num_classes: int
    image_shape: tuple[int, int, int]
    fingerprint: str


def describe(spec: str, *, train_images: int | None = None, image_size: int | None = None) -> DataFacts:
    """Return the facts of a data set.

    Parameters
    ----------
    spec
        `digits`: 1,797 embedded images of 8x8 pixels. `imagenet`: the counts of ILSVRC 2012, for planning without its
        files. `folder:PATH`: see `layout.scan_folder`.
    train_images
        Images of `digits` that train (default 898, half of them); the rest validates.
    image_size
        Height and width that images are brought to (default 224); `digits` stay at 8.

    Raises
    ------
    UsageError
        When the spec is unknown, or an option does not fit it or is out of range.
    DataError
        When the folder is missing, empty or not laid out as it must be.

    Examples
    --------
    >>> facts = describe("digits", train_images=960)
    >>> facts.num_train, facts.num_val, facts.num_classes, facts.image_shape
    (960, 837, 10, (1, 8, 8))
    >>> describe("imagenet").num_train
    1281167
    """
    kind, path = parse_spec(spec)
    if kind == "digits":
        return digits_facts(train_images, image_size)
    shape = check_options(spec, train_images, image_size)
    if kind == "imagenet":
        return DataFacts(spec, 1_281_167, 50_000, 1_000, shape, "published counts")
    return folder_facts(spec, scan_folder(path), shape)


def parse_spec(spec: str) -> tuple[Literal["digits", "imagenet", "folder"], Path]:
    """Return the kind of data set a spec names, and the path of a folder (otherwise an empty path).

    Raises
    ------
    UsageError
        When the spec has none of the known forms.
    """
    if spec == "digits":
        return "digits", Path()
    if spec == "imagenet":
        return "imagenet", Path()
    if spec.startswith("folder:") and spec != "folder:":
        return "folder", Path(spec.removeprefix("folder:"))
    raise UsageError(f"A data set is {FORMS}. Got {spec!r}{_suggestion(spec)}.")


def _suggestion(spec: str) -> str:
    if spec == "folder:":
        return " without a path"
    if os.path.isdir(spec):
        return f"; perhaps you meant {'folder:' + spec!r}"
    word, colon, path = spec.partition(":")
    near = difflib.get_close_matches(word.lower(), ["digits", "imagenet", "folder"], n=1)
    if not near:
        return ""
    return f"; perhaps you meant {near[0] + (':' + (path if colon else 'PATH') if near[0] == 'folder' else '')!r}"


def digits_facts(train_images: int | None, image_size: int | None) -> DataFacts:
    """Return the facts of the embedded digits, with `train_images` of them for training.

    Raises
    ------
    UsageError
        When there would be fewer than 10 training or validation images, or another size than 8 is asked for.
    """
    num_train = DEFAULT_DIGITS_TRAIN if train_images is None else train_images
    largest = digits.NUM_IMAGES - SMALLEST_DIGITS_SPLIT
    if not SMALLEST_DIGITS_SPLIT <= num_train <= largest:
        raise UsageError(
            f"Of the 1,797 digits, {SMALLEST_DIGITS_SPLIT} to {largest:,} can train, the rest validates. "
            f"Got train_images = {train_images}."
        )
    if image_size not in (None, digits.SIDE):
        raise UsageError(
            f"The digits are images of 8x8 pixels and are not resized. Got image_size = {image_size}: leave it out."
        )
    return DataFacts(
        "digits",
        num_train,
        digits.NUM_IMAGES - num_train,
        digits.NUM_CLASSES,
        (1, digits.SIDE, digits.SIDE),
        digits.load().fingerprint(),
    )


def check_options(spec: str, train_images: int | None, image_size: int | None) -> tuple[int, int, int]:
    """Return the image shape of a data set of photographs.

    Raises
    ------
    UsageError
        When a number of training images is given (the data set has its own), or the size is out of range.
    """
    if train_images is not None:
        raise UsageError(
            f"train_images divides the digits only; {spec!r} comes with its own training images. "
            f"Got train_images = {train_images}: leave it out."
        )
    size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
    if not SMALLEST_IMAGE_SIZE <= size <= LARGEST_IMAGE_SIZE:
        raise UsageError(
            f"image_size must be from {SMALLEST_IMAGE_SIZE} to {LARGEST_IMAGE_SIZE:,} pixels. Got {image_size}."
        )
    return 3, size, size


def folder_facts(spec: str, layout: FolderLayout, shape: tuple[int, int, int]) -> DataFacts:
    """Return the facts of a folder that has been scanned."""
    return DataFacts(spec, len(layout.train), len(layout.val), len(layout.classes), shape, layout.fingerprint)
