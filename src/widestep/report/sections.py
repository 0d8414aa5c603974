"""The parts of a study's page: its counts, tables, method in plain words, environment and glossary."""

from collections.abc import Iterable
from typing import Any

from widestep.plan.plain import plain
from widestep.plan.recipe import Recipe
from widestep.report.audit import audit_notices, audit_section
from widestep.report.claims import Finding
from widestep.report.embedded import ArmCurves
from widestep.report.figures import curve
from widestep.report.optimum import BestWarmup
from widestep.report.page import FigureBlock, Page, Table, interval_text, p_text, signed
from widestep.report.results import CellResults, Diverged, Missing, Outcome, SeedRun, Spared, StudyResults
from widestep.report.searches import search_table
from widestep.report.sequential import look_method, look_notices, look_table
from widestep.report.slope import WarmupSlope, warmup_slopes
from widestep.report.statistics import FEWEST_FOR_BOOTSTRAP, mean_interval
from widestep.study.audit import Audit

_MOST_LISTED = 200
_FACTS = {"num_cores": "processor cores"}


def study_page(
    results: StudyResults,
    findings: list[Finding],
    warmups: list[BestWarmup],
    figures: list[FigureBlock],
    audit: Audit,
    more: list[Table],
) -> Page:
    """Put the page of a study together; `more` are tables that stand after those of the settings."""
    study, level = results.study, 100 * results.study.level
    verdicts = [finding.verdict for finding in findings]
    said = ", ".join(
        f"{verdicts.count(word)} {word}" for word in ("supported", "contradicted", "undecided") if word in verdicts
    )
    is_sequential = results.study.sequential is not None
    tables = [
        look_table(results),
        search_table(results.searches),
        _warmup_table(warmups, level),
        _slope_table(warmup_slopes(results), level),
        _comparison_table(findings, is_sequential=is_sequential),
        _cell_table(results),
        *more,
        _trouble_table(results),
    ]
    return Page(
        eyebrow=f"Study {plain(study.name)}",
        title=plain(study.title),
        counts=_counts(results),
        notices=[*look_notices(results, findings), *_notices(results), *audit_notices(audit)],
        findings=findings,
        findings_words=f"{said[:1].upper()}{said[1:]}. Intervals are at {level:g} %; the grey band is the margin of "
        f"{study.margin:g} points within which two accuracies count as equal, declared before the study ran.",
        figures=figures,
        arms=_arms(results),
        tables=[table for table in tables if table.rows],
        audit=audit_section(audit),
        method=_method(results),
        notes=[plain(note) for note in study.notes],
        facts=environment_facts(results.environment),
        glossary=glossary(_varied(results)),
    )


def _arms(results: StudyResults) -> list[ArmCurves]:
    """Return the curves of all arms, for the figure in which readers choose."""
    arms = results.study.arms
    return [
        ArmCurves(plain(arms[name].label or name), [curve(cell, results.study.level) for cell in cells])
        for name, cells in results.arms.items()
    ]


def _counts(results: StudyResults) -> list[tuple[str, str]]:
    total, complete = results.num_wanted, results.count(SeedRun)
    diverged, missing = results.count(Diverged), results.count(Missing)
    words = [("complete", f"{complete} of {total} trials complete")]
    words += [("diverged", f"{diverged} diverged")] if diverged else []
    words += [("missing", f"{missing} missing")] if missing else []
    num_cells = len({cell.cell.fingerprint(0) for cells in results.arms.values() for cell in cells})
    up_to = "up to " if results.study.sequential else ""
    return [*words, ("plain", f"{num_cells} settings × {up_to}{len(results.study.seeds)} seeds")]


def _notices(results: StudyResults) -> list[str]:
    notices = []
    missing, total = results.count(Missing), results.num_wanted
    if missing:
        notices.append(
            f"This report is partial: {missing} of {total} trials have no result yet (listed below). Verdicts may change."
        )
    diverged = results.count(Diverged)
    if diverged:
        notices.append(
            f"{'One run has' if diverged == 1 else f'{diverged} runs have'} diverged. Diverged runs are counted in every "
            "figure and table and are in no mean, which flatters the settings they belong to; the tests of the claims rank "
            "them below every other run."
        )
    return notices + [plain(one.sentence) for one in results.amendments]


