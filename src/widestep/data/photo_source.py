"""Images of a store, decoded by any number of threads when they are asked for; small ones only once."""

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.augment import Augmentation, CropDraws, Shifts, crop_box, crop_draws, whole_draws
from widestep.data.batched import normalised, padded, shifted
from widestep.data.damage import StandIns
from widestep.data.decode import Picture, cut, explaining, open_picture
from widestep.data.facts import DataFacts
from widestep.data.loading import NOTHING, Images, Loading
from widestep.data.resident import ResidentImages
from widestep.data.split import Split
from widestep.data.stores.store import ImageStore, Pixels
from widestep.data.views import centre_view, crop_view, usual_short_side
from widestep.errors import EnvironmentFault, UsageError
from widestep.plan.randomness import U64

_IMAGES_PER_TASK = 8
_GIB = 1 << 30
_MARK_STRIDE = 997
_NEVER_SEEN = -1

View = Callable[[int, Picture, bool, Pixels], None]
"""Takes the place in the batch, the opened image, whether it was decoded before, and the array (size, size, 3) to fill."""


class PhotoSource:
    """Photographs of shape (3, size, size), float32, normalised with the constants of ImageNet.

    Image ids are those of the store. The decoder releases the interpreter's lock, so threads help; every image is computed
    alone, so their number changes no byte.

    The first time that an image is visited all of it is decoded strictly, so that damage shows; later, where it is faster,
    only what the crop needs.

    Parameters
    ----------
    skips_damaged
        Whether the image of another id takes the place of one that does not decode (see `damage`); otherwise it is an error.
    """

    def __init__(
        self,
        facts: DataFacts,
        store: ImageStore,
        augment: Augmentation,
        evaluation_resize: int | None,
        loading: Loading,
        *,
        skips_damaged: bool = False,
    ) -> None:
        self.facts = facts
        self.labels = torch.from_numpy(store.labels)
        self.name = store.name
        self._store = store
        self._stand_ins = StandIns(store) if skips_damaged else None
        self._augment = augment
        self._size = facts.image_shape[1]
        self._short_side = usual_short_side(self._size) if evaluation_resize is None else evaluation_resize
        if self._short_side < self._size:
            raise UsageError(
                f"Evaluation images must be at least as large as what is cut out of them. Got evaluation_resize = "
                f"{evaluation_resize} for an image_size of {self._size}: give {self._size} or more."
            )
        self._device = loading.device
        self._threads = ThreadPoolExecutor(loading.num_threads, "widestep-decode") if loading.num_threads else None
        self._copies = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        num_images = facts.num_train + facts.num_val
        self._marks = np.full(num_images, _NEVER_SEEN)
        fits = ResidentImages.num_bytes(num_images, self._size) <= loading.gib_in_memory * _GIB
        self._resident = None
        if augment != "random-resized-crop" and fits:
            has_border = augment != "none"
            pixels = (facts, self._short_side, has_border, str(self._device))
            make = partial(ResidentImages, num_images, self._size, self._device, has_border=has_border)
            # Where others stand in for damaged images, a run keeps its own: it has to count them.
            self._resident = make() if loading.kept is None or skips_damaged else loading.kept.get(pixels, make)

    def split(self, seed: int) -> Split:
        """Return the split that the store makes, whatever the seed."""
        num_train, num_val = self.facts.num_train, self.facts.num_val
        return Split(np.arange(num_train), np.arange(num_train, num_train + num_val))

    def training_images(self, ids: NDArray[np.int64], keys: U64) -> Images:
        """Begin to load augmented images, shape (M, 3, size, size)."""
        if self._augment == "random-resized-crop":
            draws = crop_draws(keys)
            return _Photos(self, self._begin(ids, self._random_view(draws)), flip=draws.flip)
        return self._whole(ids, whole_draws(self._augment, keys))

    def evaluation_images(self, ids: NDArray[np.int64]) -> Images:
        """Begin to load the centres of images, shape (M, 3, size, size)."""
        return self._whole(ids, None)

    @property
    def stays_in_memory(self) -> bool:
        """Whether every image is decoded only once."""
        return self._resident is not None

    def close(self) -> None:
        """End the threads and release the store; further images can then not be asked for."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._store.close()

    def _whole(self, ids: NDArray[np.int64], shifts: Shifts | None) -> Images:
        if self._resident is None:
            return _Photos(self, self._begin(ids, self._centre), shifts)
        missing = self._resident.missing(ids)
        return _Residents(self, self._resident, ids, shifts, missing, self._begin(missing, self._centre))

    def _centre(self, place: int, picture: Picture, trusted: bool, out: Pixels) -> None:
        centre_view(picture.decode(trusted=trusted), self._size, self._short_side, out)

    def _random_view(self, draws: CropDraws) -> View:
        is_thorough = self._stand_ins is not None

        def view(place: int, picture: Picture, trusted: bool, out: Pixels) -> None:
            box = crop_box(draws, place, picture.width, picture.height)
            # Whether an image is skipped must not depend on where it is cropped.
            pixels = cut(picture.decode(), box) if is_thorough and not trusted else picture.decode(box, trusted=trusted)
            crop_view(pixels, out)

        return view

    def _begin(self, ids: NDArray[np.int64], view: View) -> "_Decoding":
        """Start to decode."""
        images = torch.empty(len(ids), self._size, self._size, 3, dtype=torch.uint8, pin_memory=self._copies is not None)
        pixels = images.numpy()
        replaced: dict[int, int] = {}

        def fill(start: int) -> None:
            for place in range(start, min(start + _IMAGES_PER_TASK, len(ids))):
                image = int(ids[place])
                used = self._load(image, partial(view, place), pixels[place])
                if used != image:
                    replaced[place] = used

        return _Decoding(images, [self._task(fill, start) for start in range(0, len(ids), _IMAGES_PER_TASK)], replaced)

    def _task(self, fill: Callable[[int], None], start: int) -> Callable[[], None]:
        """Let a thread do it, if there are threads; the returned function waits for it."""
        if self._threads is None:
            return partial(fill, start)
        try:
            return self._threads.submit(fill, start).result
        except RuntimeError as error:
            if "thread" not in str(error):
                raise
            raise EnvironmentFault(
                f"Threads that decode must be able to start. This one cannot ({error}): ask for fewer with "
                "--loader-threads, or raise the limit of processes (ulimit -u)."
            ) from error

    def _load(self, image: int, view: Callable[[Picture, bool, Pixels], None], out: Pixels) -> int:
        """Decode an image, or what stands in for it; return the id of what `out` then holds."""

        def decode(image: int) -> None:
            stored = self._store.read(image)
            mark = _mark(stored)
            view(open_picture(stored), bool(self._marks[image] == mark), out)
            self._marks[image] = mark

        if self._stand_ins is None:
            with explaining(self._store, image, self.facts.name):
                decode(image)
            return image
        used = self._stand_ins.first_sound(image, decode)
        if used == NOTHING:
            out[...] = 0
        return used

    def to_device(self, images: Tensor) -> Tensor:
        """Copy images to the device beside what it computes."""
        if self._copies is None:
            return images
        with torch.cuda.stream(self._copies):
            copy = images.to(self._device, non_blocking=True)
        present = torch.cuda.current_stream(self._device)
        present.wait_stream(self._copies)
        copy.record_stream(present)
        return copy


@dataclass(frozen=True)
class _Decoding:
    """Images that are being decoded, uint8 of shape (M, size, size, 3) in host memory."""

    images: Tensor
    tasks: list[Callable[[], None]]
    replaced: dict[int, int]

    def result(self) -> Tensor:
        for task in self.tasks:
            task()
        return self.images


@dataclass(frozen=True)
class _Photos:
    """Images decoded for this once."""

    source: PhotoSource
    decoding: _Decoding
    shifts: Shifts | None = None
    flip: NDArray[np.bool_] | None = None
    """After everything else, where there are no shifts."""

    def result(self) -> Tensor:
        images = self.source.to_device(self.decoding.result())
        if self.shifts is not None:
            images = shifted(padded(images), torch.arange(len(images), device=images.device), self.shifts)
        return normalised(images, self.flip)

    def replaced(self) -> dict[int, int]:
        return self.decoding.replaced


@dataclass(frozen=True)
class _Residents:
    """Images of a small data set, of which some may have to be decoded."""

    source: PhotoSource
    resident: ResidentImages
    ids: NDArray[np.int64]
    shifts: Shifts | None
    missing: NDArray[np.int64]
    decoding: _Decoding

    def result(self) -> Tensor:
        if len(self.missing):
            images = self.source.to_device(self.decoding.result())
            self.resident.put(self.missing, images, self.decoding.replaced)
        return normalised(self.resident.get(self.ids, self.shifts))

    def replaced(self) -> dict[int, int]:
        return self.resident.replaced(self.ids)


def _mark(stored: bytes | Pixels) -> int:
    """Return a number that nearly always changes when a file is cut short, emptied, zeroed in part, or another.

    It costs a microsecond, so it sees one byte in 997.
    """
    return 0 if isinstance(stored, np.ndarray) else zlib.crc32(stored[::_MARK_STRIDE], len(stored) & 0xFFFFFFFF)
