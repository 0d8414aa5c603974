"""AdaScale's gain: hand-worked numbers, its bounds, and the published estimator in a plain loop (statement L6)."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.train.adascale import GainEstimate, usual_smoothing


def gain(gradients: np.ndarray, smoothing: float = 0.0) -> float:
    """The gain of one step, from the workers' gradients (W, P)."""
    num_workers, mean = len(gradients), gradients.mean(0)
    found = GainEstimate().updated(
        float((gradients**2).sum(1).mean()), float((mean**2).sum()), num_workers=num_workers, smoothing=smoothing
    )
    return found.gain(num_workers)


def test_without_noise_the_gain_is_1() -> None:
    assert gain(np.tile([[3.0, -4.0]], (8, 1))) == 1.0


def test_in_noise_alone_the_gain_is_the_number_of_workers() -> None:
    assert gain(np.array([[1.0], [-1.0], [1.0], [-1.0]])) == 4.0


def test_by_hand() -> None:
    """Gradients 1 and 3: mean 2, m = 5, g = 4; sigma^2 = 2 (5 - 4) = 2, mu^2 = 4 - 1 = 3; r = 5 / (1 + 3)."""
    assert gain(np.array([[1.0], [3.0]])) == 1.25


def test_one_worker_gains_1_whatever_its_gradient() -> None:
    assert GainEstimate().updated(7.0, 7.0, num_workers=1, smoothing=0.5).gain(1) == 1.0


def test_a_gradient_of_zero_gains_1() -> None:
    assert GainEstimate().updated(0.0, 0.0, num_workers=4, smoothing=0.9).gain(4) == 1.0
    assert GainEstimate().gain(4) == 1.0


@given(
    st.integers(2, 300),
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1)), min_size=1, max_size=20),
    st.floats(0, 0.999),
)
def test_the_gain_is_from_1_to_the_number_of_workers(
    num_workers: int, steps: list[tuple[float, float]], smoothing: float
) -> None:
    estimate = GainEstimate()
    for mean_square, share in steps:  # the square of a mean is at most the mean of the squares
        estimate = estimate.updated(mean_square, share * mean_square, num_workers=num_workers, smoothing=smoothing)
        assert 1.0 <= estimate.gain(num_workers) <= num_workers


@pytest.mark.parametrize("smoothing", [0.0, 0.9, 0.996])
def test_the_published_estimator_step_by_step(smoothing: float) -> None:
    """Moving averages of sigma^2 and mu^2, freed of the bias of their start, written out with plain loops."""
    rng = np.random.default_rng(0)
    num_workers, estimate, variances, squares = 5, GainEstimate(), [], []
    for _ in range(30):
        gradients = rng.normal(0.3, 1.0, (num_workers, 11))
        mean = [sum(row[p] for row in gradients) / num_workers for p in range(11)]
        scatter = sum((row[p] - mean[p]) ** 2 for row in gradients for p in range(11)) / (num_workers - 1)
        variances.append(scatter)
        squares.append(max(0.0, sum(value**2 for value in mean) - scatter / num_workers))
        weights = [(1 - smoothing) * smoothing**age for age in reversed(range(len(variances)))]
        var = math.fsum(w * v for w, v in zip(weights, variances, strict=True)) / math.fsum(weights)
        sqr = math.fsum(w * s for w, s in zip(weights, squares, strict=True)) / math.fsum(weights)
        expected = (var + sqr) / (var / num_workers + sqr)
        squared_norms = (gradients**2).sum(1)
        estimate = estimate.updated(
            float(squared_norms.mean()), float(np.square(mean).sum()), num_workers=num_workers, smoothing=smoothing
        )
        assert estimate.gain(num_workers) == pytest.approx(expected, rel=1e-10)


def test_usual_smoothing() -> None:
    assert [usual_smoothing(workers) for workers in (1, 40, 1000, 5000)] == [0.999, 0.96, 0.0, 0.0]
