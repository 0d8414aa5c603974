"""What a data set is, for planning: its counts, classes and image shape, without loading an image or importing torch."""

import difflib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from widestep.data import digits
from widestep.data.stores.open_store import DATA_DIRECTORY, OPENERS, StoreKind, open_store
from widestep.data.stores.store import ImageStore
from widestep.errors import DataError, UsageError

Kind = Literal["digits", "imagenet"] | StoreKind

_ON_DISK = ", ".join(f"{kind}:PATH" for kind in OPENERS)
FORMS = f"digits, imagenet (planning only: its published counts, no files) or {_ON_DISK}"
DEFAULT_IMAGE_SIZE = 224
LARGEST_SMALL_SIZE = 64
_NUM_LOOKED_AT = 8
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
        SHA-256 of the contents; see `stores.layout.FolderLayout` for what a folder's covers. Of `imagenet` it is the words
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
        files. `folder:PATH` and the other forms on disk: see `open_store`.
    train_images
        Images of `digits` that train (default 898, half of them); the rest validates.
    image_size
        Height and width that images are brought to (default: see `store_facts`); `digits` stay at 8.

    Raises
    ------
    UsageError
        When the spec is unknown, or an option does not fit it or is out of range.
    DataError
        When the data set is missing, empty or not laid out as it must be.

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
    check_options(spec, train_images, image_size)
    if kind == "imagenet":
        size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
        return DataFacts(spec, 1_281_167, 50_000, 1_000, (3, size, size), "published counts")
    store = open_store(kind, path)
    try:
        return store_facts(spec, store, image_size)
    finally:
        store.close()


def parse_spec(spec: str) -> tuple[Kind, Path]:
    """Return the kind of data set a spec names, and the path of a store (otherwise an empty path).

    A relative path starts from the directory WIDESTEP_DATA where that is set, else from the current one, so that a recipe
    names its data alike on every machine.

    Raises
    ------
    UsageError
        When the spec has none of the known forms.
    """
    if spec == "digits":
        return "digits", Path()
    if spec == "imagenet":
        return "imagenet", Path()
    word, _, path = spec.partition(":")
    for kind in OPENERS:
        if word == kind and path:
            return kind, _located(path)
    raise UsageError(f"A data set is {FORMS}. Got {spec!r}{_suggestion(spec)}.")


def _located(path: str) -> Path:
    return Path(os.path.expanduser(os.environ.get(DATA_DIRECTORY, "")), os.path.expanduser(path))


def spec_of(kind: StoreKind, path: Path) -> str:
    """Return the spec by which the data set at a path of the current directory is found again."""
    return f"{kind}:{path.absolute() if os.environ.get(DATA_DIRECTORY) else path}"


def parse_store_spec(spec: str) -> tuple[StoreKind, Path]:
    """Return the form and the path of a data set on disk.

    Raises
    ------
    UsageError
        When the spec is unknown or names another data set.
    """
    found, path = parse_spec(spec)
    for kind in OPENERS:
        if found == kind:
            return kind, path
    raise UsageError(f"Here a data set on disk is needed: {_ON_DISK}. Got {spec!r}.")


def _suggestion(spec: str) -> str:
    word, colon, path = spec.partition(":")
    if colon and word in OPENERS:
        return " without a path"
    if spec and _located(spec).is_dir():
        return f"; perhaps you meant {'folder:' + spec!r}"
    near = difflib.get_close_matches(word.lower(), ["digits", "imagenet", *OPENERS], n=1)
    if not near:
        return ""
    return f"; perhaps you meant {near[0] + (':' + (path if colon else 'PATH') if near[0] in OPENERS else '')!r}"


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


def check_options(spec: str, train_images: int | None, image_size: int | None) -> None:
    """Refuse options that do not fit a data set of photographs.

    Raises
    ------
    UsageError
        When a number of training images is given (the data set has its own), or the size is out of range.
    """
    if train_images is not None:
        raise UsageError(
            f"train_images divides the digits only; {spec!r} comes with its own training images. "
            f"Got train_images = {train_images}, perhaps from the recipe: set it to none."
        )
    if image_size is not None and not SMALLEST_IMAGE_SIZE <= image_size <= LARGEST_IMAGE_SIZE:
        raise UsageError(
            f"image_size must be from {SMALLEST_IMAGE_SIZE} to {LARGEST_IMAGE_SIZE:,} pixels. Got {image_size}."
        )


def store_facts(spec: str, store: ImageStore, image_size: int | None) -> DataFacts:
    """Return the facts of a store that has been opened; images have `image_size`, or else their usual size.

    The usual size is that of the stored images where those looked at (up to 8, spread over the training images) are small
    squares of one size, up to 64 pixels, and otherwise 224.
    """
    size = _usual_size(store) if image_size is None else image_size
    return DataFacts(spec, store.num_train, store.num_val, len(store.classes), (3, size, size), store.fingerprint)


def _usual_size(store: ImageStore) -> int:
    from widestep.data.decode import open_picture

    seen = set()
    for image in range(0, store.num_train, -(-store.num_train // _NUM_LOOKED_AT)):
        with suppress(DataError):  # training will name it
            picture = open_picture(store.read(image))
            seen.add((picture.width, picture.height))
    width, height = next(iter(seen), (0, 1))
    return width if len(seen) == 1 and width == height <= LARGEST_SMALL_SIZE else DEFAULT_IMAGE_SIZE
