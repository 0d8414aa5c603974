"""Looks at a study that runs until decided: taking the next one, and saying what the looks came to and saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from widestep.report.claims import Finding, judge_at
from widestep.report.compared import cells_of
from widestep.report.page import Table
from widestep.report.results import Diverged, SeedRun, StudyResults, read_study
from widestep.study.sequential import Look, is_concluded, next_look, write_look
from widestep.study.study import Study


def take_look(directory: Path) -> Look | None:
    """Take the next look at a study and write it down; None when there is none to take.

    A look needs an outcome, complete or diverged, of every trial that is wanted: what is missing might have spoken.

    Raises
    ------
    EnvironmentFault
        When it cannot be written.
    """
    results = read_study(directory)
    study = results.study
    finished = results.count(SeedRun) + results.count(Diverged)
    if is_concluded(study, results.looks) or finished < results.num_wanted:
        return None
    findings = judge_at(results, len(results.looks) + 1)
    verdicts = {name: finding.verdict for name, finding in zip(study.claims, findings, strict=True)}
    look = next_look(study, results.looks, verdicts, {name: cells_of(study, claim) for name, claim in study.claims.items()})
    write_look(directory, look)
    return look


def saved_words(results: StudyResults) -> str:
    """Return how far the looks went and what they saved, in a sentence; nothing for a study that is not sequential.

    For example `Until decided: 27 of 60 runs after look 2; saved 33.`
    """
    if results.study.sequential is None:
        return ""
    wanted, total = results.num_runs
    if is_concluded(results.study, results.looks):
        return f"Until decided: {wanted} of {total} runs after look {len(results.looks)}; saved {total - wanted}."
    now = f"look {len(results.looks)} was the last one taken" if results.looks else "no look was taken yet"
    return f"Until decided: {now}, and {wanted} of at most {total} runs are wanted so far."


def sequential_records(results: StudyResults) -> list[dict[str, Any]]:
    """Return what the looks saved as an entry of findings.json, under the keys that the findings on claims have."""
    if results.study.sequential is None:
        return []
    wanted, total = results.num_runs
    is_over = is_concluded(results.study, results.looks)
    facts = {
        **results.study.sequential.model_dump(),
        "num_seeds": len(results.study.seeds),
        "num_looks": len(results.looks),
        "is_concluded": is_over,
        "num_runs": wanted,
        "num_runs_fixed": total,
        "num_saved": total - wanted if is_over else None,
        "looks": [{"look": look.look, "seeds": look.seeds, "verdicts": look.verdicts} for look in results.looks],
    }
    empty = dict.fromkeys(("effect", "interval", "level", "p", "p_adjusted", "minimum_detectable_difference"))
    words = {"claim": "sequential", "text": saved_words(results), "verdict": "supported" if is_over else "undecided"}
    return [words | empty | {"unit": "", "n": wanted, "test": "", "kind": "sequential", "sequential": facts}]


def look_notices(results: StudyResults, findings: Sequence[Finding]) -> list[str]:
    """Return what belongs at the top of the page: what was saved, and where the runs no longer give what a look recorded."""
    if results.study.sequential is None:
        return []
    said = [saved_words(results)]
    recorded = results.looks[-1].verdicts if results.looks else {}
    changed = [
        name
        for name, finding in zip(results.study.claims, findings, strict=True)
        if recorded.get(name, "undecided") != finding.verdict
    ]
    if changed:
        said.append(
            f"The runs no longer give the verdicts that the last look recorded on {', '.join(changed)}: some were lost or "
            "changed since."
        )
    return said


def look_table(results: StudyResults) -> Table:
    """Return the looks as a table: what each decided, and the runs that were wanted after it."""
    rows, before = [], dict.fromkeys(results.study.claims, "undecided")
    for number, look in enumerate(results.looks, start=1):
        new = [f"{name} {verdict}" for name, verdict in look.verdicts.items() if before.get(name) != verdict]
        before = look.verdicts
        wanted = sum(look.wanted.values())
        rows.append([str(number), str(look.seeds), "; ".join(new) or "–", ", ".join(look.open) or "–", str(wanted)])
    words = (
        "Seeds were added where a claim was open. A claim that is decided at a look stays as it was then; settings that "
        "only decided claims compare, and those that none compares, get no more seeds. " + saved_words(results)
    )
    return Table("Looks", ["look", "seeds", "decided", "still open", "runs wanted"], rows, words, first_number=4)


def paired_words(study: Study) -> str:
    """Return how pairs are tested, for a poster, with places for `seeds` and `level`."""
    if study.sequential is None:
        return (
            "Every setting runs with the same {seeds} seeds, so settings are compared in pairs: Student t-intervals at "
            "{level} %, Wilcoxon's signed-rank test (the paired t-test with few pairs), Holm's correction over all claims."
        )
    return (
        "Settings run with up to {seeds} seeds, the same for all, so they are compared in pairs. Seeds were added only "
        "where a claim was open: group-sequential paired t-tests, repeated intervals at {level} %, Holm's correction over "
        "all claims."
    )


def look_method(results: StudyResults) -> list[tuple[str, str]]:
    """Return how a study that runs until decided is judged, as terms with their explanation."""
    design, study = results.study.sequential, results.study
    if design is None:
        return []
    alpha = 100 * (1 - study.level)
    counts = ", ".join(map(str, design.counts(len(study.seeds))))
    return [
        (
            "Looks",
            f"The claims are judged after {counts} seeds, by paired t-tests whose error rate is shared among the looks by "
            f"{design.spending} spending (Lan and DeMets), exactly for these numbers of pairs. A p is the smallest error "
            "rate at which one of the looks so far shows the difference. Holm's method over the claims then keeps the "
            f"chance of any wrong statement, at any look, below {alpha:.3g} %.",
        ),
        (
            "Intervals",
            f"Repeated confidence intervals: with {100 * study.level:g} % probability they hold the true difference at all "
            "looks together, so early ones are wide. A decided claim shows the interval of the look that decided it.",
        ),
        ("Shown", f"A difference is shown when its p is below {alpha:.3g} % after adjustment and its interval excludes 0."),
    ]
