"""Which process computes which workers: contiguous blocks, recomputed whenever the number of processes changes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """W workers in blocks of k neighbours (the last block may be smaller), dealt to processes in contiguous ranges.

    Blocks never straddle a process, and neither their number nor their composition depends on the number of processes:
    every block is computed by the same kernels at the same shape wherever it lands (statement W2). A block is made of whole
    groups: neighbouring workers whose images batch normalisation treats together (statement B1).

    Examples
    --------
    >>> placement = Placement(num_workers=12, workers_per_block=1, num_processes=5)
    >>> [len(placement.blocks(process)) for process in range(5)]
    [2, 2, 3, 2, 3]
    """

    num_workers: int
    workers_per_block: int
    num_processes: int
    workers_per_group: int = 1

    @property
    def num_blocks(self) -> int:
        """Blocks of the whole job: the leaves of the sum."""
        return -(-self.num_workers // self.workers_per_block)

    def blocks(self, process: int) -> range:
        """Return the blocks of one process; none when there are more processes than blocks."""
        return range(self.num_blocks * process // self.num_processes, self.num_blocks * (process + 1) // self.num_processes)

    def workers(self, block: int) -> range:
        """Return the workers of one block."""
        first = block * self.workers_per_block
        return range(first, min(first + self.workers_per_block, self.num_workers))

    def num_groups_with(self, num_images: int) -> int:
        """Return the groups that have images when image i of the global batch goes to worker i mod W."""
        return -(-min(num_images, self.num_workers) // self.workers_per_group)
