"""`widestep data bench`: how fast a data set loads here, what limits it, and how many cores feed a device."""

import json as json_module
import math
import os
from dataclasses import asdict

from widestep.data.facts import check_options, parse_store_spec, store_facts
from widestep.data.stores.open_store import open_store
from widestep.errors import UsageError


def bench_(
    data: str,
    *,
    image_size: int | None = None,
    augment: str = "random-resized-crop",
    threads: int | None = None,
    seconds: float = 10.0,
    feed: float | None = None,
    json: bool = False,
) -> int:
    """Load training images as training does, for a while, and say how fast and what limits it.

    `widestep bench` has how many images a second your devices compute; with --feed
    that number, you learn how many cores they need.

    For example:
      widestep data bench folder:/data/imagenet
      widestep data bench packed:/data/imagenet-256 --threads 8 --feed 3000

    Parameters
    ----------
    data
        The data set: folder:PATH, parquet:PATH, tar:PATH or packed:PATH.
    image_size
        Side of the images in pixels. Empty: 224, or their own when they are small.
    augment
        none, flip, shift-flip or random-resized-crop.
    threads
        That read and decode. Empty: one a core.
    seconds
        To measure for, after as long at most to warm up.
    feed
        Images a second that are wanted.
    json
        Print as JSON.
    """
    kind, path = parse_store_spec(data)
    check_options(data, None, image_size)
    num_threads = len(os.sched_getaffinity(0)) if threads is None else threads
    for option, given, smallest in (("--threads", num_threads, 0), ("--seconds", seconds, 0.001), ("--feed", feed, 0.001)):
        if given is not None and not smallest <= given < math.inf:
            raise UsageError(f"{option} must be a number of at least {smallest:g}. Got {given:g}.")
    from widestep.data.bench import measure
    from widestep.data.loading import Loading
    from widestep.data.source import known_augmentation

    chosen = known_augmentation(augment)
    store = open_store(kind, path)
    facts = store_facts(data, store, image_size)
    loading = Loading(num_threads=num_threads)
    found = measure(facts, store, augment=chosen, loading=loading, seconds=seconds)
    fed = {} if feed is None else {"feed": feed, "cores": found.cores_for(feed)}
    if json:
        rates = {"images_per_core_second": found.images_per_core_second, "limit": found.limit}
        print(json_module.dumps({"data": data, **asdict(found), **rates, **fed}, indent=2))
        return 0
    limit = {
        "memory": "images are decoded once and stay in memory",
        "reading": f"reading: {100 * found.reading_share:.0f} % of the threads' time; a faster disk or more threads help",
        "decoding": "decoding: more cores help, and `widestep data pack`",
    }[found.limit]
    if found.limit == "reading" and kind == "parquet":
        limit = "reading: an image's whole row group is decoded for it; `widestep data pack` makes that unnecessary"
    if found.limit == "decoding" and kind == "packed":
        limit = "decoding: more cores help, and packing as --store raw"
    print(f"data       {data}: {facts.num_train:,} training images, {found.stored_bytes:,.0f} bytes each")
    print(f"views      {facts.image_shape[1]} x {facts.image_shape[2]} pixels, {augment}")
    print(f"speed      {found.images_per_second:,.0f} images/s on {found.num_threads} thread(s)")
    print(f"cost       {found.core_microseconds:,.0f} microseconds of a core an image")
    print(f"a core     {found.images_per_core_second:,.0f} images/s")
    print(f"limit      {limit}")
    if feed is not None:
        print(f"cores      {fed['cores']:,} to feed {feed:,g} images/s")
    return 0
