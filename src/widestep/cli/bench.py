"""`widestep bench`: how fast a recipe trains on this machine, and what its time goes into."""

import importlib
import json as json_module
import sys
from dataclasses import asdict
from functools import partial

from widestep.cli.options import Request, cautions, request
from widestep.cli.sentences import explaining
from widestep.data.facts import describe
from widestep.errors import UsageError
from widestep.plan.runplan import RunPlan
from widestep.workers.launched import Launch, detect
from widestep.workers.launcher import hear_signals, run_processes
from widestep.workers.pulse import Pulse


def bench(*, recipe: str = "digits", seconds: float = 30.0, json: bool = False, **fields: str) -> int:
    """Train the first steps of a recipe, write nothing, and say how fast it was and why.

    Shares of the time: data (waiting for images), reduction (exchanging gradients
    with other processes) and compute. Buy loader cores for the first, a faster
    network or more images per worker for the second, faster devices for the third.

    For example:
      widestep bench --recipe poster --data folder:PATH --grid 1x1x32
      widestep bench --recipe digits --processes 2
      torchrun --nproc-per-node 4 -m widestep bench --recipe my.toml --json

    Parameters
    ----------
    recipe
        Name of a shipped recipe, or a TOML file.
    seconds
        About how long to measure.
    json
        Print as JSON.
    fields
        Any field of the recipe or of the execution by its name.
    """
    if not seconds > 0:
        raise UsageError(f"--seconds must be above 0. Got {seconds:g}.")
    wanted = request(recipe, fields)
    launch = detect()
    if launch is None and wanted.execution.processes > 1:
        importlib.import_module("widestep.train.bench")  # with all of torch, once for all processes
        body = partial(_measure, wanted, seconds, json)
        return run_processes(
            explaining(body),
            wanted.execution.processes,
            restarts=0,
            hang_seconds=wanted.execution.hang_timeout,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    return _measure(wanted, seconds, json, launch or Launch("nobody"), Pulse())


def _measure(wanted: Request, seconds: float, as_json: bool, launch: Launch, pulse: Pulse) -> int:
    """Be one process of the measurement; process 0 shows what it found."""
    from widestep.train.bench import measure

    if launch.is_ours:
        hear_signals()
    found = measure(wanted.recipe, wanted.execution, launch, pulse, seconds)
    if launch.process > 0:
        return 0
    if as_json:
        print(json_module.dumps(asdict(found), indent=2))
        return 0
    chosen = wanted.recipe
    facts = describe(chosen.data, train_images=chosen.train_images, image_size=chosen.image_size)
    for line in cautions(chosen, facts.num_train):
        print(f"warning    {line}", file=sys.stderr)
    plan = RunPlan(chosen, facts.num_train)
    hours = plan.total_steps * found.seconds_per_step / 3600
    data, reduction, compute = (
        "beside the backward pass" if share is None else f"{100 * share:.0f} %"
        for share in (found.data_share, found.reduction_share, found.compute_share)
    )
    print(f"recipe     {wanted.name}: {chosen.model}, {chosen.grid}, {found.global_batch:,} images a step")
    print(f"devices    {found.num_processes} process(es) on {found.device}, {chosen.threads} thread(s) each")
    print(f"speed      {found.images_per_second:,.1f} images/s, {found.seconds_per_step:.4g} s a step ({found.steps} steps)")
    print(f"time       data {data}, compute {compute}, reduction {reduction}")
    print(f"loading    {found.loading_images_per_second:,.1f} images/s while nothing is computed")
    print(f"memory     {found.peak_memory_bytes / 2**20:,.0f} MiB at most, of process 0")
    print(f"training   {plan.total_steps:,} steps would take about {hours:,.2g} hours, evaluations not counted")
    return 0
