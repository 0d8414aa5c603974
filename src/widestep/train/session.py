"""Set up the runs of a stack on this job's processes: data, model, states and what was saved of them."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.loading import Kept, Loading
from widestep.data.source import ImageSource, open_recipe_data
from widestep.errors import DataError, StoreError, UsageError, WidestepError
from widestep.models.build import model_fingerprint
from widestep.models.probe import Findings
from widestep.models.stacked import StackedModel
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.records.environment import environment
from widestep.records.reading import read_record
from widestep.records.run import Run
from widestep.train import checkpoint
from widestep.train.batches import Batches
from widestep.train.evaluate import Evaluation
from widestep.train.inspect import check_findings, doubts, inspect
from widestep.train.loggers import Logger, open_loggers, require_services
from widestep.train.preflight import Need, check_before_training
from widestep.train.setting import build_engine, choose_device, fix_arithmetic, keep_freed_memory, model_of
from widestep.train.state import Tally, TrainState
from widestep.train.stop import StopRequest
from widestep.workers.engine import GradientEngine
from widestep.workers.launched import job_id
from widestep.workers.world import World

_OF_BYTES = ("torch", "device", "instructions", "threads")
"""What of the environment bytes depend on."""


@dataclass
class Member:
    """One run of the stack: its directory, its state, and (on process 0) who else is told its numbers."""

    run: Run
    state: TrainState
    interruptions: int = 0
    because: str = ""
    """What ended the attempt before, where our own launcher started the processes again."""
    loggers: list[Logger] = field(default_factory=list)
    evaluation: Evaluation | None = None
    """The newest."""
    last_lr: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What has changed since the run began."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Fingerprints of recipe, data and environment, as they go into a checkpoint."""

    def fail(self, error: WidestepError, spent: Mapping[str, Any] | None = None) -> None:
        """Leave word of an error that ends the run for now, and of what was spent on it; the same command tries again."""
        with contextlib.suppress(WidestepError):  # on a full disk the error itself must do
            self.run.log(f"failed: {error}")
            self.run.event("failed", step=self.state.tally.step, reason=str(error), **(spent or {}))
            self.run.set_status("failed")


@dataclass
class Session:
    """Everything that the training loop works with."""

    members: list[Member]
    model: StackedModel
    engine: GradientEngine
    batches: Batches
    source: ImageSource
    val_ids: list[NDArray[np.int64]]
    world: World
    device: torch.device
    execution: Execution
    stop: StopRequest
    notes: list[str]
    """What somebody who reads the results must know from the start."""

    @property
    def plan(self) -> RunPlan:
        """The plan of the first run; steps, epochs and images are the same for all."""
        return self.members[0].state.plan

    def close(self) -> None:
        """Close files and threads and release the directories."""
        self.source.close()
        for member in self.members:
            for logger in member.loggers:
                logger.finish("stopped")
            member.run.close()


def open_session(
    runs: Sequence[Run], execution: Execution, world: World, stop: StopRequest, kept: Kept | None = None
) -> Session:
    """Open the data, lock and begin (or continue) the runs, and put their states in place.

    Raises
    ------
    UsageError
        When the runs cannot share a stack, or a directory holds another recipe.
    DataError, StoreError, DirectoryInUse, EnvironmentFault
        As their names say; every process ends with the same exit code.
    """
    recipe = runs[0].recipe
    fix_arithmetic(recipe)
    keep_freed_memory()
    device, source, model, members, notes = world.agreed(lambda: _prepared(runs, execution, world.local_process, kept))
    world.meet_on(device)
    plan_of_slot = {member.state.slot: member.state.plan for member in members}
    plans = [plan_of_slot.get(slot, members[0].state.plan) for slot in range(recipe.stack)]
    session = Session(
        members,
        model,
        build_engine(model, recipe, world),
        Batches(source, plans, device, world.num_processes, world.process),
        source,
        [evaluated_ids(source, plan.recipe) for plan in plans],
        world,
        device,
        execution,
        stop,
        notes,
    )
    _begin(session, describe_environment(session))
    return session


