"""`widestep train`: one recipe into one run directory."""

import importlib
import json as json_module
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from widestep.cli.options import Request, cautions, request
from widestep.cli.region import tidy
from widestep.cli.sentences import explaining
from widestep.data.facts import describe
from widestep.errors import NumericError, StoreError, UsageError
from widestep.files import explained
from widestep.lines import read_json_lines
from widestep.plan.recipe import Recipe
from widestep.plan.recipes import changed
from widestep.plan.runplan import RunPlan
from widestep.records.machine import needed_descriptors, require_descriptors
from widestep.records.result import RunResult
from widestep.records.run import Run, move_aside
from widestep.train.stop import Deadline, StopRequest
from widestep.workers.launched import Launch, detect, is_requeued, job_id
from widestep.workers.launcher import run_processes
from widestep.workers.pulse import Pulse


def train(
    *,
    recipe: str = "digits",
    fresh: bool = False,
    dry_run: bool = False,
    explain_optimizer: bool = False,
    json: bool = False,
    **fields: str,
) -> int:
    """Train one recipe into one run directory; the same command again goes on, or says that it is complete.

    Every field of the recipe and of the execution is an option: --grid 4x6x32
    --epochs 10 --base-lr 0.1 --warmup 5ep --scaling linear --reference-batch 256
    --seed 1 --processes 2 --out DIR; `widestep recipes fields` explains them all.
    Under torchrun, srun, jsrun or mpirun the command joins that launch instead.

    For example:
      widestep train --recipe digits --grid 40x1x8 --warmup 4ep
      widestep train --recipe digits --processes 2 --out runs/two
      widestep train --recipe poster --data folder:PATH --grid 1x2x8 --epochs 4st
      widestep train --recipe poster --optimizer lars-tf --explain-optimizer

    Parameters
    ----------
    recipe
        Name of a shipped recipe, or a TOML file.
    fresh
        Move an old run in the directory aside and begin again.
    dry_run
        Show the plan and stop.
    explain_optimizer
        Show what the optimizer does to which parameter, and stop.
    json
        Print the result as JSON on stdout.
    fields
        Any field by its name.
    """
    wanted = request(recipe, fields)
    if dry_run:
        return _show_plan(wanted)
    if explain_optimizer:
        return _explain_optimizer(wanted.recipe, json)
    launch = detect()
    if launch is not None:
        return _take_part(wanted, json, launch, Pulse(), fresh=fresh)
    if fresh:
        _begin_afresh(wanted.directory)
    result = _finished(Run(wanted.directory, wanted.recipe))
    if result is not None:
        return _outcome(wanted, result, json)
    processes = wanted.execution.processes
    if processes == 1 and "torch" in sys.modules:  # a test or a notebook: a process that may have computed is not copied
        return _take_part(wanted, json, Launch("nobody"), Pulse())
    require_descriptors(needed_descriptors(processes))  # with fewer they could not even meet
    importlib.import_module("widestep.cli.console")  # with all of torch, once for all processes
    restarts, hang_seconds = wanted.execution.restarts, wanted.execution.hang_timeout
    deadline = Deadline.of(wanted.execution.time_limit)
    body = explaining(partial(_take_part, wanted, json, deadline=deadline))
    return run_processes(
        body, processes, restarts=restarts, hang_seconds=hang_seconds, say=_say, tidy=partial(tidy, sys.stderr)
    )


def _begin_afresh(directory: Path, attempt: int = 0) -> None:
    """Move the run of a directory aside, unless this job has made it itself before it was started again."""
    job = job_id()
    if job is not None and (attempt or is_requeued()):
        with suppress(StoreError, OSError):
            if any(event.get("job") == job for event in read_json_lines(directory / "history.jsonl")):
                return
    move_aside(directory)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _take_part(
    wanted: Request, as_json: bool, launch: Launch, pulse: Pulse, *, deadline: Deadline | None = None, fresh: bool = False
) -> int:
    """Be one process of the job; process 0 shows the result."""
    deadline = deadline or Deadline.of(wanted.execution.time_limit)
    stop = StopRequest(deadline, impatient=launch.is_ours or launch.launcher == "nobody")
    if launch.is_ours:
        stop.install()
    result = _train(wanted, launch, pulse, stop, fresh)
    return _outcome(wanted, result, as_json, shown=launch.process == 0)


