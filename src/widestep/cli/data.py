"""`widestep data`: look at a data set, pack it, and say which images a step takes. None of it needs torch."""

import json as json_module
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.text import Text

from widestep.cli.options import request
from widestep.cli.progress import duration, say
from widestep.data import digits
from widestep.data.facts import describe, parse_spec, parse_store_spec, spec_of
from widestep.data.split import stratified_split
from widestep.data.stores.folder_store import FolderStore
from widestep.data.stores.layout import scan_folder
from widestep.data.stores.open_store import open_store, require_there
from widestep.data.stores.store import ImageStore
from widestep.errors import DataError, UsageError
from widestep.plan.grid import WorkerGrid
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan

_PLAIN_SECONDS = 15.0
_LIVE_SECONDS = 0.2


def check_(
    data: str,
    *,
    hash: bool = False,
    record: Path | None = None,
    compare: Path | None = None,
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Look at every image of a data set: decode all of it strictly, name all that is damaged.

    Exit code 3 when an image is damaged, or not as recorded. Of a packed data set the
    checksums of all files are compared, too.

    For example:
      widestep data check folder:/data/flowers
      widestep data check folder:/data/flowers --record flowers.sha256
      widestep data check folder:/data/flowers --compare flowers.sha256
      widestep data check parquet:/data/cifar10 --hash --json

    Parameters
    ----------
    data
        The data set: folder:PATH, parquet:PATH, tar:PATH or packed:PATH.
    hash
        Print a SHA-256 over all labels and images, and find images that are there
        more than once.
    record
        Write the SHA-256 of every image into this new file.
    compare
        Name every image that is not as in this file, written by --record: bytes
        altered in place are seen by nothing else.
    threads
        That decode. Empty: one a core.
    json
        Print as JSON.
    """
    from widestep.cli.data_found import in_words, record_of
    from widestep.data.stores import contents
    from widestep.data.stores.check import Damage, check

    if record is not None:
        contents.check_unused(record)
    count, (store, problems) = _threads(threads), _opened_leniently(data)
    meter = _Meter("checked", len(store.labels))
    hashed = hash or record is not None or compare is not None
    try:
        found = check(store, count, hashed=hashed, progress=meter.advance)
    finally:
        meter.close()
        store.close()
    found.damaged[:0] = [Damage(None, name, reason) for name, reason in problems]
    if compare is not None:
        damaged = {damage.image for damage in found.damaged if damage.image is not None}
        differing = contents.compare(compare, data, store, found.digests)
        found.damaged.extend(Damage(*one) for one in differing if one[0] not in damaged)
    if json:
        print(json_module.dumps(record_of(data, store, found), indent=2))
    else:
        print("\n".join(in_words(data, store, found)))
    if found.damaged:
        unwritten = "" if record is None else f"; {str(record)!r} was not written"
        raise DataError(
            f"Every image of a data set must be whole. In {data} {len(found.damaged):,} are not (listed above), the first "
            f"is {found.damaged[0].name!r} ({found.damaged[0].reason}): restore or remove them; with --bad-images skip "
            f"training goes on without images that do not decode{unwritten}."
        )
    if record is not None:
        contents.record(record, data, store, found.digests)
    return 0


def pack_(
    data: str,
    out: Path,
    *,
    short_side: str = "256",
    store: str = "jpeg",
    quality: int = 90,
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Write a data set as a few large files that load several times as fast: packed:OUT.

    Images are made smaller once, and encoded so that a crop decodes only its rows.
    When it was stopped, the same command goes on.

    For example:
      widestep data pack folder:/data/imagenet /data/imagenet-256
      widestep data pack tar:/data/shards /data/whole --short-side original
      widestep data pack folder:/data/birds /fast/birds --short-side 160 --store raw

    Parameters
    ----------
    data
        The data set: folder:PATH, parquet:PATH, tar:PATH or packed:PATH.
    out
        The directory to write; there must be no other data in it.
    short_side
        Pixels of the short side; smaller images stay as they are. original: all do,
        so that training is the same to the byte.
    store
        jpeg, or raw: pixels, 10 times as large, that need no decoding.
    quality
        Of JPEG.
    threads
        That decode and encode. Empty: one a core.
    json
        Print as JSON.
    """
    from widestep.data.stores.pack import PackOptions, pack

    if short_side != "original" and not (short_side.isascii() and short_side.isdigit() and len(short_side) < 6):
        raise UsageError(f"--short-side is a number of pixels, or original. Got {short_side!r}.")
    if store not in ("jpeg", "raw"):
        raise UsageError(f"--store is jpeg or raw. Got {store!r}.")
    stored = "raw" if store == "raw" else "jpeg"
    options = PackOptions(None if short_side == "original" else int(short_side), stored, quality)  # type: ignore[arg-type]
    count, source = _threads(threads), _opened(data)
    meter = _Meter("packed", len(source.labels))
    try:
        done = pack(data, source, out, options, count, meter.advance)
    finally:
        meter.close()
        source.close()
    rate = (done.num_images - done.num_found_done) / max(done.seconds, 1e-9)
    spec = spec_of("packed", out)
    if json:
        print(json_module.dumps({"data": spec, **asdict(done), "images_per_second": rate}, indent=2))
        return 0
    print(f"packed     {spec}: {done.num_images:,} images, {done.num_bytes:,} bytes, {rate:,.0f} images/s")
    if done.num_found_done:
        print(f"           {done.num_found_done:,} of them were done before")
    print(f"           fingerprint {done.fingerprint}")
    return 0


def order_(*, recipe: str = "digits", epoch: int = 0, step: int = 0, json: bool = False, **fields: str) -> int:
    """Say which images every worker takes at a step, by id and name.

    Epochs count from 0, and so do the steps of each. The order follows from seed and
    epoch alone, whatever runs the workers.

    For example:
      widestep data order --recipe digits --epoch 3 --step 2
      widestep data order --recipe poster --data folder:PATH --grid 1x2x4 --json

    Parameters
    ----------
    recipe
        Name of a shipped recipe, or a TOML file.
    epoch
        Epoch, from 0.
    step
        Step of the epoch, from 0.
    json
        Print as JSON.
    fields
        Recipe fields by name, as in `widestep train`.
    """
    wanted = request(recipe, fields).recipe
    facts = describe(wanted.data, train_images=wanted.train_images, image_size=wanted.image_size)
    plan = RunPlan(wanted, facts.num_train)
    at, grid = _step_of_training(plan, epoch, step)
    ids, name = _names(wanted, facts.num_train)
    chosen = ids[plan.ids_at(at)]
    # Entry i*W + w is image i of worker w; a smaller last step leaves the last workers one image less.
    per_worker = [chosen[worker :: grid.num_workers].tolist() for worker in range(grid.num_workers)]
    if json:
        workers = [{"images": own, "names": [name(image) for image in own]} for own in per_worker]
        print(json_module.dumps({"epoch": epoch, "step": step, "step_of_training": at, "workers": workers}, indent=2))
        return 0
    print(f"epoch {epoch}, step {step} (step {at} of training): {len(chosen):,} images, {grid.num_workers} worker(s)")
    for worker, own in enumerate(per_worker):
        for place, image in enumerate(own):
            print(f"worker {worker:<5} image {place:<5} id {image:<9} {name(image)}")
    return 0


def _step_of_training(plan: RunPlan, epoch: int, step: int) -> tuple[int, WorkerGrid]:
    """Return the step as counted from the beginning of training, and the workers that take it."""
    if not 0 <= epoch < plan.num_epochs:
        raise UsageError(f"--epoch is from 0 to {plan.num_epochs - 1} in this training. Got {epoch}.")
    stage = next(stage for stage in reversed(plan.timeline.stages) if stage.first_epoch <= epoch)
    first = stage.first_step + (epoch - stage.first_epoch) * stage.shape.steps
    last = min(stage.shape.steps, plan.total_steps - first) - 1
    if not 0 <= step <= last:
        raise UsageError(f"--step is from 0 to {last} in epoch {epoch}. Got {step}.")
    return first + step, stage.shape.grid


def _names(recipe: Recipe, num_train: int) -> tuple[NDArray[np.int64], Callable[[int], str]]:
    """Return the ids of the training images in the order of the training set, and what images are called."""
    kind, path = parse_spec(recipe.data)
    if kind == "digits":
        split = stratified_split(digits.load()[1].astype(np.int64), num_train, recipe.seed)
        return split.train, lambda image: f"digit {image}"
    if kind == "imagenet":
        return np.arange(num_train), lambda image: f"training image {image}"
    return np.arange(num_train), open_store(kind, path).name


def _opened(spec: str) -> ImageStore:
    return open_store(*parse_store_spec(spec))


def _opened_leniently(spec: str) -> tuple[ImageStore, list[tuple[str, str]]]:
    """Open a data set; of folders, also return those that cannot be trained on and why, where the rest can be looked at."""
    kind, path = parse_store_spec(spec)
    problems: list[tuple[str, str]] = []
    if kind == "folder":
        require_there(kind, path)
        return FolderStore(scan_folder(path, problems)), problems
    return open_store(kind, path), problems


def _threads(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise UsageError(f"--threads is 1 or more. Got {asked}.")
    return asked or len(os.sched_getaffinity(0))


class _Meter:
    """Says how far a pass over all images is: one live line on a terminal, a plain line now and then elsewhere."""

    def __init__(self, verb: str, num_images: int) -> None:
        self._verb, self._num_images, self._num_done = verb, num_images, 0
        self._began = self._last = time.monotonic()
        self._live: Live | None = None
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
            self._live.start()

    def advance(self, num_images: int) -> None:
        """Count images that are done, and show it if it is time to."""
        self._num_done += num_images
        now = time.monotonic()
        if now - self._last < (_PLAIN_SECONDS if self._live is None else _LIVE_SECONDS):
            return
        self._last = now
        rate = self._num_done / (now - self._began)
        left = duration((self._num_images - self._num_done) / rate)
        line = f"{self._verb} {self._num_done:,} of {self._num_images:,} images, {rate:,.0f} images/s, left {left}"
        if self._live is None:
            say(line)
        else:
            self._live.update(Text(line), refresh=True)

    def close(self) -> None:
        """End the live line."""
        if self._live is not None:
            self._live.stop()
