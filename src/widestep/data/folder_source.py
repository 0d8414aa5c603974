"""Images in folders, decoded when they are asked for, by any number of threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.augment import Augmentation, crop_boxes, crop_draws, shift_flip
from widestep.data.decode import Pixels, read_image
from widestep.data.facts import DataFacts
from widestep.data.layout import FolderLayout
from widestep.data.split import Split
from widestep.data.views import centre_view, crop_view, normalise, shifted_view
from widestep.plan.randomness import U64

View = Callable[[int, Pixels], Pixels]
"""From the place in the batch and the decoded image to the pixels that the network sees."""


class FolderSource:
    """Photographs of shape (3, size, size), float32, normalised with the constants of ImageNet.

    Image ids 0..n-1 are the training images, n..n+v-1 the validation images, each in the order of the layout. The
    decoder releases the interpreter's lock, so threads help; every image is computed alone, so their number changes no
    byte.
    """

    def __init__(self, facts: DataFacts, layout: FolderLayout, augment: Augmentation, num_threads: int) -> None:
        self.facts = facts
        self.labels = torch.from_numpy(np.concatenate([layout.train.labels, layout.val.labels]))
        self._layout = layout
        self._augment = augment
        self._size = facts.image_shape[1]
        self._threads = ThreadPoolExecutor(num_threads, "widestep-decode") if num_threads else None

    def split(self, seed: int) -> Split:
        """Return the split that the folders make, whatever the seed."""
        num_train, num_val = self.facts.num_train, self.facts.num_val
        return Split(np.arange(num_train), np.arange(num_train, num_train + num_val))

    def training_images(self, ids: NDArray[np.int64], keys: U64) -> Tensor:
        """Return augmented images, float32, shape (M, 3, size, size).

        Raises
        ------
        DataError
            When a file is missing or damaged: the first such in the order of `ids`.
        """
        size = self._size
        if self._augment == "none":
            return self.evaluation_images(ids)
        if self._augment == "shift-flip":
            rows, columns = shift_flip(keys, size, size)
            return self._batch(ids, lambda m, pixels: shifted_view(centre_view(pixels, size), rows[m], columns[m]))
        draws = crop_draws(keys)

        def random_view(place: int, pixels: Pixels) -> Pixels:
            height, width = pixels.shape[:2]
            box = crop_boxes(draws.image(place), np.array([width]), np.array([height]))[0]
            return crop_view(pixels, box, bool(draws.flip[place]), size)

        return self._batch(ids, random_view)

    def evaluation_images(self, ids: NDArray[np.int64]) -> Tensor:
        """Return the centres of the images, float32, shape (M, 3, size, size); raises DataError as above."""
        return self._batch(ids, lambda _, pixels: centre_view(pixels, self._size))

    def close(self) -> None:
        """End the threads; further images can then not be asked for."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def _batch(self, ids: NDArray[np.int64], view: View) -> Tensor:
        batch = np.empty((len(ids), *self.facts.image_shape), dtype=np.float32)

        def place(m: int) -> None:
            train, val = self._layout.train, self._layout.val
            image = int(ids[m])
            path = train.path(image) if image < len(train) else val.path(image - len(train))
            normalise(view(m, read_image(path)), out=batch[m])

        places = range(len(ids))
        for _ in map(place, places) if self._threads is None else self._threads.map(place, places):
            pass
        return torch.from_numpy(batch)
