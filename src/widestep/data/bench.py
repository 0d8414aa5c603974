"""How fast a data set loads on this machine, and what limits it."""

import math
import os
import time
from dataclasses import dataclass

import numpy as np

from widestep.data.augment import Augmentation
from widestep.data.facts import DataFacts
from widestep.data.loading import Loading
from widestep.data.photo_source import PhotoSource
from widestep.data.stores.store import ImageStore, Pixels
from widestep.plan.randomness import Stream

_IMAGES_PER_BATCH = 128


@dataclass(frozen=True)
class LoadingSpeed:
    """What was measured.

    Parameters
    ----------
    num_images
        Images loaded, some perhaps more than once.
    num_threads
        Threads that loaded them.
    images_per_second
        Of all threads, by the wall clock.
    core_microseconds
        Processor time an image, of all threads: reading, decoding, augmenting and normalising.
    stored_bytes
        Mean size of an image in the store.
    reading_share
        Share of the threads' time in which they read.
    stays_in_memory
        Whether images are decoded only once, and that was before.
    """

    num_images: int
    num_threads: int
    images_per_second: float
    core_microseconds: float
    stored_bytes: float
    reading_share: float
    stays_in_memory: bool

    @property
    def images_per_core_second(self) -> float:
        """Images that one busy core loads in a second."""
        return 1e6 / self.core_microseconds

    @property
    def limit(self) -> str:
        """What most of the time goes into: `memory` (images are decoded already), `reading` or `decoding`."""
        if self.stays_in_memory:
            return "memory"
        return "reading" if self.reading_share > 0.5 else "decoding"

    def cores_for(self, images_per_second: float) -> int:
        """Return how many cores feed a device that computes so many images a second."""
        return math.ceil(images_per_second / self.images_per_core_second)


class _Timed:
    """A store that remembers how long reading took and how much was read."""

    def __init__(self, store: ImageStore) -> None:
        self.classes, self.labels, self.fingerprint = store.classes, store.labels, store.fingerprint
        self.num_train, self.num_val = store.num_train, store.num_val
        self.name, self.close = store.name, store.close
        self.reads: list[tuple[float, int]] = []
        """Seconds and bytes of every read; a list, because appending to it is safe in any thread."""
        self._store = store

    def read(self, image: int) -> bytes | Pixels:
        began = time.perf_counter()
        stored = self._store.read(image)
        size = len(stored) if isinstance(stored, bytes) else stored.nbytes
        self.reads.append((time.perf_counter() - began, size))
        return stored


def measure(
    facts: DataFacts,
    store: ImageStore,
    *,
    augment: Augmentation = "random-resized-crop",
    evaluation_resize: int | None = None,
    loading: Loading,
    seconds: float = 10.0,
) -> LoadingSpeed:
    """Load training images in random order, as in training, for about so many seconds.

    Before that, and not counted, images are loaded for at most as long again, one epoch at most: the first visit of an image
    takes longer than later ones.
    """
    timed = _Timed(store)
    source = PhotoSource(facts, timed, augment, evaluation_resize, loading)
    try:
        _load(source, 0, seconds)
        size = float(np.mean([size for _, size in timed.reads]))
        timed.reads.clear()
        began, used, num_images, epoch = time.perf_counter(), time.process_time(), 0, 0
        while (left := seconds - (time.perf_counter() - began)) > 0:
            epoch += 1
            num_images += _load(source, epoch, left)
        elapsed, used = time.perf_counter() - began, time.process_time() - used
        num_threads = max(loading.num_threads, 1)
        share = sum(spent for spent, _ in timed.reads) / (elapsed * min(num_threads, len(os.sched_getaffinity(0))))
        cost = used / num_images * 1e6
        return LoadingSpeed(
            num_images, num_threads, num_images / elapsed, cost, size, min(share, 1.0), source.stays_in_memory
        )
    finally:
        source.close()


def _load(source: PhotoSource, epoch: int, seconds: float) -> int:
    """Load an epoch, the next batch always under way, or what there is time for; return the number of images."""
    train = source.split(0).train
    ids = train[Stream(0, "order").permutation(len(train), epoch)]
    augment, deadline = Stream(0, "augment"), time.perf_counter() + seconds
    parts = [ids[start : start + _IMAGES_PER_BATCH] for start in range(0, len(ids), _IMAGES_PER_BATCH)]
    following = source.training_images(parts[0], augment.keys(parts[0], epoch))
    num_images = 0
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        images = following
        if after is not None:
            following = source.training_images(after, augment.keys(after, epoch))
        images.result()
        num_images += len(part)
        if time.perf_counter() > deadline:
            break
    return num_images
