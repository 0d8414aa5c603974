"""Set up the runs of a stack on this job's processes: data, model, states and what was saved of them."""

import contextlib
import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.source import ImageSource, open_source
from widestep.errors import DataError, EnvironmentFault, StoreError, UsageError, WidestepError
from widestep.models.build import build_model
from widestep.models.stacked import StackedModel
from widestep.plan.execution import Execution
from widestep.plan.runplan import RunPlan
from widestep.records.environment import environment
from widestep.records.run import Run
from widestep.train import checkpoint
from widestep.train.batches import Batches
from widestep.train.board import Board
from widestep.train.state import Tally, TrainState
from widestep.train.stop import StopRequest
from widestep.workers.engine import GradientEngine
from widestep.workers.placement import Placement
from widestep.workers.world import World

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


@dataclass
class Member:
    """One run of the stack: its directory, its state, and (on process 0) its TensorBoard writer."""

    run: Run
    state: TrainState
    interruptions: int = 0
    board: Board | None = None

    def fail(self, error: WidestepError) -> None:
        """Leave word of an error that ends the run for now; the same command tries again."""
        with contextlib.suppress(WidestepError):  # on a full disk the error itself must do
            self.run.log(f"failed: {error}")
            self.run.event("failed", step=self.state.tally.step, reason=str(error))
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

    @property
    def plan(self) -> RunPlan:
        """The plan of the first run; steps, epochs and images are the same for all."""
        return self.members[0].state.plan

    def close(self) -> None:
        """Close files and threads and release the directories."""
        self.source.close()
        for member in self.members:
            if member.board is not None:
                member.board.close()
            member.run.close()


def choose_device(wanted: str, local_process: int = 0) -> torch.device:
    """Return the device of a process.

    Raises
    ------
    EnvironmentFault
        When a GPU is asked for and there is none.
    """
    found = torch.cuda.device_count() if wanted != "cpu" else 0
    if wanted == "cuda" and found == 0:
        raise EnvironmentFault(
            "The device cuda needs a GPU. None was found; use --device cpu (virtual workers need no GPU)."
        )
    return torch.device("cuda", local_process % found) if found else torch.device("cpu")


