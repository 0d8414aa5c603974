"""What stands in for training images that do not decode, where the recipe says bad_images = skip.

A damaged training image is replaced by the next one, in the order of ids and from the last to the first, that decodes; its
label goes with it, the random part of the augmentation stays that of the id asked for. So a replacement is a function of the
data set alone: the same for any number of processes and threads, and after any interruption. A damaged validation image is
replaced by nothing, and left out of the counts.
"""

from collections.abc import Callable, Iterator, Sequence

from widestep.data.loading import NOTHING
from widestep.data.stores.store import ImageStore
from widestep.errors import DataError

_NUM_NAMED = 3


class StandIns:
    """The images of a store that were found damaged, and where to look on. Any number of threads may use this at once.

    Attributes
    ----------
    reasons
        What is wrong with an image, by its id.
    """

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self.reasons: dict[int, str] = {}
        self._further: dict[int, int] = {}
        """From a damaged image, how many ids on the next one is that was sound when it was last looked at."""

    def first_sound(self, image: int, decode: Callable[[int], None]) -> int:
        """Decode an image or what stands in for it; return the id of what was decoded, NOTHING without one.

        Parameters
        ----------
        decode
            Given an id, decodes that image, or raises DataError.

        Raises
        ------
        DataError
            When no training image at all decodes.
        """
        passed: list[tuple[int, int]] = []
        for candidate, distance in self._candidates(image):
            if candidate not in self.reasons:
                try:
                    decode(candidate)
                except DataError as error:
                    self.reasons[candidate] = str(error)
                else:
                    for damaged, before in passed:
                        self._further[damaged] = distance - before
                    return candidate
            passed.append((candidate, distance))
        if image >= self._store.num_train:
            return NOTHING
        raise DataError(
            f"At least one training image must decode. None of the {self._store.num_train:,} does, beginning with "
            f"{self._store.name(image)!r}: {self.reasons[image]}. Restore the data set."
        )

    def _candidates(self, image: int) -> Iterator[tuple[int, int]]:
        """Yield the ids that may take the place of an image, itself the first, and how far away each is."""
        if image >= self._store.num_train:
            yield image, 0
            return
        distance = 0
        while distance < self._store.num_train:
            candidate = (image + distance) % self._store.num_train
            yield candidate, distance
            distance += self._further.get(candidate, 1)


def described(damaged: Sequence[int], name: Callable[[int], str]) -> str:
    """Say in words how many images are damaged, and which are the first few."""
    names = ", ".join(repr(name(image)) for image in damaged[:_NUM_NAMED])
    more = f" and {len(damaged) - _NUM_NAMED:,} more" if len(damaged) > _NUM_NAMED else ""
    return f"{len(damaged):,} damaged image{'s' if len(damaged) > 1 else ''}: {names}{more}"
