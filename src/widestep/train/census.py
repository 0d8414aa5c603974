"""What the processes of a job tell one another now and then: that they hold the same state, and how fast they are.

A bit that a memory cell, a link or a bug has changed on one process would stay there unnoticed: gradients are summed, so all
processes go on together, with different weights.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from widestep.errors import NumericError
from widestep.train.state import TrainState
from widestep.workers.world import World

_STEPS = 20
_TIMES_SLOWER = 2.0
_SECONDS_A_STEP = 0.005
"""A process that is slow by less than this is not worth a word."""


def check_replicas(states: Sequence[TrainState], world: World, step: int) -> None:
    """Compare weights, optimizer and running statistics of all processes, bit by bit in effect.

    What is compared is the sum of every tensor's bits, taken as whole numbers modulo 2**64: a single changed bit always
    changes it.

    Raises
    ------
    NumericError
        On every process, when one holds something else; names it and the tensor.
    """
    if world.num_processes == 1:
        return
    tensors = {f"{_of_run(states, state)}{name}": tensor for state in states for name, tensor in state.replicated().items()}
    everyone = torch.zeros(world.num_processes, len(tensors), dtype=torch.int64)
    everyone[world.process] = _sums(tensors.values())
    everyone = world.merged(everyone)
    if bool((everyone == everyone[0]).all()):
        return
    rows = [tuple(row) for row in everyone.tolist()]
    (usual, votes), *_ = Counter(rows).most_common()
    different = next(place for place in range(len(tensors)) if len({row[place] for row in rows}) > 1)
    odd = [process for process, row in enumerate(rows) if row != usual]
    name = list(tensors)[different]
    who = f"Process {', '.join(map(str, odd))} of {len(rows)} holds"
    if 2 * votes <= len(rows):
        who = f"The {len(rows)} processes hold"
    raise NumericError(
        f"All processes must hold the same state. {who} another {name} after step {step:,}: a memory, link or program "
        "error. Nothing of it was saved; check that machine, then give the same command to go on from the last checkpoint."
    )


def _of_run(states: Sequence[TrainState], state: TrainState) -> str:
    return f"run {state.slot} " if len(states) > 1 else ""


def _sums(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum of each tensor's bits as whole numbers, int64."""
    sums = []
    for tensor in tensors:
        flat = tensor.detach().contiguous().flatten()
        bits = flat.view(torch.int32 if flat.element_size() % 4 == 0 else torch.uint8)
        sums.append(bits.sum(dtype=torch.int64).cpu())
    return torch.stack(sums)


class Speeds:
    """Finds processes that are slow to reach the others.

    Parameters
    ----------
    world
        The processes; all count the same steps.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._told: set[int] = set()
        self._steps, self._began = 0, time.monotonic()
        self._seconds = self._waited = 0.0
        self.busy = [0.0] * world.num_processes
        """Seconds that every process was busy by itself, in all steps that were exchanged so far."""

    def spent(self, num_runs: int) -> dict[str, Any]:
        """Return how long this has gone on, on how many processes and for how many runs together, for history.jsonl."""
        return {
            "seconds": round(time.monotonic() - self._began, 3),
            "processes": self._world.num_processes,
            "runs": num_runs,
            "busy_seconds": [round(seconds, 3) for seconds in self.busy],
        }

    def count(self, seconds: float, waited: float, num_blocks: Callable[[], Sequence[int]]) -> list[str]:
        """Count a step; every twentieth time exchange them.

        Parameters
        ----------
        seconds
            How long this process was busy by itself.
        waited
            How long of these it waited for images.
        num_blocks
            Says how many blocks of workers every process has; asked only when they are compared.

        Returns
        -------
        A sentence for every process that was found to be slow for the first time; the same on all.
        """
        self._steps, self._seconds, self._waited = self._steps + 1, self._seconds + seconds, self._waited + waited
        if self._world.num_processes == 1 or self._steps < _STEPS:
            return []
        held = torch.zeros(self._world.num_processes, 2, dtype=torch.float64)
        held[self._world.process] = torch.tensor([self._seconds, self._waited])
        found = self._world.merged(held).tolist()
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        self.busy = [before + now for before, (now, _) in zip(self.busy, found, strict=True)]
        return self._slow(found, num_blocks())

    def _slow(self, found: Sequence[Sequence[float]], num_blocks: Sequence[int]) -> list[str]:
        a_block = {process: found[process][0] / blocks for process, blocks in enumerate(num_blocks) if blocks}
        said = []
        for process, seconds in a_block.items():
            others = [other for place, other in a_block.items() if place != process]
            usual = statistics.median(others) if others else seconds
            more = (seconds - usual) * num_blocks[process] / _STEPS
            if process not in self._told and seconds > _TIMES_SLOWER * usual and more > _SECONDS_A_STEP:
                self._told.add(process)
                busy, waited = found[process]
                said.append(
                    f"process {process} of {len(found)} is {seconds / usual:.1f}x slower than the others (waits for images "
                    f"{100 * waited / busy:.0f} % of that time); all wait for it"
                )
        return said
