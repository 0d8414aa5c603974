"""`widestep study`: plan, run, look at and retry the many runs of a question."""

import json as json_module
from collections.abc import Sequence
from pathlib import Path

from widestep.cli.progress import ProgressView, duration, say
from widestep.errors import Stopped, UsageError
from widestep.files import write_atomically
from widestep.plan.plain import csv_text
from widestep.plan.runplan import RunPlan
from widestep.study import study as definition
from widestep.study.audit import audit, planned, recipe_key
from widestep.study.coincidence import Statement
from widestep.study.crew import Crew, ProgressMeter, default_processes
from widestep.study.estimate import estimate, plans
from widestep.study.store import StudyStore, TrialState
from widestep.study.study import Study, Trial

_MOST_SAID = 5


def run(
    study: str = "poster-digits",
    *,
    out: Path | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    report: bool = True,
    **fields: str,
) -> int:
    """Run what is missing of a study, then report. The same command again goes on where it stopped.

    For example:
      widestep study run poster-digits
      widestep study run my-study.toml --seeds 6 --jobs 2
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
    report
        Make the report at the end.
    fields
        Recipe fields changed in every run, by name.
    """
    directory, wanted = _resolve(study, out, seeds, fields)
    num_jobs = _num_jobs(wanted, jobs)
    run_plans = plans(wanted.trials())
    _refuse_without_files(wanted)
    return _go_on(StudyStore.create(directory, wanted), run_plans, num_jobs, report)


def plan(
    study: str = "poster-digits",
    *,
    out: Path | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    images_per_second: float | None = None,
    json: bool = False,
    **fields: str,
) -> int:
    """Show a study's trials, steps and predicted time; write nothing and start nothing.

    For example:
      widestep study plan poster-digits
      widestep study plan poster --images-per-second 80000

    Parameters
    ----------
    study
        Name of a shipped study, or a TOML file.
    out
        Directory of the study, to see what is left of it.
    seeds
        Use only the first so many seeds.
    jobs
        Runs, or stacks of runs, at a time.
    images_per_second
        Training speed of one job, when you know it.
    json
        Print as JSON.
    fields
        Recipe fields changed in every run, by name.
    """
    store = StudyStore(*_resolve(study, out, seeds, fields))
    num_jobs = _num_jobs(store.study, jobs)
    run_plans = plans(store.trials)
    audited = planned(store.study, run_plans)
    missing = [state.trial for state in store.states() if not state.finished]
    images = sum(run_plans[trial.fingerprint].total_images for trial in missing)
    predicted = estimate(store, images, num_jobs, images_per_second)
    rows = _plan_rows(store, run_plans)
    if json:
        facts = {"study": store.study.name, "trials": len(store.trials), "to_run": len(missing), "jobs": num_jobs}
        timing = {"images": images, "seconds": predicted.seconds, "basis": predicted.basis}
        said = {"audit": [one.record() for one in audited]} if audited else {}
        print(json_module.dumps(facts | timing | {"cells": rows} | said, indent=2))
        return 0
    print(f"{store.study.title}\n")
    print(f"{'arm':<16} {'cell':<28} {'grid':>11} {'batch':>7} {'steps':>8} {'warmup':>7} {'peak rate':>9} {'trials':>7}")
    for row in rows:
        print(
            f"{row['arm']:<16} {row['cell']:<28} {row['grid']:>11} {row['global_batch']:>7,} {row['steps']:>8,} "
            f"{row['warmup_steps']:>7,} {row['peak_lr']:>9.4g} {row['trials']:>7}"
        )
    print()
    for one in audited:
        print(f"audit      {one.text}")
    print(f"trials     {len(store.trials)} different ones ({len(store.study.seeds)} seeds), {len(missing)} to run")
    print(f"images     {images:,} training images in all")
    print(f"time       {duration(predicted.seconds)} with {num_jobs} at a time; basis: {predicted.basis}")
    return 0


def status(directory: Path = Path("studies/poster-digits"), *, json: bool = False) -> int:
    """Show the state of every trial of a study, with reason and directory.

    For example:
      widestep study status studies/poster-digits
      widestep study status studies/poster-digits --json

    Parameters
    ----------
    directory
        Directory of the study.
    json
        Print as JSON.
    """
    store = StudyStore.open(directory)
    states, found = store.states(), audit(store).found
    if json:
        print(json_module.dumps([_row(state, found) for state in states], indent=2))
    else:
        for state in states:
            accuracy = "" if state.val_accuracy is None else f"{100 * state.val_accuracy:.2f} %"
            settings = ", ".join(f"{name}={value}" for name, value in state.trial.settings.items())
            print(
                f"{state.status:<9} {accuracy:>8} seed {state.trial.seed:<4} {state.trial.arm:<14} {settings:<24} "
                f"{state.directory} {state.reason or ''}".rstrip()
            )
        counts = {status: sum(state.status == status for state in states) for status in {state.status for state in states}}
        print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    _say_audit(found)
    return _verdict(store)


def _row(state: TrialState, found: Sequence[Statement]) -> dict[str, object]:
    """Return a trial's state, with what the audit found about its recipe where it found something."""
    key = recipe_key(state.trial.recipe)
    texts = [one.text for one in found if key in one.recipes]
    return state.as_dict() | ({"audit": texts} if texts else {})