def _outcome(wanted: Request, result: RunResult, as_json: bool, *, shown: bool = True) -> int:
    """Show the result and return its exit code."""
    if shown:
        _show_result(wanted, result, as_json)
        sys.stdout.flush()  # here, where it can still be said that nobody could be told
    return NumericError.exit_code if result.status == "diverged" else 0


def _show_plan(wanted: Request) -> int:
    recipe = wanted.recipe
    facts = describe(recipe.data, train_images=recipe.train_images, image_size=recipe.image_size)
    plan = RunPlan(recipe, facts.num_train)
    if ":" in recipe.model:
        _check_own_model(recipe)
    print(f"data       {facts.name}: {facts.num_train:,} training and {facts.num_val:,} validation images")
    print(f"model      {recipe.model}")
    for line in plan.describe():
        print(line)
    for line in cautions(recipe, facts.num_train):
        print(f"warning    {line}")
    print(f"files      {wanted.directory}")
    return 0


def _check_own_model(recipe: Recipe) -> None:
    """Refuse what training refuses of a user's own model, in the same words, as far as nothing has to be loaded for it."""
    from widestep.models.source import ModelSource

    for field, allowed, given in (("stack", 1, recipe.stack), ("dropout", 0, recipe.dropout)):
        if given != allowed:
            raise UsageError(
                f"{field} needs a model whose layers widestep knows, unlike {recipe.model}. Set {field} to {allowed}, not "
                f"{given}."
            )
    ModelSource.find(recipe.model)
    for field, wanted in (("zero_gamma", recipe.zero_gamma), ("classifier_std", recipe.classifier_std is not None)):
        if wanted:
            raise UsageError(
                f"{field} needs a model whose layers widestep knows; the model is {recipe.model}. Leave {field} out and "
                "initialise in your own code."
            )


def _explain_optimizer(recipe: Recipe, as_json: bool) -> int:
    from widestep.models.stacked import parameter_roles
    from widestep.optim.explain import explanation, explanation_lines
    from widestep.train.setting import model_of

    facts = describe(recipe.data, train_images=recipe.train_images, image_size=recipe.image_size)
    model = model_of(changed(recipe, {"stack": "1"}), facts.num_classes, facts.image_shape)
    found = explanation(recipe, model.slot_parameters(0), parameter_roles(model))
    if as_json:
        print(json_module.dumps(found, indent=2))
    else:
        print("\n".join(explanation_lines(found)))
    return 0


def _train(wanted: Request, launch: Launch, pulse: Pulse, stop: StopRequest, fresh: bool) -> RunResult:
    from widestep.cli.console import ConsoleWatcher, SilentWatcher
    from widestep.train.loop import train as train_runs
    from widestep.workers.world import World

    run = Run(wanted.directory, wanted.recipe)

    def known_outcome() -> dict[str, Any] | None:
        if fresh:
            _begin_afresh(wanted.directory, launch.attempt)
        finished = _finished(run)
        return finished.as_dict() if finished else None

    execution = wanted.execution
    with World(launch, pulse, patience=execution.hang_timeout, join_patience=execution.join_timeout) as world:
        stop.install()  # not before all have met: who waits for the others has nothing to save, and stops at once
        known = world.broadcast_json(world.agreed(known_outcome if world.is_first else lambda: None))
        if known is not None:
            return RunResult(**known)
        watcher = ConsoleWatcher() if world.is_first else SilentWatcher()
        try:
            return train_runs([run], execution, world, watcher, stop)[0]
        finally:
            if isinstance(watcher, ConsoleWatcher):
                watcher.close()


def _finished(run: Run) -> RunResult | None:
    """Return the outcome of a run that is finished already (statement R3)."""
    with explained(run.directory):
        if not run.finished():
            return None
    run.check_recipe()
    return run.result()


def _show_result(wanted: Request, result: RunResult, as_json: bool) -> None:
    if as_json:
        print(json_module.dumps(result.as_dict(), indent=2))
        return
    if result.status == "diverged":
        print(f"diverged   {result.reason}", file=sys.stderr)
    print(
        f"{result.status:<10} {100 * result.val_accuracy:.2f} % of {result.val_images:,} validation images "
        f"({result.val_correct:,}) after {result.steps:,} steps; best {100 * result.best_val_accuracy:.2f} %"
    )
    print(f"weights    {result.weights_sha256}")
    print(f"files      {wanted.directory}")
