"""What a number of seeds can show: the difference found four times in five, and the seeds that the margin needs.

Power is that of the rule that `verdicts` applies, for normal differences of a given standard deviation: the exact rank test
(from six pairs on, else the paired t-test) at the level that is left when no other claim of the study is decided, and a
t-interval that excludes 0. It is found by simulation, with the same draws every time. Of a study that runs until decided it
is that of the t-test on all its seeds, which several looks come close to.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widestep.plan.plain import plain
from widestep.report.compared import comparisons_of
from widestep.report.comparisons import FEWEST_FOR_RANKS, Comparison
from widestep.report.results import StudyResults, setting_unit
from widestep.report.statistics import rank_sums, t_quantile
from widestep.study.study import Claim, Study

POWER = 0.8
MOST_SEEDS = 1000
"""Numbers of seeds above this are not looked for."""
_FEWEST_PAIRS = 3
_MOST_RANKED = 48
"""Seeds up to which ranks are simulated; from there on a rank test is a t-test with 3 / pi times the seeds [Pitman]."""
_DRAWS = 2500
_DRAWS_SEED = 20_170_608

MEASURED_SD = {
    ("digits-resnet", "points"): (2.5, "the median over 7 comparisons of poster-digits at 320 images a step, 12 seeds"),
    ("digits-resnet", "epochs"): (3.8, "the best warmup at 320 against 80 images a step of poster-digits, 12 seeds"),
    ("resnet50", "points"): (0.15, "ImageNet runs of Goyal et al. 2017, 5 a side with sd 0.12 and 0.09"),
}
"""Standard deviation of paired differences by model and unit, where no study of the user's own tells, and its origin."""


@dataclass(frozen=True)
class Spread:
    """A standard deviation of paired differences and where it was measured."""

    sd: float
    origin: str


