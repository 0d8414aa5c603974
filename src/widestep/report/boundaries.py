"""Group-sequential t-tests: how small p must be at each look so that all looks together keep one error rate.

An error rate is spent over the looks by a function of the part of the seeds that has run [Lan and DeMets 1983]. At a look
the one-sided p of a t-test is compared with a nominal level. Levels follow from the joint distribution of these p values
under the null hypothesis, which is found exactly, for normal differences whose spread is not known: boundaries for a known
spread would be crossed up to a quarter too often with the few pairs of a study.

Notes
-----
Of n differences x only their direction matters: u = sum(x) / sqrt(n sum(x^2)) gives t = u sqrt((n - 1) / (1 - u^2)). Under
the null hypothesis u does not depend on sum(x^2) (directions are independent of lengths), so u at the looks is a Markov
chain. From n pairs at u to n + m pairs:

    u' = (sqrt(n) u b + sqrt(m) X) / sqrt((n + m) (1 + X^2))

with b^2 from Beta(n / 2, (m - 1) / 2), X = T / sqrt(d) and T from Student's t with d = n + m - 1 degrees of freedom. With
X = tan(phi), u' > c is an interval of phi. The chain is kept as masses in narrow bins of the normal score of p.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Numbers = NDArray[np.float64]

_EDGES = np.linspace(-6.5, 9.5, 321)
"""Edges of the bins of the normal score; at the first look a share of 4e-11 lies below."""
_CENTRES = (_EDGES[1:] + _EDGES[:-1]) / 2
_NUM_NODES = 24
_NUM_ANGLES = 8001
_SHARES = tuple(float(share) for share in np.geomspace(0.5, 1e-9, 61))
"""Error rates, largest first, for which boundaries are tabulated; between them their normal scores are interpolated."""


def obrien_fleming(share: Numbers, time: float) -> Numbers:
    """Return the error spent by `time`, in (0, 1], of one-sided error rates: little at first [Lan and DeMets 1983].

    Notes
    -----
    2 - 2 Phi(z / sqrt(time)) with Phi(z) = 1 - share / 2; its boundaries are close to those of O'Brien and Fleming (1979).
    """
    return np.asarray(2 * special.ndtr(special.ndtri(share / 2) / math.sqrt(time)))


def pocock(share: Numbers, time: float) -> Numbers:
    """Return the error spent by `time` as share * ln(1 + (e - 1) time): nearly equal levels at all looks.

    Its boundaries are close to those of Pocock (1977) [Lan and DeMets 1983].
    """
    return share * math.log1p((math.e - 1) * time)


SPENDING: dict[str, Callable[[Numbers, float], Numbers]] = {"obrien-fleming": obrien_fleming, "pocock": pocock}
"""Spending functions by the name that a study file gives them."""


@lru_cache(maxsize=64)
def _transition(before: int, after: int) -> Numbers:
    """Return the chance to get from each bin with `before` pairs to each with `after`, shape (num_bins, num_bins)."""
    more, degrees = after - before, after - 1
    if more == 1:
        shrink, weights = np.ones(1), np.ones(1)
    else:
        places, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
        shrink, weights = np.sqrt(special.betaincinv(before / 2, (more - 1) / 2, (places + 1) / 2)), weights / 2
    angles = np.linspace(-math.pi / 2, math.pi / 2, _NUM_ANGLES)
    share_below = special.stdtr(degrees, math.sqrt(degrees) * np.tan(angles))
    share_below[0], share_below[-1] = 0.0, 1.0
    limit = math.sqrt(after) * _direction(_EDGES[1:-1], after)[None, :]
    above = np.zeros((len(_CENTRES), len(_EDGES) - 2))
    for factor, weight in zip(shrink, weights, strict=True):
        start = math.sqrt(before) * _direction(_CENTRES, before)[:, None] * factor
        reach = np.sqrt(start**2 + more)
        half = np.arccos(np.clip(limit / reach, -1.0, 1.0))
        middle = np.arctan2(math.sqrt(more), start)
        low, high = (np.clip(middle + side * half, -math.pi / 2, math.pi / 2) for side in (-1, 1))
        flip = low > 0  # small shares near pi / 2 are differences of numbers near 0, not near 1
        low, high = np.where(flip, -high, low), np.where(flip, -low, high)
        above += weight * (np.interp(high, angles, share_below) - np.interp(low, angles, share_below))
    all_above = np.pad(above, ((0, 0), (1, 1)), constant_values=((0, 0), (1.0, 0.0)))
    return np.maximum(all_above[:, :-1] - all_above[:, 1:], 0.0)


def _direction(score: Numbers, count: int) -> Numbers:
    """Return u of n pairs whose one-sided p has a normal score."""
    t = -np.sign(score) * special.stdtrit(count - 1, special.ndtr(-np.abs(score)))
    return np.asarray(t / np.sqrt(t**2 + count - 1))


@lru_cache(maxsize=512)
def _walk(
    shares: tuple[float, ...], times: tuple[float, ...], counts: tuple[int, ...], spending: str
) -> tuple[Numbers, Numbers]:
    """Return the boundary at the last look, shape (num_shares,), and the masses below it, (num_shares, num_bins)."""
    spend = SPENDING[spending]
    sizes = np.array(shares)
    if len(times) == 1:
        mass = np.tile(-np.diff(special.ndtr(-_EDGES)), (len(sizes), 1))
        increment = spend(sizes, times[0])
    else:
        mass = _walk(shares, times[:-1], counts[:-1], spending)[1] @ _transition(counts[-2], counts[-1])
        increment = spend(sizes, times[-1]) - spend(sizes, times[-2])
    boundary = np.array([_crossed_by(*pair) for pair in zip(mass, increment, strict=True)])
    kept = np.clip((boundary[:, None] - _EDGES[None, :-1]) / np.diff(_EDGES)[None, :], 0.0, 1.0)
    return boundary, mass * kept


def _crossed_by(mass: Numbers, spent: float) -> float:
    """Return the score above which a part `spent` of all paths lies; inf where there is none."""
    above = np.cumsum(mass[::-1])  # rising, while the edges fall
    known = above > 0
    if spent <= 0 or not known.any():
        return math.inf
    return float(np.interp(math.log(spent), np.log(above[known]), _EDGES[:-1][::-1][known], left=math.inf))


def scores(share: float, times: Sequence[float], counts: Sequence[int], spending: str) -> list[float]:
    """Return the normal score of p at each look above which a one-sided test of size `share` shows a difference.

    Parameters
    ----------
    times
        Part of the seeds that has run at each look, rising, at most 1.
    counts
        Pairs at each look, rising, at least 2.

    Examples
    --------
    With many pairs these are the published boundaries for a known spread, 4.877, 3.357, 2.680, 2.290 and 2.031:

    >>> many = [2000, 4000, 6000, 8000, 10000]
    >>> [round(score, 2) for score in scores(0.025, [0.2, 0.4, 0.6, 0.8, 1.0], many, "obrien-fleming")]
    [4.88, 3.36, 2.68, 2.29, 2.03]
    """
    looks = range(1, len(times) + 1)
    return [float(_walk((share,), tuple(times[:k]), tuple(counts[:k]), spending)[0][0]) for k in looks]


def nominal_level(share: float, times: Sequence[float], counts: Sequence[int], spending: str) -> float:
    """Return the one-sided level at the last look of a test of size `share`; 0 where nothing can be shown yet."""
    return float(special.ndtr(-scores(share, times, counts, spending)[-1]))


def sequential_p(p_values: Sequence[float], times: Sequence[float], counts: Sequence[int], spending: str) -> float:
    """Return the smallest error rate at which a one-sided test has shown a difference at one of the looks.

    Under the null hypothesis it is below any x with a probability of at most x, whenever the looks end, so it goes
    wherever a p value goes, for example into Holm's method [Liu and Anderson 2008; Maurer and Bretz 2013]. It is 1 where no
    error rate up to 0.5 would do, and not told below 1e-9.

    Parameters
    ----------
    p_values
        One-sided p of the t-test at each look so far.
    """
    smallest = 1.0
    for look, p in enumerate(p_values, start=1):
        boundary = np.maximum.accumulate(_walk(_SHARES, tuple(times[:look]), tuple(counts[:look]), spending)[0])
        score, finite = -float(special.ndtri(max(p, 1e-300))), np.isfinite(boundary)
        if finite.any() and score >= boundary[0]:
            shown = float(np.interp(score, boundary[finite], -special.ndtri(np.array(_SHARES)[finite])))
            smallest = min(smallest, float(special.ndtr(-shown)))
    return smallest
