"""A verdict for each claim of a study, with the numbers it rests on and its minimum detectable difference."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from widestep.plan.plain import plain
from widestep.report.compared import comparisons_of
from widestep.report.comparisons import RANKS, Comparison, Paired, T, interval
from widestep.report.looked import Looked, at_looks
from widestep.report.results import StudyResults
from widestep.report.verdicts import KINDS, Adjust, Rule, Verdict, Why, equivalence_p, family, shown_candidates
from widestep.study.amendments import Amendment
from widestep.study.study import Claim


@dataclass(frozen=True)
class Finding:
    """What a study says about one claim; the field names are the keys of findings.json and stay stable.

    Parameters
    ----------
    effect, interval, level
        Difference in `unit` with its t-interval at `level`; null while there are too few pairs.
    p, p_adjusted
        p of the claim, and the same adjusted by Holm's method over all claims of the study.
    minimum_detectable_difference
        True difference that a paired t-test with this n and spread finds with 80 % power.
    num_diverged
        Pairs of the reported comparison in which one side alone diverged: in the test, not in effect and interval.
    p_shown
        Adjusted p of what `why` names; it differs from `p_adjusted` where the opposite of the claim is shown.
    why
        What was shown: `shown`, `reversed`, `equivalent`, `beyond` (the margin), `open` (nothing), `few` (too few pairs).
    declared_after
        Trials that had an outcome when the claim was declared: 0, unless it was added after results could be seen.
    look
        In a study that runs until decided, the look whose numbers these are: the one that decided the claim, or the latest.
    """

    claim: str
    text: str
    verdict: Verdict
    effect: float | None
    unit: str
    interval: list[float] | None
    level: float
    n: int
    test: str
    p: float | None
    p_adjusted: float | None
    minimum_detectable_difference: float | None
    margin: float
    detail: str
    why: Why
    p_shown: float | None
    kind: str
    arms: list[str]
    axis: str
    num_diverged: int = 0
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    declared_after: int = 0
    look: "LookedAt | None" = None

    def record(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return {**vars(self), "look": None if self.look is None else asdict(self.look)}


@dataclass(frozen=True)
class LookedAt:
    """A look at a claim: its number of so many, and the seeds that it judged of the most that there may be."""

    look: int
    num_looks: int
    seeds: int
    num_seeds: int


@dataclass(frozen=True)
class Adjustment:
    """How a claim's p is adjusted, and over how many claims."""

    adjust: Adjust
    num_claims: int


def judge(results: StudyResults) -> list[Finding]:
    """Return the findings of a study, in the order of its claims; of one that runs until decided, as of its latest look.

    p is adjusted over the claims that were declared before any result; that of a claim which was added later over all.
    """
    return _judge(results, {}) if results.study.sequential is None else judge_at(results, len(results.looks))


def judge_at(results: StudyResults, num_looks: int) -> list[Finding]:
    """Return the findings of a study that runs until decided, after its first looks.

    A claim that one look decided stays decided, with the numbers of that look, whatever seeds other claims add later.
    """
    design, claims = results.study.sequential, results.study.claims
    assert design is not None
    counts = design.counts(len(results.study.seeds))
    decided: dict[str, Finding] = {}
    found = [] if num_looks else _judge(results, {name: LookedAt(0, len(counts), 0, counts[-1]) for name in claims})
    for number, seeds in enumerate(counts[:num_looks], start=1):
        now = LookedAt(number, len(counts), seeds, counts[-1])
        found = _judge(results, {name: (name in decided and decided[name].look) or now for name in claims})
        found = [decided.get(name, finding) for name, finding in zip(claims, found, strict=True)]
        decided = {name: finding for name, finding in zip(claims, found) if finding.verdict != "undecided"}
    return found


def _judge(results: StudyResults, looks: Mapping[str, LookedAt]) -> list[Finding]:
    claims, late = results.study.claims, late_claims(results.amendments)
    seen = {look.seeds: results.first(look.seeds) for look in looks.values()}
    compared = [_compared(seen, results, claim, looks.get(name)) for name, claim in claims.items()]
    chosen = [_choose(claim, [one.paired for one in pairs]) for claim, pairs in zip(claims.values(), compared, strict=True)]
    settled = [_settled(claim, pairs, results.study.margin) for claim, pairs in zip(claims.values(), compared, strict=True)]
    findings = []
    for index, name in enumerate(claims):
        members = [place for place, other in enumerate(claims) if name in late or other not in late]
        over = Adjustment(family([settled[place] for place in members], members.index(index)), len(members))
        findings.append(_finding(results, name, compared[index], chosen[index], over, looks.get(name)))
    return findings


