"""Intervals and tests on plain arrays of paired differences, exact where a closed form or an enumeration exists.

Values that differ by rounding alone count as equal. Identical values have the interval [d, d] and no spread to compare
their mean with: accuracies are counts of images, so two or three seeds often agree by chance. What remains is that all of
them lie on one side, which has probability 2**-n where either side is as likely; tests then say that, and never p = 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

NUM_DRAWS = 4000
"""Bootstrap draws over seeds."""
FEWEST_FOR_BOOTSTRAP = 10
"""Values below which a bootstrap interval is known to be too narrow."""
_DRAWS_SEED = 20_170_608
_DECIMALS = 9


@dataclass(frozen=True)
class Estimate:
    """A mean over n values, with its t-interval and standard deviation where n is at least 2."""

    n: int
    mean: float
    low: float | None
    high: float | None
    sd: float | None


def mean_interval(values: ArrayLike, level: float) -> Estimate:
    """Return the mean of `values`, shape (n,) with n >= 1, and its Student t-interval.

    Notes
    -----
    mean -+ t(1/2 + level/2; n - 1) * sd / sqrt(n). One value has no interval.

    Examples
    --------
    >>> estimate = mean_interval([1.0, 2.0, 3.0], 0.95)
    >>> estimate.mean, round(estimate.high, 4)
    (2.0, 4.4841)
    """
    data = _clean(values)
    n = len(data)
    if n < 2:
        return Estimate(n, float(data[0]), None, None, None)
    mean, sd = _mean_and_sd(data)
    half = t_quantile(0.5 + level / 2, n - 1) * sd / math.sqrt(n)
    return Estimate(n, mean, mean - half, mean + half, sd)


def _mean_and_sd(data: NDArray[np.float64]) -> tuple[float, float]:
    """Return mean and standard deviation; equal values have exactly their value and 0."""
    if np.ptp(data) == 0:
        return float(data[0]), 0.0
    return float(data.mean()), float(data.std(ddof=1))


def t_quantile(share: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution."""
    return float(special.stdtrit(degrees, share))


def t_test(differences: ArrayLike) -> float:
    """Return the two-sided p of the paired t-test for differences of shape (n,), n >= 2; identical ones have 2**(1 - n)."""
    data = _clean(differences)
    mean, sd = _mean_and_sd(data)
    if sd == 0:
        return 1.0 if mean == 0 else 2.0 ** (1 - len(data))
    t = mean / (sd / math.sqrt(len(data)))
    return float(2 * special.stdtr(len(data) - 1, -abs(t)))


def wilcoxon(differences: ArrayLike) -> float:
    """Return the exact two-sided p of Wilcoxon's signed-rank test.

    Differences of zero are left out, equal sizes share their mean rank, and the distribution of the rank sum is
    enumerated for exactly these ranks; without any difference p is 1 [Wilcoxon 1945]. A difference may be infinite: a pair
    in which one side has no value because it failed. It has the largest rank, whatever the others are [Lachin 1999].

    Examples
    --------
    Six differences of one sign give the smallest p that six can give, 2 / 2**6:

    >>> wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    0.03125
    """
    positive, ranks = _signed_ranks(differences)
    share = rank_sums(tuple(sorted(ranks.tolist())))
    smaller = min(int(ranks[positive].sum()), int(ranks[~positive].sum()))
    return float(min(1.0, 2 * share[: smaller + 1].sum()))


def wilcoxon_above(differences: ArrayLike) -> float:
    """Return the exact one-sided p of Wilcoxon's test that differences are above 0; small when they are."""
    positive, ranks = _signed_ranks(differences)
    share = rank_sums(tuple(sorted(ranks.tolist())))
    return float(share[: int(ranks[~positive].sum()) + 1].sum())


def rank_direction(differences: ArrayLike) -> int:
    """Return the sign of the rank sum of Wilcoxon's test: 1 when it speaks for positive differences, -1 for negative."""
    positive, ranks = _signed_ranks(differences)
    return int(np.sign(ranks[positive].sum() - ranks[~positive].sum()))


