"""Images of a store, decoded by any number of threads when they are asked for; small ones only once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.augment import Augmentation, Shifts, crop_box, crop_draws, shift_draws
from widestep.data.batched import normalised, padded, shifted
from widestep.data.decode import Picture, explaining, open_picture
from widestep.data.facts import DataFacts
from widestep.data.loading import Images, Loading
from widestep.data.resident import ResidentImages
from widestep.data.split import Split
from widestep.data.stores.store import ImageStore, Pixels
from widestep.data.views import centre_view, crop_view, usual_short_side
from widestep.errors import UsageError
from widestep.plan.randomness import U64

_IMAGES_PER_TASK = 8
_GIB = 1 << 30

View = Callable[[int, Picture, bool, Pixels], None]
"""Takes the place in the batch, the opened image, whether it was decoded before, and the array (size, size, 3) to fill."""


class PhotoSource:
    """Photographs of shape (3, size, size), float32, normalised with the constants of ImageNet.

    Image ids are those of the store. The decoder releases the interpreter's lock, so threads help; every image is computed
    alone, so their number changes no byte.

    The first time that an image is visited all of it is decoded strictly, so that damage shows; later, where it is faster,
    only what the crop needs.
    """

    def __init__(
        self,
        facts: DataFacts,
        store: ImageStore,
        augment: Augmentation,
        evaluation_resize: int | None,
        loading: Loading,
    ) -> None:
        self.facts = facts
        self.labels = torch.from_numpy(store.labels)
        self._store = store
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
        self._sound = np.zeros(num_images, dtype=bool)
        fits = ResidentImages.num_bytes(num_images, self._size) <= loading.gib_in_memory * _GIB
        self._resident = None
        if augment != "random-resized-crop" and fits:
            has_border = augment == "shift-flip"
            self._resident = ResidentImages(num_images, self._size, self._device, has_border=has_border)

    def split(self, seed: int) -> Split:
        """Return the split that the store makes, whatever the seed."""
        num_train, num_val = self.facts.num_train, self.facts.num_val
        return Split(np.arange(num_train), np.arange(num_train, num_train + num_val))

    def training_images(self, ids: NDArray[np.int64], keys: U64) -> Images:
        """Begin to load augmented images, shape (M, 3, size, size)."""
        if self._augment == "random-resized-crop":
            return _Photos(self, self._begin(ids, self._random_view(keys)))
        return self._whole(ids, shift_draws(keys) if self._augment == "shift-flip" else None)

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

    def _random_view(self, keys: U64) -> View:
        draws = crop_draws(keys)

        def view(place: int, picture: Picture, trusted: bool, out: Pixels) -> None:
            box = crop_box(draws, place, picture.width, picture.height)
            crop_view(picture.decode(box, trusted=trusted), bool(draws.flip[place]), out)

        return view

    def _begin(self, ids: NDArray[np.int64], view: View) -> Callable[[], Tensor]:
        """Start to decode; the returned function waits and hands over uint8 of shape (M, size, size, 3) in host memory."""
        images = torch.empty(len(ids), self._size, self._size, 3, dtype=torch.uint8, pin_memory=self._copies is not None)
        pixels = images.numpy()

        def fill(start: int) -> None:
            for place in range(start, min(start + _IMAGES_PER_TASK, len(ids))):
                image = int(ids[place])
                with explaining(self._store, image):
                    view(place, open_picture(self._store.read(image)), bool(self._sound[image]), pixels[place])
                self._sound[image] = True

        starts = range(0, len(ids), _IMAGES_PER_TASK)
        tasks: list[Callable[[], None]]
        if self._threads is None:
            tasks = [partial(fill, start) for start in starts]
        else:
            tasks = [self._threads.submit(fill, start).result for start in starts]

        def finish() -> Tensor:
            for task in tasks:
                task()
            return images

        return finish

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
class _Photos:
    """Images decoded for this once."""

    source: PhotoSource
    decoded: Callable[[], Tensor]
    shifts: Shifts | None = None

    def result(self) -> Tensor:
        images = self.source.to_device(self.decoded())
        if self.shifts is not None:
            images = shifted(padded(images), torch.arange(len(images), device=images.device), self.shifts)
        return normalised(images)


@dataclass(frozen=True)
class _Residents:
    """Images of a small data set, of which some may have to be decoded."""

    source: PhotoSource
    resident: ResidentImages
    ids: NDArray[np.int64]
    shifts: Shifts | None
    missing: NDArray[np.int64]
    decoded: Callable[[], Tensor]

    def result(self) -> Tensor:
        if len(self.missing):
            self.resident.put(self.missing, self.source.to_device(self.decoded()))
        return normalised(self.resident.get(self.ids, self.shifts))
