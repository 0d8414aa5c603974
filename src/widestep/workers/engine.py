"""The gradient of one global batch: every worker's share, summed in worker order whoever computes it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from widestep.records.gradients import GradientStatistics
from widestep.workers.blocks import BatchOf, Block, ForwardPass, explained
from widestep.workers.moments import StepMoments
from widestep.workers.placement import Placement
from widestep.workers.reduce import sum_over_processes
from widestep.workers.tree import sum_leaves
from widestep.workers.world import World

_SCALARS = 3
"""At the end of a row: the loss, the workers' squared gradient norms, and 1 where the process was asked to stop."""


@dataclass(frozen=True)
class StepGradients:
    """What the engine found for the T runs of the stack, the same bytes on every process.

    Parameters
    ----------
    gradients
        Shape (T, P), averaged over the n images of the global batch, parameters in module order.
    moments
        What batch normalisation measured.
    of_slot
        Loss and gradient norms of each run.
    finite
        Whether loss, gradient and moments of each run are all finite: only then may the run take the step (statement W7).
        A variance can overflow while loss and gradient do not.
    stop_requested
        Whether some process was asked to stop.
    """

    gradients: Tensor
    moments: StepMoments
    of_slot: Sequence[GradientStatistics]
    finite: Sequence[bool]
    stop_requested: bool