def _compared(
    seen: Mapping[int, StudyResults], results: StudyResults, claim: Claim, look: LookedAt | None
) -> list[Comparison]:
    """Return a claim's comparisons; at a look, those of the results that it has `seen`, by its number of seeds."""
    study = results.study
    if look is None or study.sequential is None:
        return comparisons_of(results, claim)
    looked = Looked(study.seeds, study.sequential.counts(len(study.seeds))[: look.look], study.sequential.spending)
    found = comparisons_of(seen[look.seeds], claim)
    return [at_looks(one, looked, level=study.level, margin=study.margin) for one in found]


def _choose(claim: Claim, pairs: list[Paired]) -> tuple[int, float | None]:
    kind = KINDS[claim.test]
    index, p = kind.choose(pairs)
    return index, p if kind.ready(pairs) else None


def _settled(claim: Claim, compared: list[Comparison], margin: float) -> float | None:
    kind, pairs = KINDS[claim.test], [one.paired for one in compared]
    return kind.settled(pairs, margin) if kind.ready(pairs) else None


def _finding(
    results: StudyResults,
    name: str,
    compared: list[Comparison],
    chosen: tuple[int, float | None],
    over: Adjustment,
    look: LookedAt | None,
) -> Finding:
    study, (index, p), adjust = results.study, chosen, over.adjust
    claim = study.claims[name]
    rule = Rule(study.level, adjust, study.margin)
    pairs = [one.paired for one in compared]
    verdict, why, p_shown = KINDS[claim.test].decide(pairs, rule) if p is not None else ("undecided", "few", None)
    reported = compared[index]
    words = [*_look_words(look, verdict), _effect_words(reported), *_why_words(why, claim, compared, index, rule)]
    words += [*_left_out(compared), *_later_words(results, name)]
    return Finding(
        claim=plain(name),
        text=plain(claim.text),
        verdict=verdict,
        effect=reported.paired.effect,
        unit=reported.unit,
        interval=interval(reported.paired),
        level=study.level,
        n=reported.paired.n,
        test=_test_words(claim, reported.paired, len(compared), rule, over.num_claims) if p is not None else "none",
        p=p,
        p_adjusted=None if p is None else adjust(p),
        minimum_detectable_difference=reported.paired.detectable,
        margin=study.margin,
        detail=" ".join(words),
        why=why,
        p_shown=p_shown,
        kind=claim.test,
        arms=[plain(arm) for arm in claim.arms],
        axis=claim.axis,
        num_diverged=reported.paired.num_diverged,
        comparisons=[one.record() for one in compared],
        declared_after=late_claims(results.amendments).get(name, 0),
        look=look,
    )


def _test_words(claim: Claim, pair: Paired, num_compared: int, rule: Rule, num_claims: int) -> str:
    words = pair.test
    if claim.test == "equivalent":
        words = f"two one-sided {T if pair.test.startswith(RANKS) else pair.test} (TOST) against {rule.margin:g} points"
        words += ", not with runs that diverged on one side" if pair.num_diverged else ""
    if claim.test == "worst" and num_compared > 1:
        words += f", all {num_compared} comparisons must hold"
    if claim.test == "too-long" and num_compared > 1:
        words += f", Holm over {num_compared} candidates"
    return words + (f", Holm over {num_claims} claims" if num_claims > 1 else "")


def _look_words(look: LookedAt | None, verdict: Verdict) -> list[str]:
    if look is None:
        return []
    seeds = f"{look.seeds} of at most {look.num_seeds} seeds"
    if look.look == 0:
        return ["No look was taken yet."]
    if verdict != "undecided":
        return [f"Decided at look {look.look}, after {seeds}."]
    if look.look == look.num_looks:
        return [f"Not decided by the {look.seeds} seeds that the study may use."]
    return [f"Open after look {look.look}, {seeds}."]