def evaluated_ids(source: ImageSource, recipe: Recipe) -> NDArray[np.int64]:
    """Return the ids of the validation images that are evaluated."""
    held = source.split(recipe.seed).val
    wanted = min(recipe.val_images or len(held), len(held))
    return held[np.arange(wanted) * len(held) // wanted]


def _prepared(runs: Sequence[Run], execution: Execution, local_process: int, kept: Kept | None) -> "_Parts":
    """Make what needs no directory: whatever is wrong with a recipe or its data shows before anything is written."""
    recipe = runs[0].recipe
    _check_stack(runs)
    require_services(execution)
    device = choose_device(execution.device, local_process)
    loading = Loading(device, execution.loader_threads, execution.gib_in_memory, kept)
    source = open_recipe_data(recipe, loading)
    facts = source.facts
    try:
        plans = [RunPlan(run.recipe, facts.num_train) for run in runs]
        model = model_of(recipe, facts.num_classes, facts.image_shape).to(device)
        members = [Member(run, TrainState(model, run.recipe.slot, plan)) for run, plan in zip(runs, plans, strict=True)]
        known = ":" not in recipe.model and device.type == "cpu"  # shipped models have been probed there
        findings = Findings() if known else inspect(model, source, recipe, device)
        check_findings(findings, recipe)
    except WidestepError:
        source.close()
        raise
    return _Parts(device, source, model, members, doubts(findings, recipe))


class _Parts(NamedTuple):
    """What a session is put together from."""

    device: torch.device
    source: ImageSource
    model: StackedModel
    members: list[Member]
    notes: list[str]


def describe_environment(session: Session) -> dict[str, Any]:
    """Return what goes into environment.json."""
    device, recipe, facts = session.device, session.plan.recipe, session.source.facts
    return {
        **environment(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": recipe.threads,
        "processes": session.world.num_processes,
        "data": facts.name,
        "data_fingerprint": facts.fingerprint,
        "model": recipe.model,
        "model_fingerprint": model_fingerprint(recipe.model),
    }


def _check_stack(runs: Sequence[Run]) -> None:
    keys, slots = {run.recipe.stack_key for run in runs}, [run.recipe.slot for run in runs]
    if len(keys) > 1 or len(set(slots)) < len(slots):
        raise UsageError(
            "Runs of one stack share all fields that shape the computation and differ in their seeds modulo the stack's "
            f"size. Got {len(keys)} shapes and slots {slots}."
        )


def _begin(session: Session, facts: dict[str, Any]) -> None:
    """Lock the directories and restore what was saved, on process 0; hand the states to the others."""

    def begin() -> None:
        for member in session.members if session.world.is_first else ():
            member.because = session.world.launch.because
            _begin_member(member, facts, session.execution)

    directories = [member.run.directory for member in session.members]
    needs = [Need.of(member.state, session.execution) for member in session.members]
    try:
        check_before_training(session.world, directories, needs, session.plan.recipe)
        session.world.agreed(begin)
    except WidestepError:
        session.close()
        raise
    if session.world.num_processes > 1:
        for member in session.members:
            _share(member, session.world)


def _begin_member(member: Member, facts: dict[str, Any], execution: Execution) -> None:
    member.run.open(facts)
    try:
        _continue_member(member, facts, execution)
    except WidestepError as error:
        member.fail(error)
        raise


def _continue_member(member: Member, facts: dict[str, Any], execution: Execution) -> None:
    run = member.run
    member.notes = _check_origin(run, facts)
    member.origin = {
        "recipe": run.recipe.fingerprint,
        "data": facts["data_fingerprint"],
        "environment": _fingerprint({name: facts[name] for name in _OF_BYTES}),
    }
    saved, lengths = checkpoint.newest(run.checkpoints, partial(check_fit, member.state)), {}
    if saved is not None:
        if saved.facts["recipe"] != run.recipe.fingerprint:
            raise StoreError(
                f"The checkpoint in {run.checkpoints} belongs to recipe {saved.facts['recipe']}, the run to "
                f"{run.recipe.fingerprint}. Put the run's own back, or use --fresh."
            )
        restore(member.state, saved.tensors, saved.facts["tally"])
        lengths = saved.facts["lengths"]
        member.notes += saved.damage + (checkpoint.lost_best(run.checkpoints) if member.state.tally.accuracies else [])
    member.interruptions = sum(event["event"] in ("started", "resumed") for event in run.history())
    member.notes += run.open_records(lengths, with_digests=execution.digests)
    step = member.state.tally.step
    told = {name: value for name, value in (("because", member.because), ("job", job_id())) if value}
    run.event("resumed" if member.interruptions else "started", step=step, processes=facts["processes"], **told)
    member.loggers = open_loggers(run, execution, step)


def _fingerprint(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _check_origin(run: Run, facts: dict[str, Any]) -> list[str]:
    """Refuse other data or another model than the run began with; return what else has changed, in words."""
    began = read_environment(run.directory)
    if began.get("data_fingerprint") != facts["data_fingerprint"]:
        raise DataError(
            f"A run continues on the data it began with. The files of {facts['data']} have changed since; restore them, "
            "or use --fresh to begin again."
        )
    if began.get("model_fingerprint") != facts["model_fingerprint"]:
        raise UsageError(
            f"A run continues with the model it began with. The source of {facts['model']} has changed since; restore it, "
            "or use --fresh to begin again."
        )
    changed = [name for name in _OF_BYTES if began.get(name) != facts[name]]
    if run.recipe.mode == "fast":
        changed += [name for name in ("processes",) if began.get(name) != facts[name]]
    if not changed:
        return []
    said = ", ".join(f"{name} {began.get(name)} -> {facts[name]}" for name in changed)
    return [f"the environment changed ({said}); from here on bytes may differ from an uninterrupted run"]


def check_model(run: Run) -> None:
    """Refuse to judge a run's weights with another model than they were trained in."""
    began = read_environment(run.directory).get("model_fingerprint")
    if began != model_fingerprint(run.recipe.model):
        raise UsageError(
            f"Weights are evaluated in the model they were trained in. The source of {run.recipe.model} has changed since; "
            "restore it."
        )


def read_environment(directory: Path) -> dict[str, Any]:
    """Return what environment.json says; raises StoreError when it cannot be read."""
    path = directory / "environment.json"
    if (found := read_record(path, "the facts of a run's environment")) is None:
        raise StoreError(f"{path} must be the facts of a run's environment. It is missing; restore it.")
    return found


def saved_tensors(state: TrainState) -> dict[str, Tensor]:
    """Return a state's tensors under the names of a checkpoint."""
    weights = {f"weights/{name}": tensor for name, tensor in state.weights().items()}
    optimizer = {f"optimizer/{name}": tensor for name, tensor in state.optimizer_tensors().items()}
    return weights | {"running": state.running} | optimizer


def check_fit(state: TrainState, layouts: Mapping[str, checkpoint.Layout]) -> None:
    """Refuse tensors that are not a state of this model, before they take any memory; raises StoreError."""
    for name, tensor in _required(state).items():
        if layouts.get(name) != checkpoint.Layout(tensor.dtype, tuple(tensor.shape)):
            raise StoreError(f"A checkpoint holds every weight of the model. {name} is missing or of another shape.")
    for name in layouts.keys() - _required(state).keys():
        parameter = state.trained.get(name.removeprefix("optimizer/").rpartition(":")[0])
        if not name.startswith("optimizer/") or parameter is None or prod(layouts[name].shape) > max(1, parameter.numel()):
            raise StoreError(f"A checkpoint holds the state of this model's optimizer. {name} is not part of it.")


def restore(state: TrainState, tensors: dict[str, Tensor], tally: dict[str, Any]) -> None:
    """Put back what `saved_tensors` and the tally held, once `check_fit` has found that they fit; raises StoreError."""
    for name, tensor in _required(state).items():
        tensor.copy_(tensors[name])
    prefix = "optimizer/"
    state.restore_optimizer({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    try:
        state.tally = Tally(**tally)
    except TypeError as error:
        raise StoreError(f"A checkpoint holds the numbers that a run carries on. They are others: {error}.") from None


def _required(state: TrainState) -> dict[str, Tensor]:
    return {f"weights/{name}": tensor for name, tensor in state.weights().items()} | {"running": state.running}


def _share(member: Member, world: World) -> None:
    """Give the other processes the state that process 0 restored."""
    state = member.state
    shared = world.broadcast_json({"tally": vars(state.tally), "optimizer": _shapes(state)})
    if not world.is_first:
        state.tally = Tally(**shared["tally"])
        state.restore_optimizer({name: torch.zeros(shape) for name, shape in shared["optimizer"].items()})
    for tensor in saved_tensors(state).values():
        world.broadcast(tensor)


def _shapes(state: TrainState) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in state.optimizer_tensors().items()}
