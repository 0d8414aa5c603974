"""What the processes of a job find out together before they train: who they are, what they see, how fast they exchange."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from widestep.records.place import Probe, fault
from widestep.workers.placement import Placement
from widestep.workers.reduce import sum_over_processes
from widestep.workers.tree import sum_leaves
from widestep.workers.world import World

RESNET50 = 25_557_032
"""Parameters of ResNet-50 for 1,000 classes: the length of the vector that is summed at every step."""

_SIGHT_SECONDS = 5.0
"""How long a file may take to be seen from another host: network file systems remember for a while that it was not there."""


def gathered(world: World, value: Any) -> list[Any]:
    """Return every process's value (anything JSON can hold), in the order of the processes, on every process."""
    text = json.dumps(value).encode()
    lengths = torch.zeros(world.num_processes, dtype=torch.int64)
    lengths[world.process] = len(text)
    ends = world.merged(lengths).cumsum(0).tolist()
    held = torch.zeros(ends[-1], dtype=torch.uint8)
    held[ends[world.process] - len(text) : ends[world.process]] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    whole = bytes(world.merged(held).tolist())
    return [json.loads(whole[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def blind_processes(world: World, directory: Path, *, keep_directories: bool) -> list[int]:
    """Return the processes that do not see in a directory what process 0 writes there, the same list on every process.

    Parameters
    ----------
    keep_directories
        Whether directories that had to be made for it stay.

    Raises
    ------
    UsageError, EnvironmentFault
        When process 0 cannot write there; the others end with its exit code.
    """

    def write() -> Probe | None:
        try:
            return Probe(directory) if world.is_first else None
        except (OSError, ValueError) as error:
            raise fault(directory, error) from error

    probe = world.agreed(write)
    try:
        told = world.broadcast_json([probe.path.name, probe.content.decode()] if probe else None)
        blind = torch.zeros(world.num_processes)
        blind[world.process] = not _sees(directory / told[0], told[1].encode())
        return [int(process) for process in world.merged(blind).nonzero().flatten()]
    finally:
        if probe is not None:
            probe.remove(keep_directories=keep_directories)


def reduction_seconds(world: World, num_numbers: int = RESNET50, repeats: int = 3) -> float:
    """Return how long the processes take to sum a vector of 32-bit numbers, as at every step; the slowest one's median.

    Every process brings one partial sum, so that its traffic is that of an all-reduce.
    """
    placement = Placement(world.num_processes, 1, world.num_processes)
    mine = sum_leaves([(world.process, torch.ones(num_numbers, device=world.wire))])
    seconds = []
    for _ in range(repeats + 1):  # the first one makes connections
        world.merged(torch.zeros(1))
        began = time.perf_counter()
        found = sum_over_processes(world, placement, mine, (num_numbers,))
        float(found[-1])  # waits for the device
        seconds.append(time.perf_counter() - began)
    of_all = torch.zeros(world.num_processes, dtype=torch.float64)
    of_all[world.process] = sorted(seconds[1:])[repeats // 2]
    return float(world.merged(of_all).max())


def _sees(path: Path, content: bytes) -> bool:
    deadline = time.monotonic() + _SIGHT_SECONDS
    while True:
        try:
            return path.read_bytes() == content
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
