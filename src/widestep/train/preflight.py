"""What is looked at before the first step and before anything is written: a run that cannot end well does not begin."""

import contextlib
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from widestep.data.facts import parse_spec
from widestep.errors import EnvironmentFault
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe
from widestep.records import place
from widestep.records.fact import size
from widestep.records.machine import needed_descriptors, require_descriptors
from widestep.records.size import LEDGER_RECORD, METRICS_RECORD, num_moments
from widestep.records.versions import differing, report
from widestep.train.state import TrainState
from widestep.workers.survey import blind_processes, gathered
from widestep.workers.world import World

_RECORDS = 128 * 1024
"""Everything else but checkpoints: recipe, environment, log, history, epochs."""
_MOST_DATA_FILES = 256


@dataclass(frozen=True)
class Need:
    """What a run will take.

    Parameters
    ----------
    checkpoint_bytes
        Of one checkpoint: weights, what the optimizer keeps of each, running statistics.
    record_bytes
        Of all records to the end of training.
    """

    checkpoint_bytes: int
    record_bytes: int

    @staticmethod
    def of(state: TrainState, execution: Execution) -> "Need":
        """Return what a run needs from where it is to its end."""
        trained = sum(tensor.numel() * tensor.element_size() for tensor in state.trained.values())
        held = sum(tensor.numel() * tensor.element_size() for tensor in (*state.weights().values(), state.running))
        records = state.plan.total_steps // execution.log_every * (LEDGER_RECORD + METRICS_RECORD)
        return Need(held + num_moments(state.plan.recipe) * trained, records + _RECORDS)


def check_before_training(world: World, directories: Sequence[Path], needs: Sequence[Need], recipe: Recipe) -> None:
    """Make sure the runs can be written to their end, and that the processes of the job belong together.

    Every process calls this; what one of them finds ends all, and is told once. The runs' directories exist afterwards, and
    nothing is in them that was not there before.

    Parameters
    ----------
    directories, needs
        Of the runs of a stack, in the same order.

    Raises
    ------
    EnvironmentFault
        When versions differ between processes, they do not see the same directory, a directory cannot be written, or too
        little space, inodes, file size or descriptors are allowed.
    UsageError
        When a directory cannot have its name.
    """
    needed = needed_descriptors(world.num_processes, len(directories), _num_data_files(recipe))

    def check() -> None:
        require_descriptors(needed)
        for directory, need in zip(directories, needs, strict=True) if world.is_first else ():
            _check_space(directory, need, len(directories))
        if world.is_first:
            place.require_writable(directories)

    if world.num_processes > 1 and not world.launch.is_ours:  # our own launcher starts copies of one process on one host
        _check_company(world, directories[0])
    world.agreed(check)


def _check_company(world: World, directory: Path) -> None:
    """All processes must run the same versions and see the same directory."""
    reports = gathered(world, report())
    hosts = [one["host"] for one in reports]
    mixed = differing(reports)
    blind = [] if mixed else blind_processes(world, directory, keep_directories=True)
    others = ", ".join(f"{process} on {hosts[process]}" for process in blind)

    def judge() -> None:
        if world.is_first and mixed:
            raise EnvironmentFault(
                f"All processes of a job run the same versions. Here {mixed}; install the same on all hosts, or start all "
                "processes from one environment."
            )
        if world.is_first and blind:
            raise EnvironmentFault(
                f"All processes must see the same run directory. What process 0 on {hosts[0]} wrote in {str(directory)!r} "
                f"is not seen by process {others}; give an --out on a file system that all hosts share."
            )

    world.agreed(judge)


def _check_space(directory: Path, need: Need, num_runs: int) -> None:
    """Two checkpoints and the records must fit, beside what an earlier start left; one in any case, to replace another."""
    wanted = max(2 * need.checkpoint_bytes + need.record_bytes - _bytes_in(directory), need.checkpoint_bytes)
    place.require_space(directory, num_runs * wanted)
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest != resource.RLIM_INFINITY and largest < need.checkpoint_bytes:
        raise EnvironmentFault(
            f"A checkpoint of this recipe takes {size(need.checkpoint_bytes)}. Files may have {size(largest)} at most "
            "(ulimit -f); raise that limit."
        )


def _bytes_in(directory: Path) -> int:
    """Return what a directory and those in it hold, 0 when it is not there."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _num_data_files(recipe: Recipe) -> int:
    """Return how many files of a data set may be open at a time: those of a folder are open only for a moment."""
    kind, path = parse_spec(recipe.data)
    if kind in ("tar", "parquet", "packed") and os.path.isdir(path):
        return min(_MOST_DATA_FILES, sum(1 for _ in os.scandir(path)))
    return 0