class GradientEngine:
    """Computes all workers' gradients and combines them in worker order (statements W1, W2).

    The work of a step is a row of sums for each block of workers (and each of the T runs)::

        | gradient: P numbers | what batch normalisation measured | loss | squared norms of workers | processes to stop |

    Rows are the leaves of a fixed tree (`tree`): they are added first within each process, then across processes (`reduce`).

    Parameters
    ----------
    forward
        How one block is computed.
    has_worker_norms
        Whether the norm of every worker's own gradient is computed.
    stop_requested
        Asked once a step; rides along with the gradient so that all processes stop at the same step.
    """

    def __init__(
        self,
        forward: ForwardPass,
        world: World,
        *,
        has_worker_norms: bool = False,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = forward.model
        self.world = world
        self.moments = forward.moments
        self._forward = forward
        self._has_worker_norms = has_worker_norms
        self._stop_requested = stop_requested
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._device = self._parameters[0].device
        self.num_gradients = sum(p.numel() for p in self._parameters) // self.model.num_slots
        self._widths = [self.num_gradients, self.moments.width, _SCALARS]

    def gradients(self, batch_of: BatchOf, num_images: int, placement: Placement, centre: Tensor) -> StepGradients:
        """Compute the gradient of one global batch at the model's current weights.

        Parameters
        ----------
        batch_of
            Hands out the images of some workers.
        num_images
            n, in the whole global batch.
        placement
            Which workers there are, and which of them this process computes.
        centre
            Numbers near the means of batch normalisation, shape (T, M), the same on every process.
        """
        total = self._total(self._rows(placement, self._stopping(placement), batch_of, centre), placement, sum(self._widths))
        gradients, others = total.split([self.num_gradients, sum(self._widths[1:])], dim=1)
        return self._found(gradients.div_(num_images), others, num_images, placement, centre)

    def _found(
        self, gradients: Tensor, others: Tensor, num_images: int, placement: Placement, centre: Tensor
    ) -> StepGradients:
        """Read a step out of averaged gradients (T, P) and the sums of everything else."""
        sums, scalars = others.split(self._widths[1:], dim=1)
        moments = self.moments.unpack(sums, centre, num_images, placement.num_groups_with(num_images))
        num_busy = min(num_images, placement.num_workers)
        of_slot = _described(gradients, scalars, num_images, num_busy if self._has_worker_norms else None)
        return StepGradients(
            gradients=gradients,
            moments=moments,
            of_slot=of_slot,
            finite=[a.finite and b for a, b in zip(of_slot, moments.finite(), strict=True)],
            stop_requested=bool(scalars[0, -1] > 0),
        )

    def moment_sums(self, batch_of: BatchOf, placement: Placement, centre: Tensor) -> Tensor:
        """Return only what batch normalisation measures on a global batch, as `MomentSums` packs it: shape (T, width)."""
        width = self.moments.width

        def rows() -> Iterator[tuple[int, Tensor]]:
            for block in placement.blocks(self.world.process):
                parts = batch_of(placement.workers(block))
                yield block, self._added((self._moments_row(part, centre) for part in parts), width)

        with torch.no_grad():
            return self._total(rows(), placement, width)

    def first_failing_workers(self, batch_of: BatchOf, placement: Placement, slot: int) -> range:
        """Find the first block of workers whose loss or gradient is not finite, by computing the step's blocks again.

        Returns
        -------
        Its workers, on every process; all workers when each block is finite by itself.
        """
        failing = torch.zeros(placement.num_blocks)
        centre = torch.zeros(self.model.num_slots, self.moments.num_channels, device=self._device)
        for block, row in self._rows(placement, 0.0, batch_of, centre):
            failing[block] = float(not torch.isfinite(row[slot]).all())
        found = self.world.merged(failing).nonzero().flatten().tolist()
        return placement.workers(found[0]) if found else range(placement.num_workers)

    def _stopping(self, placement: Placement) -> float:
        stop = torch.tensor([float(self._stop_requested())])
        if self.world.num_processes > placement.num_blocks:
            stop = self.world.merged(stop)  # a process without a block has no row that could carry its request
        return stop.item()

    def _total(self, rows: Iterator[tuple[int, Tensor]], placement: Placement, width: int) -> Tensor:
        return sum_over_processes(self.world, placement, sum_leaves(rows), (self.model.num_slots, width))

    def _rows(self, placement: Placement, stop: float, batch_of: BatchOf, centre: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the blocks of this process, each with its row of sums for every slot: the leaves of the tree."""
        for block in placement.blocks(self.world.process):
            parts = batch_of(placement.workers(block))  # one, or more where a short step gives workers unequal shares
            row = self._added((self._row(part, centre) for part in parts), sum(self._widths))
            row[:, -1] = stop
            yield block, row

    def _added(self, rows: Iterable[Tensor], width: int) -> Tensor:
        total: Tensor | None = None
        for row in rows:
            total = row if total is None else total.add_(row)
        return torch.zeros(self.model.num_slots, width, device=self._device) if total is None else total

    def _row(self, block: Block, centre: Tensor) -> Tensor:
        losses = self._forward.losses(block)
        with explained(self._device), self.model.explaining("be differentiated"):
            gradients, squares = self._differentiate(losses.sum(), block)
        moments = self._forward.measured(block, centre)
        scalars = torch.stack([losses.detach().sum(0), squares, torch.zeros_like(squares)], dim=1)
        return torch.cat([*gradients, *moments, scalars], dim=1)

    def _moments_row(self, block: Block, centre: Tensor) -> Tensor:
        self._forward.losses(block)
        return torch.cat(list(self._forward.measured(block, centre)), dim=1)

    def _differentiate(self, loss: Tensor, block: Block) -> tuple[list[Tensor], Tensor]:
        """Return the block's gradient in pieces (T, ...), and the sum over its workers of their squared gradient norms (T,).

        A worker's own gradient is that of the mean loss of its own images.
        """
        num_slots, num_workers = self.model.num_slots, len(block.groups)
        if not self._has_worker_norms or num_workers == 1:
            found = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
            pieces = [gradient.reshape(num_slots, -1) for gradient in found]
            squares = torch.zeros(num_slots, device=self._device, dtype=pieces[0].dtype)
            if self._has_worker_norms:
                squares = sum((piece.square().sum(1) for piece in pieces), squares)
        else:  # every parameter has a copy for every worker
            found = torch.autograd.grad(loss, self.model.context.worker_leaves(self._parameters))
            apart = [gradient.reshape(num_workers, num_slots, -1) for gradient in found]
            squares = sum((piece.square().sum((0, 2)) for piece in apart), apart[0].new_zeros(num_slots))
            pieces = [piece.sum(0) for piece in apart]
        return pieces, squares / block.images_per_group**2


def _described(gradients: Tensor, scalars: Tensor, num_images: int, num_workers: int | None) -> list[GradientStatistics]:
    """Read the plain numbers of every slot out of averaged gradients (T, P) and sums of losses and squared norms (T, 3).

    `num_workers` had images and are averaged over; None when their norms were not computed.
    """
    norms = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).tolist()
    losses = (scalars[:, 0].double() / num_images).tolist()
    squares = [None] * len(norms) if num_workers is None else (scalars[:, 1].double() / num_workers).tolist()
    return [
        GradientStatistics(loss, norm, num_images, square) for loss, norm, square in zip(losses, norms, squares, strict=True)
    ]
