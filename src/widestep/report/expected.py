"""How many runs a study that runs until decided will take, for differences of a given size."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from widestep.report.boundaries import nominal_level
from widestep.report.compared import cells_of
from widestep.study.sequential import Sequential
from widestep.study.study import Study

_NUM_DRAWS = 4000
_DRAWS_SEED = 20_170_608


def share_open(design: Sequential, num_seeds: int, share: float, ratio: float) -> NDArray[np.float64]:
    """Return the chance that a difference is still open after each look, shape (num_looks,).

    Parameters
    ----------
    share
        Error rate of the claim, for both directions together.
    ratio
        True mean of the paired differences in units of their standard deviation.
    """
    counts = design.counts(num_seeds)
    times = [count / num_seeds for count in counts]
    drawn = np.random.default_rng(_DRAWS_SEED).normal(ratio, 1.0, (_NUM_DRAWS, num_seeds))
    still = np.ones(_NUM_DRAWS, dtype=bool)
    found = []
    for look, count in enumerate(counts, start=1):
        seen = drawn[:, :count]
        t = np.abs(seen.mean(axis=1)) / (seen.std(axis=1, ddof=1) / np.sqrt(count)) if count > 1 else np.zeros(_NUM_DRAWS)
        level = nominal_level(share / 2, times[:look], counts[:look], design.spending) if count > 1 else 0.0
        still &= special.stdtr(max(count - 1, 1), -t) > level
        found.append(float(still.mean()))
    return np.array(found)


def expected_runs(study: Study, ratio: float) -> float:
    """Return how many runs a study that runs until decided takes on average, when every claim has a difference of one size.

    Claims are taken to be independent, and each to have its share of the error rate by Bonferroni's method, so that it is
    rather more than less.

    Parameters
    ----------
    ratio
        True mean of the paired differences of every claim in units of their standard deviation.
    """
    assert study.sequential is not None
    counts = np.array(study.sequential.counts(len(study.seeds)))
    still = share_open(study.sequential, len(study.seeds), (1 - study.level) / max(1, len(study.claims)), ratio)
    num_claims = _num_claims(study)
    steps = np.diff(counts)
    return float(sum(counts[0] + steps @ (1 - (1 - still[:-1]) ** num) for num in num_claims))


def _num_claims(study: Study) -> Sequence[int]:
    """Return for each different setting of a study how many claims compare it."""
    found = {cell.fingerprint(0): 0 for arm in study.arms for cell in study.cells(arm)}
    for claim in study.claims.values():
        for key in {cell.fingerprint(0) for cell in cells_of(study, claim)}:
            found[key] += 1
    return list(found.values())
