"""The sum in a fixed tree against torch's own all-reduce of the same vector: seconds, and bytes sent by a process."""

import os
import socket
import stat
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist  # noqa: TID251 - what the tree is compared with

from benchmarks.jobs import start
from benchmarks.spread import Row
from benchmarks.timing import alternating, compared
from benchmarks.wanted import Wanted
from widestep.workers.placement import Placement
from widestep.workers.reduce import sum_over_processes
from widestep.workers.tree import complete_subtrees
from widestep.workers.world import World

NUM_BLOCKS = (8, 40)
"""Of 8 blocks of workers, each of 2 or 4 processes holds a complete subtree, one partial sum; of 40, two or three."""
_SENT, _RETRANSMITTED = 200, 208  # offsets in struct tcp_info of <linux/tcp.h>


def run(wanted: Wanted) -> list[Row]:
    """Measure at 2 and 4 processes; 25,557,032 numbers are the gradient of ResNet-50."""
    lengths = {100_000: 5} if wanted.quick else {100_000: 41, 5_000_000: 15, 25_557_032: 7}
    return [
        row
        for num_processes in ((2,) if wanted.quick else (2, 4))
        for row in start(__name__, num_processes, {"rounds": {str(length): rounds for length, rounds in lengths.items()}})
    ]


def measure(world: World, settings: dict[str, Any]) -> list[Row]:
    """Compare at every length, one number of blocks after the other: training, too, sums the same again and again."""
    return [
        _compared(world, int(length), num_blocks, rounds)
        for length, rounds in settings["rounds"].items()
        for num_blocks in NUM_BLOCKS
    ]


def _compared(world: World, length: int, num_blocks: int, rounds: int) -> Row:
    generator = torch.Generator().manual_seed(world.process)
    vector = torch.zeros(length)  # summed in place again and again, anything else would overflow
    placement = Placement(num_blocks, 1, world.num_processes)
    nodes = complete_subtrees(placement.blocks(world.process))
    sums = {node: torch.randn(length, generator=generator) for node in nodes}
    actions: dict[str, Callable[[], object]] = {
        "all_reduce": partial(dist.all_reduce, vector),
        "tree": partial(sum_over_processes, world, placement, sums, (length,)),
    }
    sent = {name: _bytes_of(action, world) for name, action in actions.items()}
    case = {"processes": world.num_processes, "values": length, "blocks": num_blocks}
    return compared(case, alternating(actions, rounds, world), bytes_per_process=sent)


def _bytes_of(action: Callable[[], object], world: World) -> float:
    """Return the bytes that an action sends, averaged over the processes."""
    world.part()
    before = torch.tensor([float(_bytes_sent())], dtype=torch.float64)
    action()
    world.part()  # so that nothing waits in a buffer; a barrier is some hundred bytes
    after = torch.tensor([float(_bytes_sent())], dtype=torch.float64)
    dist.all_reduce(after.sub_(before))
    return after.item() / world.num_processes


def _bytes_sent() -> int:
    """Return the bytes that the kernel has sent over all TCP connections of this process, not counting repetitions."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:  # the listing's own descriptor, closed by now
            continue
        if not stat.S_ISSOCK(os.fstat(copy).st_mode):
            os.close(copy)
            continue
        with socket.socket(fileno=copy) as connection:
            if connection.type == socket.SOCK_STREAM and connection.family != socket.AF_UNIX:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("Q", info, _SENT)[0] - struct.unpack_from("Q", info, _RETRANSMITTED)[0]
    return total