def _signed_ranks(differences: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which differences are positive and the doubled ranks of their sizes, those of zero left out."""
    data = _clean(differences)
    data = data[data != 0]
    return data > 0, np.rint(2 * _mean_ranks(np.abs(data))).astype(np.int64)


@lru_cache(maxsize=512)
def rank_sums(doubled: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the probability of every sum of doubled ranks, 0 and up, when each is in it with probability one half."""
    total = sum(doubled)
    share = np.zeros(total + 1)
    share[0] = 1.0
    for rank in doubled:
        moved = np.zeros_like(share)
        moved[rank:] = share[: total + 1 - rank]
        share = (share + moved) / 2
    return share


def _mean_ranks(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray(((2 * last - counts + 1) / 2)[inverse], dtype=np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for testing all of them [Holm 1979], in the order given.

    Examples
    --------
    >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for position, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, (len(p_values) - position) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests: `p` of "the mean difference is at least the margin in size", with the matching interval.

    `beyond_p` is the two-sided p of the opposite, "the mean difference is at most the margin in size".
    """

    p: float
    low: float
    high: float
    beyond_p: float


def equivalence(differences: ArrayLike, margin: float, level: float) -> Equivalence:
    """Test that paired differences, shape (n,) with n >= 2, are smaller than a margin [Schuirmann 1987].

    Notes
    -----
    p is the larger of the p values of the t-tests of mean <= -margin and of mean >= margin. It is below 1 - level exactly
    when the interval of level 1 - 2 * (1 - level), which is returned, lies inside (-margin, margin). `beyond_p` is below
    1 - level exactly when the two-sided interval of `mean_interval` lies wholly on one side beyond the margin. Identical
    differences have p = 2**-n (beyond: 2**(1 - n)) when they lie on the side in question, else 1.
    """
    data = _clean(differences)
    n, (mean, sd) = len(data), _mean_and_sd(data)
    error = sd / math.sqrt(n)
    if error == 0:
        inside = abs(mean) < margin
        return Equivalence(2.0**-n if inside else 1.0, mean, mean, 1.0 if abs(mean) <= margin else 2.0 ** (1 - n))
    inner = float(special.stdtr(n - 1, (abs(mean) - margin) / error))
    outer = float(2 * special.stdtr(n - 1, (margin - abs(mean)) / error))
    half = t_quantile(level, n - 1) * error
    return Equivalence(inner, mean - half, mean + half, min(1.0, outer))


def bootstrap_interval(values: ArrayLike, level: float) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of the mean of values, shape (n,) [Efron 1987].

    Notes
    -----
    The quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z = Phi^-1((1 -+ level) / 2), of the means of `NUM_DRAWS` draws with
    replacement; z0 = Phi^-1(share of these means below the mean, those equal counting half) and a = sum d^3 / (6 (sum
    d^2)^1.5) with d = value - mean, which is the jackknife's estimate. The draws of each n are always the same.
    """
    data = _clean(values)
    mean, sd = _mean_and_sd(data)
    if sd == 0:
        return mean, mean
    means = np.sort(data[draws(len(data))].mean(axis=1))
    below = (np.searchsorted(means, mean, "left") + np.searchsorted(means, mean, "right")) / 2 / len(means)
    apart = data - data.mean()
    acceleration = float((apart**3).sum() / (6 * (apart**2).sum() ** 1.5))
    bias = float(special.ndtri(below))
    shifted = bias + special.ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(means, special.ndtr(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


@lru_cache(maxsize=64)
def draws(n: int) -> NDArray[np.int64]:
    """Return bootstrap draws of n values, shape (NUM_DRAWS, n)."""
    return np.random.default_rng(_DRAWS_SEED).integers(n, size=(NUM_DRAWS, n))


def minimum_detectable_difference(sd: float, n: int, level: float, power: float = 0.8) -> float:
    """Return the true mean difference that a two-sided paired t-test finds with the given power.

    Parameters
    ----------
    sd
        Standard deviation of the paired differences; the result has its unit.
    n
        Number of pairs, at least 2.

    Notes
    -----
    Solves P(T > t(1/2 + level/2; n - 1)) = power for T noncentral t with parameter difference * sqrt(n) / sd. Rejections
    on the wrong side (a share below 1e-6) do not count as finding the difference.

    Examples
    --------
    >>> [round(minimum_detectable_difference(0.5, n, 0.95), 2) for n in (3, 5, 10, 12, 20)]
    [1.63, 0.84, 0.5, 0.44, 0.33]
    """
    return sd * _detectable(n, level, power)


@lru_cache(maxsize=256)
def _detectable(n: int, level: float, power: float) -> float:
    critical = t_quantile(0.5 + level / 2, n - 1)

    def found(shift: float) -> float:
        return float(1 - special.nctdtr(n - 1, shift, critical))

    low, high = 0.0, 1.0
    while found(high) < power:
        low, high = high, 2 * high
    for _ in range(60):  # bisection: power grows with the shift
        middle = (low + high) / 2
        low, high = (middle, high) if found(middle) < power else (low, middle)
    return high / math.sqrt(n)


def fisher_exact(failed_first: int, num_first: int, failed_second: int, num_second: int) -> float:
    """Return the two-sided p of Fisher's exact test that two groups fail equally often.

    Examples
    --------
    Three of three against none of three, 2 / C(6, 3):

    >>> fisher_exact(3, 3, 0, 3)
    0.1
    """
    failed, everyone = failed_first + failed_second, num_first + num_second

    def weight(first: int) -> int:
        return math.comb(num_first, first) * math.comb(num_second, failed - first)

    observed = weight(failed_first)
    possible = [weight(first) for first in range(max(0, failed - num_second), min(failed, num_first) + 1)]
    return sum(one for one in possible if one <= observed) / math.comb(everyone, failed)


def _clean(values: ArrayLike) -> NDArray[np.float64]:
    """Return the values with rounding noise removed, so that equal accuracies compare equal."""
    rounded = np.array(values, dtype=np.float64)
    np.round(rounded, _DECIMALS, out=rounded)
    rounded[rounded == 0] = 0.0  # no negative zero
    return rounded
