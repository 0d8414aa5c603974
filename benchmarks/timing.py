"""Seconds of several actions taken in turn, and ratios between them.

A machine that others use is fast now and slow a second later. So the actions alternate: every round does each of them once,
every other round in reverse order, and a ratio is taken within a round. What is reported is the median over rounds with the
quartiles.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.spread import Row, spread
from widestep.workers.world import World


def alternating(actions: Mapping[str, Callable[[], object]], rounds: int, world: World) -> dict[str, list[float]]:
    """Do every action once to warm up and then `rounds` times; return the seconds of each, a number a round.

    All processes begin an action together; what counts is the slowest of them.
    """
    names = list(actions)
    seconds = torch.zeros(world.num_processes, rounds, len(names), dtype=torch.float64)
    for name in names:
        actions[name]()
    for turn in range(rounds):
        for place in range(len(names)) if turn % 2 == 0 else reversed(range(len(names))):
            gc.collect()  # so that no action cleans up after another
            world.part()
            began = time.perf_counter()
            actions[names[place]]()
            seconds[world.process, turn, place] = time.perf_counter() - began
    slowest = world.merged(seconds).amax(0)
    return {name: slowest[:, place].tolist() for place, name in enumerate(names)}


def compared(case: Mapping[str, object], seconds: Mapping[str, Sequence[float]], **more: object) -> Row:
    """Return a row of results: seconds of every action, and the time of each of the others as a multiple of the first's."""
    reference, *others = seconds
    return {
        "case": dict(case),
        "rounds": len(seconds[reference]),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": {name: spread([a / b for a, b in zip(seconds[name], seconds[reference], strict=True)]) for name in others},
        **more,
    }
