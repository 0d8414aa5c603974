"""Sum partial sums over the processes, in the tree's order and with the traffic of an all-reduce.

Every process is responsible for one chunk of the vector. It receives that chunk of all partial sums, finishes the tree for
it, and shares the result: a reduce-scatter of subtrees followed by an all-gather. With the two processes of `tree`'s
drawing::

                    chunk 0   chunk 1
    process 0  0-3     a         b         sends b to process 1, keeps a
    process 1  4-5     c         d         sends c and e to process 0, keeps d and f
               6       e         f
                       |         |
              process 0          process 1
              a + (c + e)        b + (d + f)       both then tell one another

The vector is padded so that chunks are equally long. Everything lies on `world.wire`: in the processor's memory, or on the
GPU where every process has one of its own.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from widestep.workers.placement import Placement
from widestep.workers.tree import Node, complete_subtrees, finish
from widestep.workers.world import World

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13


def sum_over_processes(
    world: World, placement: Placement, partial_sums: dict[Node, Tensor], shape: tuple[int, ...]
) -> Tensor:
    """Return the sum of all leaves of all processes, the same bytes on every process.

    Parameters
    ----------
    partial_sums
        This process's partial sums by node, each of shape `shape`; none when it has no workers.

    Returns
    -------
    A tensor of shape `shape`, on `world.wire` where there is more than one process. The bytes equal those of one process
    that holds all leaves.
    """
    if world.num_processes == 1:
        return finish(partial_sums, placement.num_blocks)
    length = math.prod(shape)
    chunk = -(-length // world.num_processes)
    nodes = [complete_subtrees(placement.blocks(process)) for process in range(world.num_processes)]
    sent = world.scratch("sent", world.num_processes * len(partial_sums) * chunk)
    by_receiver = sent.view(world.num_processes, len(partial_sums), chunk)  # what pads the last chunk is never read
    for row, node in enumerate(nodes[world.process]):
        for receiver, part in enumerate(partial_sums[node].flatten().split(chunk)):
            by_receiver[receiver, row, : len(part)] = part
    counts = [len(held) * chunk for held in nodes]
    received = world.scratch("received", sum(counts))
    with world.contact():
        dist.all_to_all_single(received, sent, counts, [len(partial_sums) * chunk] * world.num_processes, group=world.group)
    rows = received.view(-1, chunk)
    everyone = [node for held in nodes for node in held]
    mine = finish(dict(zip(everyone, rows, strict=True)), placement.num_blocks)
    whole = torch.empty(world.num_processes * chunk, device=world.wire)
    with world.contact():
        _all_gather(whole, mine.contiguous(), group=world.group)
    return whole[:length].view(shape)
