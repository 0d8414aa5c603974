"""Images that come without a file: from a fixed seed, a pattern for every class and one for every image, with noise."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from widestep.data.augment import Augmentation
from widestep.data.facts import DataFacts
from widestep.data.loading import Computed, Images, Loading, to_device
from widestep.data.photo_source import PhotoSource
from widestep.data.source import ImageSource
from widestep.data.split import Split

NUM_CLASSES = 10
_DRAWN_AT_ONCE = 256
_CPU = torch.device("cpu")


class DrawnImages:
    """A coarse pattern for every class and one for every image, with noise, from a fixed seed: an `ImageSource`."""

    def __init__(self, image_shape: tuple[int, int, int], num_images: int, device: torch.device = _CPU) -> None:
        generator = torch.Generator().manual_seed(0)
        self.facts = DataFacts("drawn", num_images, 0, NUM_CLASSES, image_shape, "drawn")
        self.labels = torch.arange(num_images) % NUM_CLASSES
        channels, *sides = image_shape
        classes = torch.randn(NUM_CLASSES, channels, 4, 4, generator=generator)
        self.images = torch.empty(num_images, *image_shape, device=device)
        for start in range(0, num_images, _DRAWN_AT_ONCE):  # so that drawing takes no more memory than what is drawn
            labels = self.labels[start : start + _DRAWN_AT_ONCE]
            coarse = classes[labels] + torch.randn(len(labels), channels, 4, 4, generator=generator)
            noise = torch.randn(len(labels), *image_shape, generator=generator)
            patterns = F.interpolate(coarse, size=sides, mode="bilinear")
            self.images[start : start + len(labels)] = patterns.add_(noise, alpha=0.25)

    def split(self, seed: int) -> Split:
        """Return all images as training images."""
        return Split(np.arange(self.facts.num_train), np.arange(0))

    def training_images(self, ids: NDArray[np.int64], keys: NDArray[np.uint64]) -> Images:
        """Return images as they are."""
        return self.evaluation_images(ids)

    def evaluation_images(self, ids: NDArray[np.int64]) -> Images:
        """Return images as they are."""
        index = to_device(torch.from_numpy(np.array(ids)), self.images.device)
        return Computed(lambda: self.images.index_select(0, index))

    def close(self) -> None:
        """Release nothing."""


class DrawnPixels:
    """Drawn photographs as the pixels of a store: an `ImageStore`."""

    def __init__(self, side: int, num_images: int) -> None:
        drawn = DrawnImages((3, side, side), num_images)
        self.classes = tuple(map(str, range(NUM_CLASSES)))
        self.num_train, self.num_val = num_images, 0
        self.labels: NDArray[np.int64] = drawn.labels.numpy()
        self.fingerprint = "drawn"
        self._pixels: NDArray[np.uint8] = (128 + 40 * drawn.images).clamp_(0, 255).byte().permute(0, 2, 3, 1).numpy()

    def read(self, image: int) -> NDArray[np.uint8]:
        """Return an image's pixels, (side, side, 3)."""
        return np.ascontiguousarray(self._pixels[image])

    def name(self, image: int) -> str:
        """Return the number of an image."""
        return f"drawn image {image}"

    def close(self) -> None:
        """Release nothing."""


def drawn_source(
    image_shape: tuple[int, int, int], num_images: int, device: torch.device = _CPU, augment: Augmentation = "none"
) -> ImageSource:
    """Return drawn images as training meets them: with three channels, bytes on the device, normalised at every visit."""
    channels, side, _ = image_shape
    if channels != 3:
        return DrawnImages(image_shape, num_images, device)
    facts = DataFacts("drawn", num_images, 0, NUM_CLASSES, image_shape, "drawn")
    return PhotoSource(facts, DrawnPixels(side, num_images), augment, side, Loading(device))