def _warmup_table(warmups: list[BestWarmup], level: float) -> Table:
    rows = []
    for one in warmups:
        if one.epochs is None or one.steps is None:
            rows.append([one.label, f"{one.global_batch:,}", "–", "", "–", "", str(one.n)])
            continue
        edge = " (longest tried)" if one.at_edge else ""
        epochs = "" if one.epochs_interval is None else "[{:g}, {:g}]".format(*one.epochs_interval)
        steps = "" if one.steps_interval is None else "[{:,}, {:,}]".format(*one.steps_interval)
        rough = "*" if one.is_rough and epochs else ""
        batch = f"{one.global_batch:,}"
        rows.append([one.label, batch, f"{one.epochs:g}{edge}", epochs + rough, f"{one.steps:,}", steps + rough, str(one.n)])
    words = (
        f"The warmup with the highest mean final accuracy among those tried, in both units, with {level:g} % bootstrap "
        "intervals over seeds."
    )
    if any(one.is_rough for one in warmups):
        words += f" * From fewer than {FEWEST_FOR_BOOTSTRAP} seeds: too narrow."
    headers = ["arm", "images a step", "best, epochs", "interval", "best, steps", "interval", "n"]
    return Table("Best warmup", headers, rows, words)


def _slope_table(slopes: list[WarmupSlope], level: float) -> Table:
    rows = []
    for one in slopes:
        batches = ", ".join(f"{batch:,}" for batch in one.batches)
        best = ", ".join(f"{epochs:g}" for epochs in one.epochs)
        rough = "*" if one.is_rough and one.epochs_interval else ""
        slopes_of = [(one.epochs_slope, one.epochs_interval), (one.steps_slope, one.steps_interval)]
        numbers = [f"{signed(slope)} {interval_text(ends)}{rough}".strip() for slope, ends in slopes_of]
        rows.append([", ".join(map(plain, dict.fromkeys(one.arms))), batches, best, *numbers, str(one.n), one.remarks])
    words = (
        f"Slope of log(best warmup) against log(images a step), with {level:g} % bootstrap intervals over seeds. In epochs: "
        "0 is the same epochs at every batch, 1 epochs in proportion to it. In steps: 0 is the same number of steps. Where "
        "no warmup is best it counts as half the shortest tried; there, and where the longest is best, the slope is a bound."
    )
    if any(one.is_rough for one in slopes):
        words += f" * From fewer than {FEWEST_FOR_BOOTSTRAP} seeds: too narrow."
    headers = ["arms", "images a step", "best, epochs", "slope in epochs", "slope in steps", "n", "bounds"]
    return Table("Best warmup against the batch", headers, rows, words, first_number=3)


def _comparison_table(findings: list[Finding], *, is_sequential: bool) -> Table:
    rows = [_comparison_row(finding.claim, one) for finding in findings for one in finding.comparisons]
    headers = ["claim", "comparison", "n", "mean difference, points", "bootstrap", "p", "p equal", "medians"]
    headers += ["collapsed + diverged", "p of these"]
    by_test = "paired t, over all looks so far" if is_sequential else "signed ranks from 6 pairs on, else paired t"
    words = (
        "Every paired comparison behind the verdicts, before any adjustment. Bootstrap: BCa interval of the mean, from "
        f"{FEWEST_FOR_BOOTSTRAP} pairs on. p: no difference ({by_test}). p equal: a difference of at least the margin. The "
        "last p is Fisher's exact test."
    )
    return Table("Comparisons", headers, rows, words, first_number=2)


def _comparison_row(claim: str, one: dict[str, Any]) -> list[str]:
    medians = "–" if one["median_first"] is None else f"{one['median_first']:.2f} / {one['median_second']:.2f}"
    unit = "" if one["unit"] == "points" else one["unit"]
    sides = ("first", "second") if one["num_finished_first"] + one["num_finished_second"] else ()
    return [
        claim,
        f"{one['first']} minus {one['second']}",
        str(one["n"]),
        f"{signed(one['effect'])} {interval_text(one['interval'])} {unit}".strip(),
        interval_text(one["bootstrap_interval"]),
        p_text(one["p"]),
        p_text(one["equivalence_p"]) if one["unit"] == "points" else "",
        medians,
        " / ".join(f"{one[f'num_collapsed_{side}']} + {one[f'num_diverged_{side}']}" for side in sides),
        p_text(one["failure_p"]),
    ]


def _cell_table(results: StudyResults) -> Table:
    rows = [
        [plain(arm), cell.label, *_cell_numbers(cell, results.study.level)]
        for arm, cells in results.arms.items()
        for cell in cells
    ]
    headers = ["arm", "setting", "n", "final %", "interval", "median %", "last five %", "best %"]
    headers += ["collapsed", "diverged", "missing"]
    words = (
        "Validation accuracy of every setting. Final: mean over seeds of the last epoch. Last five and best: mean over "
        "seeds of each run's median of its last five epochs, and of its best epoch. Collapsed: ended below "
        f"{100 * results.study.collapse_below:g} %."
    )
    return Table("Settings", headers, rows, words, first_number=2)


