"""The gradient of one global batch: every worker's share, summed in worker order whoever computes it."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from widestep.records.gradients import GradientStatistics
from widestep.workers.blocks import BatchOf, Block, ForwardPass, explained
from widestep.workers.moments import StepMoments
from widestep.workers.placement import Placement
from widestep.workers.reduce import sum_over_processes
from widestep.workers.sums import Sums
from widestep.workers.tree import finish, sum_leaves
from widestep.workers.world import World

_PART_OF_NORM = 1 << 16
_SCALARS = 4
"""At the end of a row: the loss, the workers' squared gradient norms, and 1 for each of the process's wishes."""


class Wishes(NamedTuple):
    """What a process wants all to do after the step; it rides along with the gradient, so that all do it at the same one."""

    stop: bool = False
    save: bool = False


@dataclass(frozen=True)
class StepGradients:
    """What the engine found for the T runs of the stack, the same bytes on every process.

    The device may still be at work on the tensors; `of_slot` and `finite` wait for it.

    Parameters
    ----------
    gradients
        Shape (T, P), averaged over the n images of the global batch, parameters in module order.
    moments
        What batch normalisation measured.
    numbers
        Rows of T numbers, float64: the loss, the norm of the gradient, 1 where the moments are finite and else 0, and the
        mean square of the workers' gradient norms, where that was asked for.
    num_images
        n.
    wishes
        What some process wants all to do after the step.
    """

    gradients: Tensor
    moments: StepMoments
    numbers: Tensor
    num_images: int
    wishes: Wishes

    @property
    def of_slot(self) -> list[GradientStatistics]:
        """Loss and gradient norms of each run."""
        return [statistics for statistics, _ in self.read(self.numbers.tolist())]

    @property
    def finite(self) -> list[bool]:
        """Whether each run may take the step."""
        return [finite for _, finite in self.read(self.numbers.tolist())]

    def read(self, numbers: Sequence[Sequence[float]]) -> list[tuple[GradientStatistics, bool]]:
        """Return loss and gradient norms of each run, and whether it may take the step, from `numbers` on the host.

        It may when loss, gradient and moments are all finite (statement W7): a variance can overflow while loss and
        gradient do not.
        """
        found = []
        for loss, norm, whole, *square in zip(*numbers, strict=True):
            statistics = GradientStatistics(loss, norm, self.num_images, *square)
            found.append((statistics, statistics.finite and whole == 1.0))
        return found


def _norms(gradients: Tensor) -> Tensor:
    """Return the norm of every row (T, P), float64, shape (T,); of long rows by parts that stay in a processor's cache."""
    norms: Tensor = gradients
    if gradients.shape[1] > _PART_OF_NORM:
        parts = [part for row in gradients for part in row.split(_PART_OF_NORM)]
        norms = torch.stack(torch._foreach_norm(parts, 2, dtype=torch.float64)).view(len(gradients), -1)
    found: Tensor = torch.linalg.vector_norm(norms, dim=1, dtype=torch.float64)
    return found