def retry(directory: Path = Path("studies/poster-digits"), *, jobs: int | None = None, report: bool = True) -> int:
    """Try the failed trials of a study again, and whatever else is left of it.

    For example:
      widestep study retry studies/poster-digits

    Parameters
    ----------
    directory
        Directory of the study.
    jobs
        Runs, or stacks of runs, at a time; otherwise one a GPU or core.
    report
        Make the report at the end.
    """
    store = StudyStore.open(directory)
    return _go_on(store, plans(store.trials), _num_jobs(store.study, jobs), report)


def work(directory: Path) -> int:
    """Join a study as one more worker process: run trials that nobody has claimed until none is left.

    For example:
      widestep study work studies/poster-digits

    Parameters
    ----------
    directory
        Directory of a study that was started with `widestep study run`.
    """
    store = StudyStore.open(directory)
    from widestep.cli.console import SilentWatcher
    from widestep.plan.cadence import Cadence
    from widestep.plan.execution import Execution
    from widestep.study.work import work as work_on
    from widestep.train.loop import train
    from widestep.train.stop import Deadline, StopRequest
    from widestep.workers.world import World

    stop = StopRequest(Deadline.of(None))
    stop.install()
    execution = Execution(
        device=store.study.device,
        tensorboard=False,
        checkpoint_every=Cadence(10, "s"),
        log_every=10,
        compare_batchnorm=store.study.compare_batchnorm,
    )

    def execute(trials: Sequence[Trial]) -> None:
        with World() as world:
            train([store.run(trial) for trial in trials], execution, world, SilentWatcher(), stop)

    work_on(store, execute)
    return 0


def _resolve(study: str, out: Path | None, seeds: int | None, fields: dict[str, str]) -> tuple[Path, Study]:
    found = definition.parse(definition.source_text(study), f"study {study}", is_new=True)
    settings = {name.lstrip("-").replace("-", "_"): value for name, value in fields.items()}
    changed = definition.changed(found, seeds=seeds, settings=settings)
    return out or Path("studies") / found.name, changed


def _num_jobs(study: Study, jobs: int | None) -> int:
    if jobs is not None and jobs < 1:
        raise UsageError(f"At least one run takes place at a time. --jobs is {jobs}; give 1 or more, or leave it out.")
    return jobs or default_processes(max(c.recipe.threads for arm in study.arms for c in study.cells(arm)), study.device)


def _refuse_without_files(study: Study) -> None:
    if any(cell.recipe.data == "imagenet" for arm in study.arms for cell in study.cells(arm)):
        raise UsageError(
            "A study needs the files of its data set. Its recipe names imagenet, which is not shipped; give the folder that "
            "holds train and val with --data folder:PATH."
        )


def _go_on(store: StudyStore, run_plans: dict[str, RunPlan], num_jobs: int, report: bool) -> int:
    """Run what is left of a study, failures included, and return the exit code."""
    num_again = store.forget_failures()
    missing = [state.trial for state in store.states() if not state.finished]
    failed_before = f" ({num_again} of them failed before)" if num_again else ""
    say(f"study      {store.study.name}: {store.study.title}")
    say(f"trials     {len(store.trials)}, {len(missing)} to run{failed_before}")
    stopped = None
    if missing:
        images = sum(run_plans[trial.fingerprint].total_images for trial in missing)
        predicted = estimate(store, images, num_jobs)
        say(f"time       {duration(predicted.seconds)} with {num_jobs} at a time; basis: {predicted.basis}")
        stopped = _work(store, run_plans, num_jobs)
    return _conclude(store, stopped, report)


def _work(store: StudyStore, run_plans: dict[str, RunPlan], num_jobs: int) -> str | None:
    """Start the workers, show the progress and return the name of the signal that stopped them, if one did."""
    num_workers = min(num_jobs, len(store.trials))
    meter = ProgressMeter(store, run_plans)
    view = ProgressView(meter)
    try:
        stopped = Crew(store, num_workers, store.study.device).watch(view.show)
    finally:
        view.close()
    return stopped.name if stopped else None


def _plan_rows(store: StudyStore, run_plans: dict[str, RunPlan]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for arm in store.study.arms:
        for cell in store.study.cells(arm):
            run_plan = run_plans[cell.fingerprint(store.study.seeds[0])]
            rows.append(
                {
                    "arm": arm,
                    "cell": cell.label,
                    "grid": str(cell.recipe.grid),
                    "global_batch": cell.recipe.grid.global_batch,
                    "steps": run_plan.total_steps,
                    "warmup_steps": run_plan.schedule.warmup_steps,
                    "peak_lr": cell.recipe.peak_lr,
                    "trials": len(store.study.seeds),
                }
            )
    return rows


def _status_csv(store: StudyStore) -> str:
    rows = []
    for state in store.states():
        trial = state.trial
        settings = ", ".join(f"{name}={value}" for name, value in trial.settings.items())
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
    for line in lines:
        print(line)
    if not lines:
        _say_audit(audit(store).found)
    return _verdict(store)


def _say_audit(found: Sequence[Statement]) -> None:
    for one in found[:_MOST_SAID]:
        say(f"audit      {one.text}")
    if len(found) > _MOST_SAID:
        say(f"audit      and {len(found) - _MOST_SAID} more; the report has all")


def _verdict(store: StudyStore) -> int:
    states = store.states()
    failed = [state for state in states if state.status == "failed"]
    for state in failed[:_MOST_SAID]:
        trial = state.trial
        say(f"failed     {trial.arm} {trial.settings} seed {trial.seed}: {state.reason} ({state.directory})")
    if failed:
        return 1
    return 0 if all(state.finished for state in states) else 75
