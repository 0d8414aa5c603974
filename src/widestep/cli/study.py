"""`widestep study run` and `retry`: the many runs of a question."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from widestep.cli.progress import ProgressView, duration, say
from widestep.cli.study_cluster import run_on_cluster, site_settings
from widestep.cli.study_looks import look_on
from widestep.cli.study_search import search_lines, search_on
from widestep.cli.study_status import exit_code_of, say_audit
from widestep.cli.study_wanted import Until, num_jobs_of, refuse_without_files, wanted_study
from widestep.errors import Stopped, UsageError
from widestep.files import write_atomically
from widestep.plan.plain import csv_text, plain
from widestep.plan.runplan import RunPlan
from widestep.study.audit import audit
from widestep.study.campaign import Campaign, scheduler_named
from widestep.study.crew import Crew, ProgressMeter
from widestep.study.estimate import estimate, plans
from widestep.study.searching import summaries
from widestep.study.store import StudyStore
from widestep.study.study import Trial, as_written


def run(
    study: str = "poster-digits",
    *,
    out: Path | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    until: Until | None = None,
    report: bool = True,
    on: Literal["local", "slurm", "lsf"] = "local",
    cluster: Path | None = None,
    account: str | None = None,
    partition: str | None = None,
    time: str | None = None,
    submit_only: bool = False,
    **fields: str,
) -> int:
    """Run what is missing of a study, then report. The same command again goes on where it stopped.

    For example:
      widestep study run poster-digits
      widestep study run my-study.toml --seeds 6 --jobs 2
      widestep study run my-study.toml --on slurm --cluster site.toml --time 4h
      widestep study run poster-digits --until decided
      widestep study run poster --data folder:/data/imagenet

    Parameters
    ----------
    study
        Name of a shipped study, or a TOML file.
    out
        Directory of the study; otherwise studies/NAME.
    seeds
        Use only the first so many seeds.
    jobs
        Runs, or stacks of runs, at a time; otherwise one a GPU or core.
    until
        Given as "decided", add seeds only where a claim is open.
    report
        Make the report at the end.
    on
        Where: on this machine, or by jobs of SLURM or LSF, which are followed until all is done.
    cluster
        TOML file with the site's settings for the jobs; docs/clusters.md explains them.
    account
        Account or project that the jobs are charged to.
    partition
        Partition or queue of the jobs.
    time
        How long one job may last: 30m, 4h. What is left then is queued again.
    submit_only
        Submit the jobs and return, instead of following them.
    fields
        Recipe fields changed in every run, by name.
    """
    directory, wanted = wanted_study(study, out, seeds, fields, until)
    site = site_settings(on, cluster, account, partition, time, submit_only=submit_only, jobs=jobs)
    num_jobs = num_jobs_of(wanted, jobs)
    run_plans = plans(wanted.trials())
    refuse_without_files(wanted)
    store = StudyStore.create(directory, wanted)
    search_on(store)
    if on != "local":
        done = goes_on = True
        while done and goes_on:
            num_known = len(store.trials)
            done = run_on_cluster(Campaign(store, scheduler_named(on), site), store, run_plans, submit_only=submit_only)
            goes_on = done and (look_on(store) or search_on(store, num_known))
        return _conclude(store, None, report) if done else Stopped.exit_code
    return _go_on(store, run_plans, num_jobs, report, store.forget_failures())


def retry(
    directory: Path = Path("studies/poster-digits"),
    *,
    only: list[str] | None = None,
    fresh: bool = False,
    jobs: int | None = None,
    report: bool = True,
) -> int:
    """Try the failed trials of a study again, and whatever else is left of it.

    For example:
      widestep study retry studies/poster-digits
      widestep study retry studies/poster-digits --only warmup-40 --fresh

    Parameters
    ----------
    directory
        Directory of the study.
    only
        Of the failed trials, only those of these arms, or whose fingerprint begins so.
    fresh
        Begin them anew, on images or a model that were changed; what they had is moved aside.
    jobs
        Runs, or stacks of runs, at a time; otherwise one a GPU or core.
    report
        Make the report at the end.
    """
    store = StudyStore.open(directory)
    run_plans, num_jobs = plans(store.study.trials()), num_jobs_of(store.study, jobs)
    search_on(store)
    return _go_on(store, run_plans, num_jobs, report, store.forget_failures(_chosen(store, only), fresh=fresh))


def _chosen(store: StudyStore, only: Sequence[str] | None) -> Callable[[Trial], bool]:
    """Return what says whether a trial is among those that `--only` names; raises UsageError when a word names none."""

    def named(trial: Trial, word: str) -> bool:
        return word == trial.arm or (word != "" and trial.fingerprint.startswith(word))

    for word in only or ():
        if not any(named(trial, word) for trial in store.trials):
            raise UsageError(
                f"--only takes arms of the study ({', '.join(store.study.arms)}) or beginnings of fingerprints. "
                f"{word!r} is neither; `widestep study status` lists them."
            )
    return lambda trial: only is None or any(named(trial, word) for word in only)


def _go_on(store: StudyStore, run_plans: dict[str, RunPlan], num_jobs: int, report: bool, num_again: int) -> int:
    """Run what is left of a study, of which `num_again` trials failed before, and return the exit code."""
    failed_before = f" ({num_again} of them failed before)" if num_again else ""
    say(f"study      {store.study.name}: {store.study.title}")
    stopped, goes_on = None, True
    while goes_on:
        run_plans |= plans([trial for trial in store.trials if trial.fingerprint not in run_plans])
        missing = [state.trial for state in store.states() if state.runnable or state.status == "running"]
        most = len(store.trials) + len(store.searched.to_come())
        so_far = "" if store.searched.is_over() else f" so far, at most {most}"
        num_known = len(store.trials)
        say(f"trials     {num_known}{so_far}, {len(missing)} to run{failed_before}")
        if missing:
            predicted = estimate(store, run_plans, num_jobs)
            say(f"time       {duration(predicted.seconds)} with {num_jobs} at a time; basis: {predicted.basis}")
            stopped = _work(store, run_plans, num_jobs, predicted.seconds)
        goes_on = stopped is None and (look_on(store) or search_on(store, num_known))
        failed_before = ""
    return _conclude(store, stopped, report)


def _work(store: StudyStore, run_plans: dict[str, RunPlan], num_jobs: int, predicted: float | None) -> str | None:
    """Start the workers, show the progress and return the name of the signal that stopped them, if one did."""
    num_workers = min(num_jobs, len(store.trials))
    view = ProgressView(ProgressMeter(store, run_plans), num_workers, predicted)
    try:
        stopped = Crew(store, num_workers, store.study.device).watch(view.show)
    finally:
        view.close()
    return stopped.name if stopped else None


def _status_csv(store: StudyStore) -> str:
    rows = []
    for state in store.states():
        trial = state.trial
        settings = as_written(trial.settings)
        rows.append([trial.fingerprint, trial.arm, settings, trial.seed, state.status, state.val_accuracy, state.reason])
    return csv_text(["fingerprint", "arm", "settings", "seed", "status", "val_accuracy", "reason"], rows)


def _conclude(store: StudyStore, stopped: str | None, report: bool) -> int:
    """Write status.csv and the report, and return the exit code; a study that was asked to stop does not linger."""
    lines: list[str] = []
    written = None
    while written != (table := _status_csv(store)):  # another runner may have finished something in the meantime
        write_atomically(store.directory / "status.csv", table)
        if report and not stopped and any(state.finished for state in store.states()):
            from widestep.report.build import build_report, summary_lines

            lines = summary_lines(build_report(store.directory))
        written = table
    if stopped:
        say(f"Stopped by {stopped}; everything is saved. The same command goes on from there.")
        return Stopped.exit_code
    for line in [*search_lines(summaries(store)), *lines]:
        print(plain(line))
    if not lines:
        say_audit(audit(store).found)
    return exit_code_of(store.states(), store.is_concluded())
