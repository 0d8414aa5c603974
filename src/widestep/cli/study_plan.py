"""`widestep study plan`: what a study would run, how long it takes, without writing or starting anything."""

import json as json_module
from pathlib import Path

from widestep.cli.progress import duration
from widestep.cli.study_wanted import num_jobs_of, wanted_study
from widestep.plan.runplan import RunPlan
from widestep.study.audit import planned
from widestep.study.estimate import estimate, plans
from widestep.study.store import StudyStore


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
    store = StudyStore(*wanted_study(study, out, seeds, fields))
    num_jobs = num_jobs_of(store.study, jobs)
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
