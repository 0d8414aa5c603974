import hashlib
import statistics

import numpy as np
import pytest

from widestep.data import digits


def test_copy_is_the_published_one():
    pixels, labels = digits.load()
    assert pixels.shape == (1797, 8, 8)
    assert pixels.dtype == labels.dtype == np.uint8
    content = pixels.tobytes() + labels.tobytes()
    expected = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    assert hashlib.sha256(content).hexdigest() == expected == digits.load().fingerprint()


def test_class_counts_and_range():
    """The counts of the test part as its documentation gives them."""
    pixels, labels = digits.load()
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert sorted(set(pixels.ravel().tolist())) == list(range(17))


def test_equals_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    reference = datasets.load_digits()
    pixels, labels = digits.load()
    assert np.array_equal(pixels, reference.images)
    assert np.array_equal(labels, reference.target)


def test_constants_are_those_of_the_whole_set():
    values = [int(value) for value in digits.load().pixels.ravel()]
    assert round(statistics.fmean(values), 6) == digits.MEAN
    assert round(statistics.pstdev(values), 6) == digits.STD


def test_arrays_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        digits.load().pixels[0, 0, 0] = 1