def _effect_words(one: Comparison) -> str:
    pair = one.paired
    if pair.effect is None:
        return f"No seed is complete on both sides ({one.first.label}; {one.second.label}).{_diverged_words(one)}"
    first = one.first.label[:1].upper() + one.first.label[1:]
    if abs(pair.effect) < 5e-10:
        return f"{first} and {one.second.label} are equal on average.{_diverged_words(one)}"
    unit, direction = one.unit, "above" if pair.effect > 0 else "below"
    return (
        f"{first} is {abs(pair.effect):.2f} {unit} {direction} {one.second.label} on average, higher in "
        f"{pair.num_higher} of {pair.n} seeds.{_diverged_words(one)}"
    )


def _diverged_words(one: Comparison) -> str:
    """Say in how many more seeds one side alone diverged."""
    pair = one.paired
    sides = ((pair.num_first_diverged, one.first.label), (pair.num_second_diverged, one.second.label))
    words = [f"in {count} more {label} alone diverged" for count, label in sides if count]
    return f" {words[0][:1].upper()}{words[0][1:]}{''.join(f', {more}' for more in words[1:])}." if words else ""


def _why_words(why: Why, claim: Claim, compared: list[Comparison], index: int, rule: Rule) -> list[str]:
    match why:
        case "few":
            return [
                "A test needs two seeds whose runs have ended on both sides of every comparison, and not diverged on both."
            ]
        case "shown":
            return _shown_words(claim, compared, index, rule)
        case "reversed":
            return ["The opposite of the claim is shown."]
        case "equivalent":
            all_of = "The difference is" if len(compared) == 1 else "All differences are"
            return [f"{all_of} shown to be smaller than the margin of {rule.margin:g} points."]
        case "beyond":
            return [f"The whole interval lies beyond the margin of {rule.margin:g} points."]
        case "open":
            return _open_words(claim, compared, index, rule)


def _open_words(claim: Claim, compared: list[Comparison], index: int, rule: Rule) -> list[str]:
    pair, unit = compared[index].paired, compared[index].unit
    p = KINDS[claim.test].choose([one.paired for one in compared])[1]
    if (
        pair.test.startswith(RANKS)
        and claim.test != "equivalent"
        and rule.small(p)
        and (pair.low or 0) <= 0 <= (pair.high or 0)
    ):
        return ["The rank test shows a direction, but a few runs decide the mean: its interval includes 0."]
    num_pairs = pair.n + pair.num_diverged
    if pair.test.startswith(RANKS) and claim.test != "equivalent" and not rule.small(2.0 ** (1 - num_pairs)):
        needed = next(n for n in range(num_pairs, 1000) if rule.small(2.0 ** (1 - n)))
        return [
            f"With {num_pairs} seeds p cannot be below {2.0 ** (1 - num_pairs):.2g}, which does not survive the correction "
            f"for all claims; {needed} seeds can decide."
        ]
    if not pair.detectable:
        return []
    return [f"This decides nothing; true differences from {pair.detectable:.2f} {unit} on are found at 80 % power."]


def _shown_words(claim: Claim, compared: list[Comparison], index: int, rule: Rule) -> list[str]:
    pairs = [one.paired for one in compared]
    words = []
    if claim.test == "too-long" and index not in (found := shown_candidates(pairs, rule)):
        words.append(f"Shown for {' and '.join(compared[one].first.label for one in found)}.")
    if claim.test != "optimum-grows" and rule.small(equivalence_p([pairs[index]])):
        words.append(f"The difference is shown, and shown to be smaller than the margin of {rule.margin:g} points.")
    return words


def _left_out(compared: list[Comparison]) -> list[str]:
    diverged = {side.label: side.num_diverged for one in compared for side in (one.first, one.second)}
    total = sum(diverged.values())
    if total == 0:
        return []
    runs, rank = ("1 diverged run is", "it ranks") if total == 1 else (f"{total} diverged runs are", "they rank")
    used = any(one.paired.num_diverged for one in compared)
    return [f"{runs} not in mean and interval{f'; in the test {rank} below every other run' if used else ''}."]


def late_claims(amendments: list[Amendment]) -> dict[str, int]:
    """Return the claims that were declared after results could be seen, with the number of trials that had an outcome."""
    return {name: one.num_finished for one in reversed(amendments) for name in one.added_claims}


def _later_words(results: StudyResults, name: str) -> list[str]:
    added = late_claims(results.amendments).get(name)
    words = [] if added is None else [f"This claim was added after {added:,} trials had an outcome."]
    changed = [one.num_finished for one in results.amendments if name in one.changed_claims]
    return words + [f"The settings it compares were changed after {number:,} trials had an outcome." for number in changed]