def _cell_numbers(cell: CellResults, level: float) -> list[str]:
    runs = list(cell.complete.values())
    counts = [str(len(seeds)) for seeds in (cell.collapsed, cell.diverged, cell.missing)]
    if not runs:
        return ["0", "–", "", "–", "–", "–", *counts]
    final = mean_interval(cell.accuracies, level)
    ends = "n = 1" if final.low is None else f"[{final.low:.2f}, {final.high:.2f}]"
    middle = sorted(run.accuracy for run in runs)
    median = (middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2
    others = [sum(values) / len(runs) for values in ([run.median_last5 for run in runs], [run.best for run in runs])]
    return [str(final.n), f"{final.mean:.2f}", ends, f"{median:.2f}", *(f"{value:.2f}" for value in others), *counts]


def _trouble_table(results: StudyResults) -> Table:
    rows, seen = [], set()
    for arm, cells in results.arms.items():
        for cell in cells:
            for seed, outcome in cell.outcomes.items():
                name = cell.cell.fingerprint(seed) if not isinstance(outcome, (SeedRun, Spared)) else ""
                if name and name not in seen:
                    seen.add(name)
                    rows.append([plain(arm), cell.label, str(seed), *_trouble(outcome), f"trials/{name}"])
    words = "Trials that are in no mean, with the directory where their log lies."
    if len(rows) > _MOST_LISTED:
        words += f" The first {_MOST_LISTED} of {len(rows)}."
    headers = ["arm", "setting", "seed", "state", "reason", "directory"]
    return Table("Missing and diverged trials", headers, rows[:_MOST_LISTED], words, first_number=9)


def _trouble(outcome: Outcome) -> tuple[str, str]:
    return ("diverged" if isinstance(outcome, Diverged) else "missing"), getattr(outcome, "reason", "")


def _method(results: StudyResults) -> list[tuple[str, str]]:
    study = results.study
    level, alpha, claims = 100 * study.level, 100 * (1 - study.level), len(study.claims)
    terms = [
        ("Accuracy", "Of the final epoch, on the validation images, in percent. Differences are in percentage points."),
        ("Pairs", "All settings run with the same seeds; two settings are compared over the seeds complete in both."),
        ("Intervals", f"Student t-intervals at {level:g} % over seeds. A single seed has a point and no interval."),
        (
            "Shown",
            f"A difference is shown when its p is below {alpha:.3g} % after adjustment and its interval excludes 0. "
            "p is from Wilcoxon's signed-rank test (exact) with six pairs or more, from the paired t-test with fewer.",
        ),
        (
            "Several claims",
            f"p values are adjusted by Holm's method over the {claims} claims of the study, so that the chance that any "
            f"claim is wrongly supported stays below {alpha:.3g} %.",
        ),
        (
            "Equality",
            "No difference shown is not equality. Equality needs two one-sided tests against the margin of "
            f"{study.margin:g} points, which was fixed in the study file before the runs.",
        ),
        (
            "Undecided",
            "Neither the claim nor its opposite is shown. The detectable difference beside it is the true difference that "
            "a single paired t-test with this spread and number of seeds finds four times in five.",
        ),
        (
            "Collapse and divergence",
            f"A run that ends below {100 * study.collapse_below:g} % has collapsed and stays in all means. A diverged run "
            "(a loss or gradient that is no number) has no final accuracy: it is counted and left out of the means. In "
            "the rank test of a pair it is worse than any run that ended; if both runs diverged the pair is left out. "
            "Settings of which runs diverged on one side alone are never called equal. Where a best warmup is sought, a "
            "setting whose run diverged is not the best one for that seed.",
        ),
    ]
    return list((dict(terms) | dict(look_method(results))).items())


def _varied(results: StudyResults) -> list[str]:
    study = results.study
    names: dict[str, None] = {}
    for arm in study.arms.values():
        names.update(dict.fromkeys((*arm.axes, *arm.set, *(arm.search.over if arm.search else ()))))
    return list(names)


def glossary(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return recipe fields with the text that documents them."""
    fields = Recipe.model_fields
    return [(name, " ".join((fields[name].description or "").split())) for name in names if name in fields]


def environment_facts(environment: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return recorded facts about the environment; several values of one fact are all named."""
    return [(_FACTS.get(name, name.replace("_", " ")), ", ".join(values)) for name, values in environment.items()]
