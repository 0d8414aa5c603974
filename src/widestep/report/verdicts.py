"""The five kinds of claim as pure decisions on paired statistics: which comparison is reported, and what it shows.

A difference is *shown* when its p, adjusted over everything that was tested, is below 1 - level and its t-interval
excludes 0 on that side. Where runs of the lower side diverged, that interval is of the pairs that are left and says less
than the test, in which diverged runs rank last: then it is enough that the mean of the others does not point the other way.
Equality is shown when its p is as small and the interval of its two tests lies within the margin.
A verdict needs one of two things to be shown, the claim or its opposite; all else is undecided.

A claim can be decided in several ways - for, against, within the margin, beyond it - of which, for any true difference, one
at most is an error. So the probability of a wrong statement on one claim is 1 - level at most. Over all claims p values are
adjusted by Holm's method, in which a claim that is decided makes room for the others. For that its p must be small for
every statement that could still be made on it, or the data must rule that statement out: see `settled`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from widestep.report.comparisons import Paired
from widestep.report.statistics import holm

Verdict = Literal["supported", "contradicted", "undecided"]
Why = Literal["shown", "reversed", "equivalent", "beyond", "open", "few"]
Decision = tuple[Verdict, Why, float | None]
"""The verdict, what was shown, and the adjusted p of that (None when nothing was shown)."""
Adjust = Callable[[float], float]


@dataclass(frozen=True)
class Rule:
    """What counts as shown in a study.

    Parameters
    ----------
    adjust
        Turns a p of this claim into one that is adjusted over all claims of the study.
    """

    level: float
    adjust: Adjust
    margin: float

    def small(self, p: float) -> bool:
        """Say whether p is significant after adjustment."""
        return self.adjust(p) < 1 - self.level

    def above(self, pair: Paired, p: float) -> bool:
        """Say whether a positive difference is shown."""
        clear = pair.low is not None and pair.low > 0
        return self._shown(pair, p, 1, clear, pair.num_second_diverged)

    def below(self, pair: Paired, p: float) -> bool:
        """Say whether a negative difference is shown."""
        clear = pair.high is not None and pair.high < 0
        return self._shown(pair, p, -1, clear, pair.num_first_diverged)

    def equal(self, pairs: Sequence[Paired]) -> bool:
        """Say whether all differences are shown to be smaller than the margin, and their intervals lie within it.

        A sequential p keeps what an earlier look had shown; the interval says whether that still holds.
        """
        within = all(
            -self.margin < (pair.equivalence_low or 0.0) and (pair.equivalence_high or 0.0) < self.margin for pair in pairs
        )
        return within and self.small(equivalence_p(pairs))

    def beyond(self, pair: Paired) -> bool:
        """Say whether the difference is shown to be larger than the margin; see `equal` for its interval."""
        apart = pair.num_diverged > 0 or (pair.low or 0.0) > self.margin or (pair.high or 0.0) < -self.margin
        return apart and self.small(_p(pair.beyond_p))

    def _shown(self, pair: Paired, p: float, sign: int, clear: bool, num_diverged: int) -> bool:
        clear = clear or (num_diverged > 0 and (pair.effect or 0.0) * sign >= 0)
        return clear and pair.direction == sign and self.small(p)


@dataclass(frozen=True)
class Kind:
    """One kind of claim.

    Parameters
    ----------
    choose
        Returns the index of the comparison that the finding reports and the p of the claim.
    decide
        Returns the verdict with its reason.
    settled
        Returns, given the margin, the p with which the claim counts when others are adjusted: that of all that could be
        said of it.
    needs_all
        Whether nothing can be said while one comparison has fewer than two pairs.
    """

    choose: Callable[[Sequence[Paired]], tuple[int, float]]
    decide: Callable[[Sequence[Paired], Rule], Decision]
    settled: Callable[[Sequence[Paired], float], float]
    needs_all: bool = True

    def ready(self, pairs: Sequence[Paired]) -> bool:
        """Say whether there are enough pairs for a test."""
        return (all if self.needs_all else any)(pair.p is not None for pair in pairs)


def family(p_values: Sequence[float | None], index: int) -> Adjust:
    """Return the Holm adjustment of one member of a family of tests; a test that could not be made counts as p = 1."""
    known = [_p(p) for p in p_values]
    return lambda p: holm([*known[:index], p, *known[index + 1 :]])[index]


def _p(p: float | None) -> float:
    return 1.0 if p is None else p


def _within(pairs: Sequence[Paired]) -> list[float]:
    return holm([_p(pair.p) for pair in pairs])


def _only(pairs: Sequence[Paired]) -> tuple[int, float]:
    return 0, _p(pairs[0].p)


def _only_equivalence(pairs: Sequence[Paired]) -> tuple[int, float]:
    return 0, _p(pairs[0].equivalence_p)


def _place(pair: Paired) -> float:
    """Return where a comparison ranks among others: its mean, or when no pair has one, where the diverged runs put it."""
    if pair.effect is not None:
        return pair.effect
    return math.inf * pair.direction if pair.direction else math.nan


def smallest(pairs: Sequence[Paired]) -> tuple[int, float]:
    """Choose the smallest difference; every comparison must hold, so the largest p counts (intersection-union)."""
    places = [math.inf if math.isnan(place := _place(pair)) else place for pair in pairs]
    return places.index(min(places)), max(_p(pair.p) for pair in pairs)


def largest(pairs: Sequence[Paired]) -> tuple[int, float]:
    """Choose the largest difference; one of them is enough, so its p is adjusted over all of them."""
    places = [-math.inf if pair.p is None or math.isnan(place := _place(pair)) else place for pair in pairs]
    index = places.index(max(places))
    return index, _within(pairs)[index]


def equivalence_p(pairs: Sequence[Paired]) -> float:
    """Return the p of "not all differences are smaller than the margin": each must be, so the largest p counts."""
    return max(_p(pair.equivalence_p) for pair in pairs)


def _unless_equal(shown: float, pairs: Sequence[Paired], margin: float) -> float:
    """Return the p of what is shown when equality is ruled out, else that of equality when it is larger.

    Equality is ruled out when the whole interval of one comparison lies beyond the margin, or runs diverged on one side.
    """
    apart = any(pair.num_diverged or (pair.low or 0.0) > margin or (pair.high or 0.0) < -margin for pair in pairs)
    return shown if apart else max(shown, equivalence_p(pairs))


def settled_falls(pairs: Sequence[Paired], margin: float) -> float:
    """Return the p with which a claim of one difference counts when others are adjusted."""
    return _unless_equal(_p(pairs[0].p), pairs, margin)


def settled_worst(pairs: Sequence[Paired], margin: float) -> float:
    """Return the p of "all are above", or while one is not, of "one is below", unless equality is still possible."""
    return _unless_equal(_all_or_one(pairs, 1), pairs, margin)


def settled_too_long(pairs: Sequence[Paired], margin: float) -> float:
    """Return the p of "all are below", or while one is not, of "one is above", unless equality is still possible."""
    return _unless_equal(_all_or_one(pairs, -1), pairs, margin)


def _all_or_one(pairs: Sequence[Paired], sign: int) -> float:
    against = [p for pair, p in zip(pairs, _within(pairs)) if pair.direction == -sign]
    every = max(_p(pair.p) for pair in pairs) if all(pair.direction == sign for pair in pairs) else 1.0
    return min([every, *against])


def settled_grows(pairs: Sequence[Paired], margin: float) -> float:
    """Return the p of the one statement that can be made."""
    return _only(pairs)[1]


def settled_equivalent(pairs: Sequence[Paired], margin: float) -> float:
    """Return the smaller p of the two statements that can be made: the one makes the other impossible."""
    return min(_p(pairs[0].equivalence_p), _p(pairs[0].beyond_p))


def decide_falls(pairs: Sequence[Paired], rule: Rule) -> Decision:
    """Decide whether the first is above the second; `pairs` holds first - second."""
    [pair] = pairs
    return _higher(pair, rule) or _equivalent_or_open(pairs, rule)


def decide_grows(pairs: Sequence[Paired], rule: Rule) -> Decision:
    """Decide whether the best value of the last arm is above that of the first; `pairs` holds last - first."""
    [pair] = pairs
    return _higher(pair, rule) or ("undecided", "open", None)


def decide_worst(pairs: Sequence[Paired], rule: Rule) -> Decision:
    """Decide whether every other is above the first; `pairs` holds other - first."""
    p = smallest(pairs)[1]
    if all(rule.above(pair, p) for pair in pairs):
        return "supported", "shown", rule.adjust(p)
    below = [p for pair, p in zip(pairs, _within(pairs)) if rule.below(pair, p)]
    return ("contradicted", "reversed", rule.adjust(min(below))) if below else _equivalent_or_open(pairs, rule)


def decide_too_long(pairs: Sequence[Paired], rule: Rule) -> Decision:
    """Decide whether one of the candidates is above the last; `pairs` holds candidate - last."""
    above = [_within(pairs)[index] for index in shown_candidates(pairs, rule)]
    if above:
        return "supported", "shown", rule.adjust(min(above))
    p = max(_p(pair.p) for pair in pairs)
    if all(rule.below(pair, p) for pair in pairs):
        return "contradicted", "reversed", rule.adjust(p)
    return _equivalent_or_open(pairs, rule)


def shown_candidates(pairs: Sequence[Paired], rule: Rule) -> list[int]:
    """Return the indices of the candidates that are shown above the last."""
    return [index for index, p in enumerate(_within(pairs)) if rule.above(pairs[index], p)]


def decide_equivalent(pairs: Sequence[Paired], rule: Rule) -> Decision:
    """Decide whether the two differ by less than the margin."""
    [pair] = pairs
    if rule.equal(pairs):
        return "supported", "equivalent", rule.adjust(equivalence_p(pairs))
    if rule.beyond(pair):
        return "contradicted", "beyond", rule.adjust(_p(pair.beyond_p))
    return "undecided", "open", None


def _higher(pair: Paired, rule: Rule) -> Decision | None:
    p = _p(pair.p)
    if rule.above(pair, p):
        return "supported", "shown", rule.adjust(p)
    return ("contradicted", "reversed", rule.adjust(p)) if rule.below(pair, p) else None


def _equivalent_or_open(pairs: Sequence[Paired], rule: Rule) -> Decision:
    p = equivalence_p(pairs)
    return ("contradicted", "equivalent", rule.adjust(p)) if rule.equal(pairs) else ("undecided", "open", None)


KINDS = {
    "falls": Kind(_only, decide_falls, settled_falls),
    "worst": Kind(smallest, decide_worst, settled_worst),
    "too-long": Kind(largest, decide_too_long, settled_too_long, needs_all=False),
    "optimum-grows": Kind(_only, decide_grows, settled_grows),
    "equivalent": Kind(_only_equivalence, decide_equivalent, settled_equivalent),
}
"""The kinds of claim by the name that a study file gives them."""
