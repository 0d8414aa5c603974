"""From a study directory, or from run directories, to a page, its figures and findings on disk."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from widestep.errors import UsageError
from widestep.files import explained, write_atomically, write_json
from widestep.plan.plain import csv_text, plain
from widestep.plan.settings_file import read_text
from widestep.report.audit import audit_records
from widestep.report.batchnorm import COLUMNS, Group, batchnorm_rows, batchnorm_table, study_groups
from widestep.report.claims import Finding, judge
from widestep.report.cost import cost_table, study_cost
from widestep.report.differences import claim_figures
from widestep.report.drawing import draw
from widestep.report.figures import figure_data
from widestep.report.optimum import best_warmups
from widestep.report.page import FigureBlock, Page, interval_text, render, signed
from widestep.report.plotted import FigureData
from widestep.report.poster import poster, poster_record, summary_record
from widestep.report.results import Diverged, Missing, SeedRun, StudyResults, read_study
from widestep.report.runs import LEVEL, audit_runs, read_runs, run_figures, run_groups, run_page
from widestep.report.searches import search_csv, search_records
from widestep.report.sections import study_page
from widestep.report.sequential import saved_words, sequential_records
from widestep.report.slope import warmup_slopes
from widestep.report.trials import trials_csv
from widestep.study.audit import Audit, audit
from widestep.study.store import StudyStore

_MOST_SAID = 5
_LONGEST_NAME = 24


@dataclass(frozen=True)
class ReportSummary:
    """What a report says in short, and where it lies."""

    page: Path
    num_trials: int
    num_complete: int
    num_diverged: int
    num_missing: int
    findings: list[Finding] = field(default_factory=list)
    audit: list[str] = field(default_factory=list)
    looks: str = ""
    damaged: list[str] = field(default_factory=list)


def build_report(study_directory: Path, *, with_poster: bool = False) -> ReportSummary:
    """Write a study's report: index.html, figures/, trials.csv, findings.json, summary.json, cost.json, audit.json and more.

    Where runs have compared them, batchnorm.csv; with a poster also poster.pdf, poster.svg and poster.json. A partial study
    gives a partial report. findings.json holds an entry for each claim, then one for how the best warmup goes with the
    batch, then one for each thing that the audit found.

    Raises
    ------
    UsageError
        When the directory holds no study.
    EnvironmentFault
        When the report cannot be written.
    """
    results = read_study(study_directory)
    findings, audited = judge(results), audit(StudyStore(study_directory, results.study))
    groups, level = study_groups(results), results.study.level
    slopes = [one.record() for one in warmup_slopes(results)]
    out = study_directory / "report"
    figures = [_write_figure(out, figure_data(results, spec)) for spec in results.study.figures]
    figures += [_write_figure(out, data) for data in claim_figures(findings)]
    cost = study_cost(results)
    _write(
        out,
        study_page(
            results, findings, best_warmups(results), figures, audited, [batchnorm_table(groups, level), cost_table(cost)]
        ),
    )
    _write_numbers(out, audited, groups, level)
    files = {
        "findings.json": [
            *(one.record() for one in findings),
            *slopes,
            *audit_records(audited),
            *sequential_records(results),
            *search_records(results.searches),
        ],
        "cost.json": cost.record(),
        "summary.json": summary_record(results, read_text(study_directory / "study.toml")),
    }
    for name, value in files.items():
        write_json(out / name, value)
    write_atomically(out / "trials.csv", trials_csv(results))
    if results.searches:
        write_atomically(out / "search.csv", search_csv(results.searches))
    if with_poster:
        _write_poster(out, results, findings, [block.data for block in figures], files)
    return ReportSummary(
        out / "index.html",
        results.num_wanted,
        results.count(SeedRun),
        results.count(Diverged),
        results.count(Missing),
        findings,
        [plain(one.text) for one in audited.found],
        saved_words(results),
        [
            f"trials/{name}: {outcome.reason}"
            for name, outcome in results.outcomes.items()
            if isinstance(outcome, Missing) and outcome.is_damaged
        ],
    )


def build_run_report(directories: Sequence[Path], out: Path) -> ReportSummary:
    """Write a page with accuracy and learning-rate curves, a table of results and an audit for single runs.

    Raises
    ------
    UsageError
        When a directory holds no run.
    StoreError
        When the records of a run are damaged.
    EnvironmentFault
        When the report cannot be written.
    """
    if not directories:
        raise UsageError("A report is about at least one run. Give the directory of a run or of a study.")
    runs = read_runs(directories)
    audited, groups = audit_runs(runs), run_groups(runs)
    figures = [_write_figure(out, data) for data in run_figures(runs)]
    _write(out, run_page(runs, figures, audited, groups))
    _write_numbers(out, audited, groups, LEVEL)
    states = [run.state for run in runs.values()]
    complete, diverged = states.count("complete"), states.count("diverged")
    missing, found = len(runs) - complete - diverged, [plain(one.text) for one in audited.found]
    return ReportSummary(out / "index.html", len(runs), complete, diverged, missing, audit=found)


def _write_poster(
    out: Path, results: StudyResults, findings: list[Finding], figures: list[FigureData], files: dict[str, Any]
) -> None:
    from widestep.report.poster_drawing import draw_poster

    drawn = draw_poster(poster(results, findings, figures, {**files, "study.toml": results.study.model_dump()}))
    write_atomically(out / "poster.pdf", drawn.pdf)
    write_atomically(out / "poster.svg", drawn.svg)
    write_json(out / "poster.json", poster_record(drawn.shown))


def _write(out: Path, page: Page) -> None:
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "index.html", render(page))


def _write_numbers(out: Path, audited: Audit, groups: Sequence[Group], level: float) -> None:
    write_json(out / "audit.json", audited.record())
    if groups:
        write_atomically(out / "batchnorm.csv", csv_text(COLUMNS, batchnorm_rows(groups, level)))


def _write_figure(out: Path, data: FigureData) -> FigureBlock:
    folder, drawing = out / "figures", draw(data)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{data.file_name}.svg", drawing.svg)
    write_atomically(folder / f"{data.file_name}.png", drawing.png)
    write_atomically(folder / f"{data.file_name}.csv", csv_text(data.columns(), data.rows()))
    return FigureBlock(data, drawing)


def summary_lines(summary: ReportSummary, width: int = 100) -> list[str]:
    """Return the findings, and what the audit found, as lines of at most `width` characters, for a terminal."""
    lines = [f"{summary.num_complete} of {summary.num_trials} complete"]
    lines[0] += f", {summary.num_diverged} diverged" if summary.num_diverged else ""
    lines[0] += f", {summary.num_missing} missing" if summary.num_missing else ""
    numbers = [
        f"{signed(one.effect)} {one.unit} {interval_text(one.interval)}".rstrip() + f"  n={one.n}"
        for one in summary.findings
    ]
    right = max((len(text) for text in numbers), default=0)
    name = min(_LONGEST_NAME, max((len(one.claim) for one in summary.findings), default=0))
    room = max(12, width - right - name - 12 - 6)
    for one, text in zip(summary.findings, numbers, strict=True):
        claim = one.text if len(one.text) <= room else one.text[: room - 1] + "…"
        called = one.claim if len(one.claim) <= name else one.claim[: name - 1] + "…"
        lines.append(f"{one.verdict:<12}  {called:<{name}}  {claim:<{room}}  {text}"[:width])
    lines += [summary.looks] if summary.looks else []
    for text in summary.audit:
        lines += textwrap.wrap(text, width, initial_indent="audit  ", subsequent_indent="       ")
    for text in summary.damaged[:_MOST_SAID]:
        lines += textwrap.wrap(text, width, initial_indent="damaged  ", subsequent_indent="         ")
    if summary.damaged[_MOST_SAID:]:
        lines.append(f"damaged  and {len(summary.damaged) - _MOST_SAID} more; the page has all")
    return [*lines, f"report: {summary.page}"]