def make_deterministic(num_threads: int) -> None:
    """Fix everything in torch that could make two equal computations differ."""
    torch.set_num_threads(num_threads)
    torch.set_deterministic_debug_mode("error")  # unlike use_deterministic_algorithms, does not import the compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # we never read what we did not write
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next step instead of giving it back (Linux; 10 % of a CPU step)."""
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def open_session(runs: Sequence[Run], execution: Execution, world: World, stop: StopRequest) -> Session:
    """Open the data, lock and begin (or continue) the runs, and put their states in place.

    Raises
    ------
    UsageError
        When the runs cannot share a stack, or a directory holds another recipe.
    DataError, StoreError, DirectoryInUse, EnvironmentFault
        As their names say; every process ends with the same exit code.
    """
    recipe = runs[0].recipe
    make_deterministic(recipe.threads)
    keep_freed_memory()
    device, source, model, members = world.agreed(lambda: _prepared(runs, execution, world.local_process))
    plan_of_slot = {member.state.slot: member.state.plan for member in members}
    plans = [plan_of_slot.get(slot, members[0].state.plan) for slot in range(recipe.stack)]
    placement = Placement(recipe.grid.num_workers, recipe.workers_per_forward, world.num_processes)
    engine = GradientEngine(
        model,
        world,
        placement,
        label_smoothing=recipe.label_smoothing,
        only_worker0=recipe.batchnorm_running == "worker0",
        stop_requested=stop.requested,
    )
    session = Session(
        members,
        model,
        engine,
        Batches(source, plans, device),
        source,
        [source.split(plan.recipe.seed).val for plan in plans],
        world,
        device,
        execution,
        stop,
    )
    _begin(session, describe_environment(source, device, world, recipe.threads))
    return session


def _prepared(
    runs: Sequence[Run], execution: Execution, local_process: int
) -> tuple[torch.device, ImageSource, StackedModel, list[Member]]:
    """Make what needs no directory: whatever is wrong with a recipe or its data shows before anything is written."""
    recipe = runs[0].recipe
    _check_stack(runs)
    device = choose_device(execution.device, local_process)
    source = open_source(
        recipe.data,
        augment=recipe.augment,
        image_size=recipe.image_size,
        train_images=recipe.train_images,
        num_threads=execution.loader_threads,
    )
    facts = source.facts
    assert facts.image_shape is not None
    try:
        plans = [RunPlan(run.recipe, facts.num_train) for run in runs]
        _ = [plan.total_steps for plan in plans]  # an epoch without a step is an error that must show now
        model = build_model(
            recipe.model,
            num_classes=facts.num_classes,
            image_shape=facts.image_shape,
            num_slots=recipe.stack,
            dropout=recipe.dropout,
        ).to(device)
    except WidestepError:
        source.close()
        raise
    members = [Member(run, TrainState(model, run.recipe.slot, plan)) for run, plan in zip(runs, plans, strict=True)]
    return device, source, model, members


def describe_environment(source: ImageSource, device: torch.device, world: World, num_threads: int) -> dict[str, Any]:
    """Return what goes into environment.json."""
    return {
        **environment(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": num_threads,
        "processes": world.num_processes,
        "data": source.facts.name,
        "data_fingerprint": source.facts.fingerprint,
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
            _begin_member(member, facts, session.execution)

    try:
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
    _check_data(run, facts)
    saved = checkpoint.read_last(run.checkpoints)
    lengths = {}
    if saved is not None:
        tensors, extra = saved
        if extra["recipe"] != run.recipe.fingerprint:
            raise StoreError(f"The checkpoint in {run.checkpoints} belongs to recipe {extra['recipe']}. Use --fresh.")
        _restore(member.state, tensors, extra["tally"])
        lengths = extra["lengths"]
    member.interruptions = sum(event["event"] in ("started", "resumed") for event in run.history())
    run.open_records(lengths)
    step = member.state.tally.step
    run.event("resumed" if member.interruptions else "started", step=step, **{"processes": facts["processes"]})
    member.board = Board(run.directory, wanted=execution.tensorboard, first_step=step)


def _check_data(run: Run, facts: dict[str, Any]) -> None:
    began = _read_environment(run.directory)
    if began.get("data_fingerprint") != facts["data_fingerprint"]:
        raise DataError(
            f"A run continues on the data it began with. The files of {facts['data']} have changed since; restore them, or "
            "use --fresh to begin again."
        )
    changed = [name for name in ("torch", "device", "instructions", "threads") if began.get(name) != facts[name]]
    if changed:
        said = ", ".join(f"{name} {began.get(name)} -> {facts[name]}" for name in changed)
        run.log(f"warning: the environment changed ({said}); from here on bytes may differ from an uninterrupted run")


def _read_environment(directory: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{directory}/environment.json must describe the run. It cannot be read: {error}.") from None
    return found


def saved_tensors(state: TrainState) -> dict[str, Tensor]:
    """Return a state's tensors under the names of a checkpoint."""
    weights = {f"weights/{name}": tensor for name, tensor in state.weights().items()}
    return weights | {f"optimizer/{name}": tensor for name, tensor in state.optimizer_tensors().items()}


def _restore(state: TrainState, tensors: dict[str, Tensor], tally: dict[str, Any]) -> None:
    for name, tensor in state.weights().items():
        saved = tensors.get(f"weights/{name}")
        if saved is None or saved.shape != tensor.shape or saved.dtype != tensor.dtype:
            raise StoreError(f"A checkpoint holds every weight of the model. {name} is missing or of another shape.")
        tensor.copy_(saved)
    prefix = "optimizer/"
    state.restore_optimizer({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    state.tally = Tally(**tally)


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
