"""What `data bench` says of loading is what a clock and a slow part of it make true."""

import numpy as np
import pytest

from widestep.data import bench, photo_source
from widestep.data.facts import store_facts
from widestep.data.loading import Loading


class Clock:
    """Clocks that stand still unless somebody spends time, waiting or working."""

    def __init__(self):
        self.waited = self.worked = 0.0

    def perf_counter(self):
        return self.waited + self.worked

    def process_time(self):
        return self.worked


class Store:
    """Ten photographs of which each takes a second to read."""

    classes, num_train, num_val, fingerprint = ("a", "b"), 8, 2, "0" * 64
    labels = np.arange(10) % 2

    def __init__(self, picture, clock):
        self.pixels, self.clock, self.closed = picture(40, 30), clock, False

    def read(self, image):
        self.clock.waited += 1.0
        return self.pixels

    def name(self, image):
        return str(image)

    def close(self):
        self.closed = True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    return clock


@pytest.fixture
def measured(monkeypatch, clock, picture):
    """Let every image take so many seconds of work, and measure for 100 seconds."""

    def measure(work, num_threads=0, augment="random-resized-crop"):
        view = photo_source.crop_view

        def slow_view(pixels, out):
            clock.worked += work
            view(pixels, out)

        monkeypatch.setattr(photo_source, "crop_view", slow_view)
        store = Store(picture, clock)
        facts = store_facts("folder:x", store, 16)
        loading = Loading(num_threads=num_threads, gib_in_memory=1.0)
        found = bench.measure(facts, store, augment=augment, loading=loading, seconds=100.0)
        assert store.closed
        return found

    return measure


@pytest.mark.parametrize(("work", "limit"), [(3.0, "decoding"), (0.25, "reading")])
def test_speed_and_limit_of_a_known_store(measured, work, limit):
    found = measured(work)
    assert found.images_per_second == pytest.approx(1 / (1 + work))
    assert found.core_microseconds == pytest.approx(work * 1e6)
    assert found.images_per_core_second == pytest.approx(1 / work)
    assert found.stored_bytes == 40 * 30 * 3
    assert found.reading_share == pytest.approx(1 / (1 + work))
    assert (found.limit, found.num_threads, found.stays_in_memory) == (limit, 1, False)
    assert found.num_images % 8 == 0  # whole epochs: a batch holds all eight images
    assert found.num_images * (1 + work) >= 100


def test_cores_that_feed_a_device(measured):
    """An image takes a quarter of a second of a core: four a second for each."""
    found = measured(0.25)
    assert [found.cores_for(speed) for speed in (0.1, 4.0, 4.1, 3000.0)] == [1, 1, 2, 750]
