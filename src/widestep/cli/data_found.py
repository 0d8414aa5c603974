"""What `widestep data check` found, in words and as plain values."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widestep.data.stores.check import CheckReport, equal_images, equal_names
from widestep.data.stores.store import ImageStore

_NUM_CLASSES_SHOWN = 20


def record_of(data: str, store: ImageStore, found: CheckReport) -> dict[str, Any]:
    """Return what was found as plain values."""
    per_class = [_per_class(store, part) for part in _parts(store)]
    damaged = _per_class(store, _damaged_labels(store, found))
    same = equal_images(store, found.digests)
    return {
        **{"data": data, "num_train": store.num_train, "num_val": store.num_val, "fingerprint": store.fingerprint},
        "classes": [
            {"name": name, "train": int(train), "val": int(val)}
            for name, train, val in zip(store.classes, *per_class, strict=True)
        ],
        **{name: _spread(values) for name, values in _sizes(found).items()},
        **{"formats": found.formats, "num_slow": found.num_slow, "content_sha256": found.content},
        "equal_names": equal_names(store),
        "equal_images": [[store.name(one), store.name(other)] for one, other in same.pairs] if found.digests else None,
        "damaged": [asdict(damage) for damage in found.damaged],
        "damaged_by_class": {store.classes[label]: int(damaged[label]) for label in np.flatnonzero(damaged)},
    }


def in_words(data: str, store: ImageStore, found: CheckReport) -> Iterator[str]:
    """Yield what was found, line by line, without characters that a terminal would obey."""
    for line in _lines(data, store, found):
        yield "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line)


def _lines(data: str, store: ImageStore, found: CheckReport) -> Iterator[str]:
    yield f"data       {data}: {store.num_train:,} training and {store.num_val:,} validation images"
    yield f"           fingerprint {store.fingerprint}"
    yield f"classes    {len(store.classes):,}; training images a class: {_words(_per_class(store, _parts(store)[0]))}"
    absent = [name for name, val in zip(store.classes, _per_class(store, _parts(store)[1]), strict=True) if not val]
    if absent:
        yield f"           {len(absent):,} without validation images: {_few(absent)}"
    for name, values in _sizes(found).items():
        yield f"{name:<10} {_words(values)}"
    slow = f"; {found.num_slow:,} only Pillow decodes, which is slower" if found.num_slow else ""
    yield f"formats    {', '.join(f'{name} {number:,}' for name, number in found.formats.items()) or 'none'}{slow}"
    if found.content is not None:
        yield f"content    {found.content}"
    alike = equal_names(store)
    if alike:
        yield f"names      {len(alike):,} differ from another by letter case alone: {_few([other for _, other in alike])}"
    same = equal_images(store, found.digests)
    if same.pairs:
        yield (
            f"copies     {len(same.pairs):,} images are byte for byte an earlier one, {same.num_relabelled:,} with another "
            f"label, {same.num_across:,} validate what trains: {_few([store.name(copy) for _, copy in same.pairs])}"
        )
    yield f"damaged    {len(found.damaged):,}"
    for damage in found.damaged:
        yield f"  {damage.name}: {damage.reason}"
    counts = _per_class(store, _damaged_labels(store, found))
    if counts.any():
        worst = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
        shown = ", ".join(f"{store.classes[label]} {counts[label]:,}" for label in worst[:_NUM_CLASSES_SHOWN])
        yield f"           by class: {shown}{', ...' if len(worst) > _NUM_CLASSES_SHOWN else ''}"


def _sizes(found: CheckReport) -> dict[str, NDArray[np.int64]]:
    return {"bytes": found.num_bytes, "height": found.heights, "width": found.widths}


def _damaged_labels(store: ImageStore, found: CheckReport) -> NDArray[np.int64]:
    return store.labels[[damage.image for damage in found.damaged if damage.image is not None]]


def _per_class(store: ImageStore, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(labels, minlength=len(store.classes)).astype(np.int64)


def _few(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _parts(store: ImageStore) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return store.labels[: store.num_train], store.labels[store.num_train :]


def _spread(values: NDArray[np.int64]) -> dict[str, Any] | None:
    if not len(values):
        return None
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def _words(values: NDArray[np.int64]) -> str:
    spread = _spread(values)
    return "none" if spread is None else f"{spread['min']:,} to {spread['max']:,}, median {spread['median']:,g}"
