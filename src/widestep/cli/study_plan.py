"""`widestep study plan`: what a study would run, how long it takes, how much disk, without writing or starting anything."""

import json as json_module
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from widestep.cli import study_probe
from widestep.cli.progress import duration
from widestep.cli.study_cluster import site_settings
from widestep.cli.study_looks import looks_planned, planned_lines
from widestep.cli.study_power import power_lines, power_of
from widestep.cli.study_probe import Probe
from widestep.cli.study_wanted import Until, num_jobs_of, refuse_without_files, wanted_study
from widestep.errors import UsageError
from widestep.plan.plain import plain
from widestep.plan.runplan import RunPlan
from widestep.records.fact import size
from widestep.study.audit import planned
from widestep.study.campaign import Campaign, planned_scripts, scheduler_named
from widestep.study.estimate import Estimate, data_facts, estimate, plans
from widestep.study.footprint import DiskNeed, Footprint, disk_need
from widestep.study.store import StudyStore
from widestep.study.study import Trial


def plan(
    study: str = "poster-digits",
    *,
    out: Path | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    until: Until | None = None,
    images_per_second: float | None = None,
    probe: bool = False,
    sd_from: Path | None = None,
    json: bool = False,
    on: Literal["local", "slurm", "lsf"] = "local",
    cluster: Path | None = None,
    account: str | None = None,
    partition: str | None = None,
    time: str | None = None,
    **fields: str,
) -> int:
    """Show a study's trials, steps, time and disk; write nothing and start nothing.

    For example:
      widestep study plan poster-digits
      widestep study plan poster-digits --probe
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
        Runs, or stacks of runs, at a time; on a cluster the tasks say it.
    until
        Given as "decided", show how many runs it takes to add seeds only where a claim is open.
    images_per_second
        Training speed of one job, when you know it.
    probe
        Train a few steps of each kind of run in a temporary directory first.
    sd_from
        Directory of an earlier study: its spread tells what the seeds can show.
    json
        Print as JSON.
    on
        Show the job scripts for slurm or lsf, too.
    cluster
        TOML file with the site's settings for the jobs; docs/clusters.md explains them.
    account
        Account or project that the jobs are charged to.
    partition
        Partition or queue of the jobs.
    time
        How long one job may last: 30m, 4h.
    fields
        Recipe fields changed in every run, by name.
    """
    site = site_settings(on, cluster, account, partition, time, jobs=jobs)
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise UsageError(f"A speed is a number of images a second above 0. --images-per-second is {images_per_second:g}.")
    store = StudyStore(*wanted_study(study, out, seeds, fields, until), whole=True)
    num_jobs = num_jobs_of(store.study, jobs)
    facts = data_facts(store.trials)
    run_plans = plans(store.trials, facts)
    if probe:
        refuse_without_files(store.study)
    found = study_probe.probe(store, run_plans, num_jobs) if probe else None
    if on != "local":
        num_jobs = Campaign(store, scheduler_named(on), site).num_side_by_side()
    costs = found.costs if found else None
    predicted = estimate(store, run_plans, num_jobs, images_per_second=images_per_second, probed=costs)
    left = [state.trial for state in store.states() if not state.finished]
    disk, footprints = disk_need(store, left, run_plans, facts, predicted.lasting, num_jobs)
    rows = _plan_rows(store, {trial.fingerprint for trial in left}, run_plans, predicted, footprints)
    audited, power = [one.record() for one in planned(store.study, run_plans)], power_of(store, sd_from)
    looked = looks_planned(store.study)
    scripts = {} if on == "local" else planned_scripts(store, on, site)
    if json:
        said: dict[str, object] = {"power": [one.record() for one in power]}
        said |= {"scripts": {str(path): text for path, text in scripts.items()}} if scripts else {}
        said |= {"until_decided": looked} if looked else {}
        said |= {"cells": rows} | ({"audit": audited} if audited else {})
        print(json_module.dumps(_record(store, len(left), num_jobs, predicted, disk, found) | said, indent=2))
        return 0
    print(f"{plain(store.study.title)}\n")
    _print_cells(rows)
    for one in audited:
        print(plain(f"audit      {one['text']}"))
    for line in power_lines(power, store.study.level):
        print(line)
    for line in planned_lines(store.study, looked) if looked else ():
        print(line)
    for line in _lines(store, left, num_jobs, predicted, disk, found):
        print(line)
    for path, text in scripts.items():
        print(f"\n{path}\n{text}", end="")
    return 0