@dataclass(frozen=True)
class ClaimPower:
    """What the seeds of a study can show of one claim.

    Parameters
    ----------
    sd, origin
        Standard deviation of paired differences in `unit`; None when nothing is known, and the numbers are multiples of it.
    level
        Error probability that is left for this claim's test, of one comparison, while no other claim is decided.
    detectable
        True difference that is shown with 80 % probability; None when this many seeds cannot show any, or the claim is of
        equality.
    needs_others
        Whether these seeds can decide the claim once other claims are decided, but not before.
    equality
        Probability that equality within the margin is shown when there is no difference; None without an sd.
    seeds_for_margin
        Seeds that show a true difference of the margin (of a claim of equality: that show equality when there is no
        difference) with 80 % probability; None when more than `MOST_SEEDS`, or without an sd or a margin in this unit.
    """

    claim: str
    kind: str
    n: int
    unit: str
    margin: float
    level: float
    sd: float | None
    origin: str
    detectable: float | None
    needs_others: bool
    equality: float | None
    seeds_for_margin: int | None

    def record(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """The same in words."""
        given = f"given sd {self.sd:.2g} ({self.origin})" if self.sd is not None else self.origin
        if self.kind == "equivalent":
            return f"{self._equality_words()}; {given}"
        if self.detectable is None:
            until = " before another one is decided" if self.needs_others else ""
            return f"{self.n} seeds cannot decide this claim{until}, however large the difference"
        size = f"{self.detectable:.2g} {self.unit}" if self.sd is not None else f"{self.detectable:.2g} standard deviations"
        words = f"{self.n} seeds see {size}{',' if self.sd is not None else ';'} {given}"
        return f"{words}; {self.margin:g} points need {self._seeds()}" if self.sd and self.unit == "points" else words

    def _equality_words(self) -> str:
        if self.equality is None:
            return f"how often {self.n} seeds show equality within {self.margin:g} points depends on an sd"
        return (
            f"{self.n} seeds show equality within {self.margin:g} points, where it is so, in {100 * self.equality:.0f} % of "
            f"studies; 80 % need {self._seeds()}"
        )

    def _seeds(self) -> str:
        return f"more than {MOST_SEEDS:,} seeds" if self.seeds_for_margin is None else f"{self.seeds_for_margin} seeds"


def study_power(study: Study, own: StudyResults | None = None, earlier: StudyResults | None = None) -> list[ClaimPower]:
    """Return what the seeds of a study can show, claim by claim.

    Parameters
    ----------
    own, earlier
        Results of the study itself so far, and of an earlier one: the first that has at least three pairs tells the spread;
        otherwise `MEASURED_SD` does.
    """
    return [
        _claim_power(study, name, claim, _spread(study, name, claim, own, earlier)) for name, claim in study.claims.items()
    ]


def _claim_power(study: Study, name: str, claim: Claim, spread: Spread | None) -> ClaimPower:
    num_compared = len(_others(study, claim))
    level = (1 - study.level) / len(study.claims)
    is_ranked = study.sequential is None
    test = _Test(claim.test, num_compared, level, 1 - study.level, is_ranked)
    alone = _Test(claim.test, num_compared, 1 - study.level, 1 - study.level, is_ranked)
    n, unit, sd = len(study.seeds), _unit(study, claim), spread.sd if spread else None
    detectable = equality = needed = None
    if claim.test == "equivalent":
        if sd is not None:
            equality = _equality(n, study.margin / sd, level)
            needed = _fewest(lambda seeds: _equality(seeds, study.margin / sd, level))
    else:
        shift = test.detectable(n)
        detectable = None if shift is None else shift * (sd or 1.0)
        if sd is not None and unit == "points":
            needed = _fewest(lambda seeds: test.power(seeds, study.margin / sd))
    return ClaimPower(
        claim=plain(name),
        kind=claim.test,
        n=n,
        unit=unit,
        margin=study.margin,
        level=test.level_of_one,
        sd=sd,
        origin=spread.origin if spread else "no sd is known for this model; give a study that ran with --sd-from DIR",
        detectable=detectable,
        needs_others=claim.test != "equivalent" and detectable is None and alone.detectable(n) is not None,
        equality=equality,
        seeds_for_margin=needed,
    )


def _others(study: Study, claim: Claim) -> Sequence[Any]:
    """Return the values of the axis that a claim compares with one: all others, or the candidates."""
    values: list[Any] = study.axes(claim.arms[0])[claim.axis]
    if claim.test == "worst":
        return values[1:]
    return values[1:-1] or values[:1] if claim.test == "too-long" else values[:1]


def _unit(study: Study, claim: Claim) -> str:
    return setting_unit(study.cells(claim.arms[0])[0].recipe, claim.axis) if claim.test == "optimum-grows" else "points"


def _spread(study: Study, name: str, claim: Claim, own: StudyResults | None, earlier: StudyResults | None) -> Spread | None:
    for results, whose in ((own, "this study"), (earlier, "")):
        if results is not None and (found := _measured(results, name, claim, _unit(study, claim), whose)) is not None:
            return found
    models = {cell.recipe.model for arm in claim.arms for cell in study.cells(arm)}
    known = [MEASURED_SD[key] for model in models if (key := (model, _unit(study, claim))) in MEASURED_SD]
    return Spread(*known[0]) if len(known) == len(models) == 1 else None


def _measured(results: StudyResults, name: str, claim: Claim, unit: str, whose: str) -> Spread | None:
    """Return the spread in a study's results: of the claim of this name when it is the same, else pooled over all claims."""
    same = results.study.claims.get(name)
    same = same if same is not None and (same.test, same.axis) == (claim.test, claim.axis) else None
    claims = [same] if same is not None else [] if whose else list(results.study.claims.values())
    found = [one for each in claims for one in comparisons_of(results, each) if _usable(one, unit)]
    if not found:
        return None
    n = min(one.paired.n for one in found)
    sd = math.sqrt(sum((one.paired.sd or 0.0) ** 2 for one in found) / len(found))
    of = f"{n} pairs of each of {len(found)} comparisons" if len(found) > 1 else f"{n} pairs"
    return Spread(sd, f"measured on {of} of {whose or plain(f'{results.study.name} in {results.directory}')}")


def _usable(one: Comparison, unit: str) -> bool:
    return one.unit == unit and one.paired.n >= _FEWEST_PAIRS and (one.paired.sd or 0.0) > 0


def _fewest(power: Callable[[int], float]) -> int | None:
    """Return the smallest number of seeds with 80 % power, looked for by doubling and halving."""
    high = 2
    while power(high) < POWER:
        if high >= MOST_SEEDS:
            return None
        high = min(2 * high, MOST_SEEDS)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


@dataclass(frozen=True)
class _Test:
    """The test of one claim that a difference exists.

    Parameters
    ----------
    num_compared
        Comparisons with one cell: all must be shown (worst), or the first of them (too-long).
    level
        Error probability left for the claim; `interval_level` is that of the t-interval that must exclude 0.
    is_ranked
        Whether ranks are tested, from six pairs on.
    """

    kind: str
    num_compared: int
    level: float
    interval_level: float
    is_ranked: bool = True

    @property
    def level_of_one(self) -> float:
        """Error probability left for one comparison."""
        return self.level / self.num_compared if self.kind == "too-long" else self.level

    def power(self, n: int, shift: float) -> float:
        """Return the probability that the claim is supported when each true difference is `shift` standard deviations."""
        num_drawn = self.num_compared if self.kind == "worst" else 1
        if n <= _MOST_RANKED:
            drawn = _differences(num_drawn, n) + shift
            shown = _shown(drawn, self.level_of_one, self.interval_level, is_ranked=self.is_ranked)
        else:
            means, sds = _summaries(num_drawn, n)
            counted = 3 / math.pi * n if self.is_ranked else n
            t = (shift + means) * math.sqrt(counted) / sds
            shown = t > t_quantile(1 - min(self.level_of_one, self.interval_level) / 2, n - 1)
        return float(shown.all(axis=1).mean())

    def detectable(self, n: int) -> float | None:
        """Return the shift that is shown with 80 % probability, by bisection; None when none is."""
        low, high = 0.0, 1.0
        while self.power(n, high) < POWER:
            low, high = high, 2 * high
            if high > 1e4:
                return None
        for _ in range(16):
            middle = (low + high) / 2
            low, high = (low, middle) if self.power(n, middle) >= POWER else (middle, high)
        return high


def _shown(differences: NDArray[np.float64], level: float, interval_level: float, *, is_ranked: bool) -> NDArray[np.bool_]:
    """Say, of differences of shape (draws, comparisons, n), which comparisons are shown to be above 0."""
    n = differences.shape[-1]
    if n < 2:
        return np.zeros(differences.shape[:-1], dtype=np.bool_)
    sds = differences.std(axis=-1, ddof=1)
    t = differences.mean(axis=-1) * math.sqrt(n) / sds
    if n < FEWEST_FOR_RANKS or not is_ranked:
        return np.asarray(t > t_quantile(1 - min(level, interval_level) / 2, n - 1))
    chances = 2 * np.cumsum(rank_sums(tuple(range(2, 2 * n + 1, 2)))[::2])  # of the sum of ranks 0, 1, ...: two-sided p
    ranks = np.abs(differences).argsort(axis=-1).argsort(axis=-1) + 1
    against = np.where(differences < 0, ranks, 0).sum(axis=-1)
    return np.asarray((chances[against] < level) & (t > t_quantile(1 - interval_level / 2, n - 1)))


@lru_cache(maxsize=128)
def _differences(num_compared: int, n: int) -> NDArray[np.float64]:
    """Return standard normal differences of cells with one cell, shape (draws, num_compared, n)."""
    cells = np.random.default_rng(_DRAWS_SEED).standard_normal((_DRAWS, num_compared + 1, n))
    return np.asarray((cells[:, 1:] - cells[:, :1]) / math.sqrt(2))


def _summaries(num_compared: int, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and standard deviations of n such differences, each of shape (draws, num_compared)."""
    generator = np.random.default_rng(_DRAWS_SEED)
    cells = generator.standard_normal((_DRAWS, num_compared + 1))
    spread = np.sqrt(generator.chisquare(n - 1, (_DRAWS, num_compared)) / (n - 1))
    return (cells[:, 1:] - cells[:, :1]) / math.sqrt(2 * n), spread


def equality_power(n: int, margin: float, sd: float, alpha: float) -> float:
    """Return the probability that n pairs with this sd show equality within the margin at error `alpha`, where it is so."""
    return 1.0 if sd == 0 else _equality(n, margin / sd, alpha)


def _equality(n: int, margin: float, level: float) -> float:
    """Return the probability that two one-sided tests show equality within `margin` standard deviations where it is so."""
    if n < 2:
        return 0.0
    means, sds = _summaries(1, n)
    return float((np.abs(means) + t_quantile(1 - level, n - 1) * sds / math.sqrt(n) < margin).mean())