class GradientEngine:
    """Computes all workers' gradients and combines them in worker order (statements W1, W2).

    The work of a step is a row of sums for each block of workers (and each of the T runs)::

        | gradient: P numbers | what batch normalisation measured | loss | squared norms of workers | wishes |

    Rows are the leaves of a fixed tree (`tree`): they are added first within each process, then across processes (`reduce`).

    Parameters
    ----------
    forward
        How one block is computed.
    has_worker_norms
        Whether the norm of every worker's own gradient is computed.
    wishes
        Asked once a step.
    """

    def __init__(
        self,
        forward: ForwardPass,
        world: World,
        *,
        has_worker_norms: bool = False,
        wishes: Callable[[], Wishes] = Wishes,
    ) -> None:
        self.model = forward.model
        self.world = world
        self.moments = forward.moments
        self._forward = forward
        self._has_worker_norms = has_worker_norms
        self.wishes = wishes
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._device = self._parameters[0].device
        self.num_gradients = sum(p.numel() for p in self._parameters) // self.model.num_slots
        self._widths = [self.num_gradients, self.moments.width, _SCALARS]
        others = torch.Size((self.model.num_slots, self.moments.width + _SCALARS))
        self._shapes = [*(parameter.shape for parameter in self._parameters), others]

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
        wishes = self._wishes(placement)
        with self._forward.of_one_step():
            total = self._total(self._rows(placement, wishes, batch_of, centre), placement, sum(self._widths))
        if self.world.num_processes > 1:
            wishes = Wishes(*(total[0, -len(wishes) :] > 0).tolist())
        gradients, others = total.to(self._device).split([self.num_gradients, sum(self._widths[1:])], dim=1)
        return self._found(gradients.div_(num_images), others, num_images, placement, centre, wishes)

    def _found(
        self, gradients: Tensor, others: Tensor, num_images: int, placement: Placement, centre: Tensor, wishes: Wishes
    ) -> StepGradients:
        """Make a step of averaged gradients (T, P) and the sums of everything else."""
        sums, scalars = others.split(self._widths[1:], dim=1)
        moments = self.moments.unpack(sums, centre, num_images, placement.num_groups_with(num_images))
        numbers = [scalars[:, 0].double() / num_images, _norms(gradients), moments.finite().double()]
        if self._has_worker_norms:
            numbers.append(scalars[:, 1].double() / min(num_images, placement.num_workers))
        return StepGradients(gradients, moments, torch.stack(numbers), num_images, wishes)

    def moment_sums(self, batch_of: BatchOf, placement: Placement, centre: Tensor) -> Tensor:
        """Return only what batch normalisation measures on a global batch, as `MomentSums` packs it: shape (T, width)."""
        width = self.moments.width

        def rows() -> Iterator[tuple[int, Sums]]:
            for block in placement.blocks(self.world.process):
                parts = batch_of(placement.workers(block))
                yield (
                    block,
                    self._added(
                        (self._moments_row(part, centre) for part in parts), [torch.Size((self.model.num_slots, width))]
                    ),
                )

        with torch.no_grad():
            return self._total(rows(), placement, width).to(self._device)

    def first_failing_workers(self, batch_of: BatchOf, placement: Placement, slot: int) -> range:
        """Find the first block of workers whose loss or gradient is not finite, by computing the step's blocks again.

        Returns
        -------
        Its workers, on every process; all workers when each block is finite by itself.
        """
        failing = torch.zeros(placement.num_blocks)
        centre = torch.zeros(self.model.num_slots, self.moments.num_channels, device=self._device)
        for block, row in self._rows(placement, Wishes(), batch_of, centre):
            failing[block] = float(not torch.isfinite(row.row()[slot]).all())
        found = self.world.merged(failing).nonzero().flatten().tolist()
        return placement.workers(found[0]) if found else range(placement.num_workers)

    def _wishes(self, placement: Placement) -> Wishes:
        wishes = self.wishes()
        if self.world.num_processes <= placement.num_blocks:
            return wishes
        # a process without a block has no row that could carry what it wants
        return Wishes(*(self.world.merged(torch.tensor(wishes, dtype=torch.float32)) > 0).tolist())

    def _total(self, rows: Iterator[tuple[int, Sums]], placement: Placement, width: int) -> Tensor:
        partial_sums = sum_leaves(rows)
        if self.world.num_processes == 1:
            return finish(partial_sums, placement.num_blocks).row()
        mine = {node: sums.row() for node, sums in partial_sums.items()}
        return sum_over_processes(self.world, placement, mine, (self.model.num_slots, width))

    def _rows(self, placement: Placement, wishes: Wishes, batch_of: BatchOf, centre: Tensor) -> Iterator[tuple[int, Sums]]:
        """Yield the blocks of this process, each with its row of sums for every slot: the leaves of the tree."""
        for block in placement.blocks(self.world.process):
            self.world.pulse.beat("computing")
            parts = batch_of(placement.workers(block))  # one, or more where a short step gives workers unequal shares
            of_groups = itertools.groupby(parts, key=lambda part: part.groups)
            row = self._added((self._row(passes, centre) for _, passes in of_groups), self._shapes)
            for place, wish in enumerate(wishes, start=-len(wishes)):
                row.pieces[-1][:, place] = float(wish)
            yield block, row

    def _added(self, rows: Iterable[Sums], shapes: Sequence[torch.Size]) -> Sums:
        """Add rows up; without any, there are zeros in their place, in pieces of the same shapes."""
        total: Sums | None = None
        for row in rows:
            total = row if total is None else total.add_(row)
        return total or Sums([self._parameters[0].new_zeros(shape) for shape in shapes], self.model.num_slots)

    def _row(self, passes: Iterable[Block], centre: Tensor) -> Sums:
        """Return the sums of some groups, whose images are computed in one pass or in several."""
        counts: list[int] = []

        def rows() -> Iterator[Sums]:
            for block in passes:
                counts.append(block.images_per_group if len(block.groups) == 1 else 0)
                yield self._row_of_pass(block, centre)

        row = self._added(rows(), self._shapes)
        if self._has_worker_norms and all(counts):  # one worker, whose own gradient is known only now
            gradient = row.row()[:, : self.num_gradients]
            own = torch.linalg.vector_norm(gradient, dim=1, dtype=torch.float64) / sum(counts)
            row.pieces[-1][:, 1 - _SCALARS] = own.square()
        return row

    def _row_of_pass(self, block: Block, centre: Tensor) -> Sums:
        losses = self._forward.losses(block)
        with explained(self._device), self.model.explaining("be differentiated"):
            gradients, squares = self._differentiate(losses.sum(), block)
        moments = self._forward.measured(block, centre)
        nothing = torch.zeros_like(squares)
        scalars = torch.stack([losses.detach().sum(0), squares, nothing, nothing], dim=1)
        return Sums([*gradients, torch.cat([*moments, scalars], dim=1)], self.model.num_slots)

    def _moments_row(self, block: Block, centre: Tensor) -> Sums:
        self._forward.losses(block)
        return Sums([torch.cat(list(self._forward.measured(block, centre)), dim=1)], self.model.num_slots)

    def _differentiate(self, loss: Tensor, block: Block) -> tuple[list[Tensor], Tensor]:
        """Return the gradient of a pass, a piece a parameter, and the sum of its workers' squared gradient norms (T,).

        Each piece has memory of its own. A worker's own gradient is that of the mean loss of its own images. Norms are 0
        where they were not asked for, and for one worker, whose gradient may have more passes.
        """
        num_slots, num_workers = self.model.num_slots, len(block.groups)
        if not self._has_worker_norms or num_workers == 1:
            return self._gradients_of(loss), loss.detach().new_zeros(num_slots)
        # every parameter has a copy for every worker
        found = torch.autograd.grad(loss, self.model.context.worker_leaves(self._parameters))
        apart = [gradient.reshape(num_workers, num_slots, -1) for gradient in found]
        squares = sum((piece.square().sum((0, 2)) for piece in apart), apart[0].new_zeros(num_slots))
        pieces = [piece.sum(0).view(p.shape) for piece, p in zip(apart, self._parameters, strict=True)]
        return pieces, squares / block.images_per_group**2

    def _gradients_of(self, loss: Tensor) -> list[Tensor]:
        """Return the gradient of every parameter; torch leaves it there in memory that nobody else holds."""
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        if self.model.compiled is None:
            return found
        kept = [torch.empty_like(gradient) for gradient in found]  # what a compiled pass returns is overwritten by the next
        torch._foreach_copy_(kept, found)
        return kept