def _record(
    store: StudyStore, num_left: int, num_jobs: int, predicted: Estimate, disk: DiskNeed, found: Probe | None
) -> dict[str, object]:
    """Return everything as plain values; the keys stay stable."""
    return {
        "study": store.study.name,
        "trials": len(store.trials),
        "to_run": num_left,
        "jobs": num_jobs,
        "stacks": predicted.num_stacks,
        "steps": predicted.num_steps,
        "images": predicted.num_images,
        "seconds": predicted.seconds,
        "basis": predicted.basis,
        "disk": {**asdict(disk), "fits": disk.fits},
        "probe": None if found is None else {"seconds": found.seconds, "kinds_of_stack": len(found.costs)},
    }


def _print_cells(rows: list[dict[str, object]]) -> None:
    print(f"{'arm':<16} {'cell':<28} {'grid':>11} {'batch':>7} {'steps':>8} {'warmup':>7} {'peak rate':>9} {'trials':>7}")
    for row in rows:
        print(
            plain(
                f"{row['arm']:<16} {row['cell']:<28} {row['grid']:>11} {row['global_batch']:>7,} {row['steps']:>8,} "
                f"{_or_open(row['warmup_steps'], ','):>7} {_or_open(row['peak_lr'], '.4g'):>9} {row['trials']:>7}"
            )
        )
    print()


def _or_open(value: object, form: str) -> str:
    """Return a number as a cell of the table; that of a setting that is searched is open."""
    return "open" if value is None else format(value, form)


def _sought(store: StudyStore, arm: str) -> str:
    """Say which search an arm makes or waits for; nothing for any other arm."""
    spec = store.study.arms[arm]
    if spec.search is not None:
        return "searched"
    return "best found" if spec.from_search and any(c.is_open for c in store.study.cells(arm)) else ""


def _lines(
    store: StudyStore, left: Sequence[Trial], num_jobs: int, predicted: Estimate, disk: DiskNeed, found: Probe | None
) -> list[str]:
    """Say what the study comes to: trials, steps, time and disk, each with its basis."""
    at_most = "" if store.searched.is_over() else "at most "
    counted = f"trials     {at_most}{len(store.trials)} different ones ({len(store.study.seeds)} seeds)"
    if store.study.sequential is not None:
        counted = f"now        the next look needs {len(store.trials)} trials"
    num_stacks = "" if predicted.num_stacks == len(left) else f" in {predicted.num_stacks} stacks"
    lines = [
        f"{counted}, {len(left)} to run{num_stacks}",
        f"images     {predicted.num_images:,} training images in {predicted.num_steps:,} steps{_up_to(left)}",
    ]
    if found is not None:
        lines.append(f"probe      {len(found.costs)} kinds of stack measured in {found.seconds:.0f} s")
    lines.append(f"time       {duration(predicted.seconds)} with {num_jobs} at a time; basis: {predicted.basis}")
    free = "" if disk.free is None else f", {size(disk.free)} free"
    if disk.num_bytes is None or disk.at_most is None:
        return [*lines, f"disk       unknown{free}; basis: {plain(disk.basis)}"]
    lines.append(f"disk       {size(disk.num_bytes)}, at most {size(disk.at_most)}{free}; basis: {disk.basis}")
    if disk.fits is False:
        lines.append(f"warning    the study does not fit on the disk of {plain(str(store.directory))}; choose another --out")
    return lines


def _up_to(left: Sequence[Trial]) -> str:
    """Say that trials under AdaScale are counted at their longest."""
    some = any(trial.recipe.scaling == "adascale" for trial in left)
    return " at most; AdaScale ends where its gains add up, often long before" if some else ""


def _plan_rows(
    store: StudyStore,
    left: set[str],
    run_plans: dict[str, RunPlan],
    predicted: Estimate,
    footprints: Mapping[str, Footprint],
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for arm in store.study.arms:
        search, sought = store.study.arms[arm].search, _sought(store, arm)
        for cell in store.study.bases(arm):
            names = [cell.fingerprint(seed) for seed in store.study.seeds]
            if search is not None or cell.is_open:
                names = [
                    one.fingerprint
                    for one in store.trials
                    if one.arm == arm and cell.settings.items() <= one.settings.items()
                ]
            run_plan = run_plans[names[0]]
            own = [name for name in names if name in left]
            rows.append(
                {
                    "arm": arm,
                    "cell": f"{cell.label}, {sought}" if cell.settings and sought else sought or cell.label,
                    "grid": str(cell.recipe.grid),
                    "global_batch": cell.recipe.grid.global_batch,
                    "steps": run_plan.total_steps,
                    "warmup_steps": None if sought else run_plan.schedule.warmup_steps,
                    "peak_lr": None if sought else cell.recipe.peak_lr,
                    "trials": len(names),
                    "to_run": len(own),
                    "seconds": None if predicted.seconds is None else sum(predicted.of_trial[name] for name in own),
                    "bytes": sum(footprints[name].at_end for name in own) if footprints.keys() >= {*own} else None,
                }
            )
    return rows
