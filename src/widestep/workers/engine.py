"""The gradient of one global batch: every worker's share, summed in worker order whoever computes it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from widestep.models.block import DropoutUniforms
from widestep.models.stacked import StackedModel
from widestep.records.gradients import GradientStatistics
from widestep.workers.placement import Placement
from widestep.workers.reduce import sum_over_processes
from widestep.workers.tree import sum_leaves
from widestep.workers.world import World


@dataclass(frozen=True)
class Block:
    """Images of neighbouring workers that pass through the model together.

    Parameters
    ----------
    images
        Shape (N, T*C, H, W); image n belongs to worker `workers[n % k]` and slot t owns channels t*C to (t+1)*C.
    labels
        Shape (N, T), int64.
    workers
        The k workers; each has N / k images.
    dropout_uniforms
        Where dropout gets its numbers.
    """

    images: Tensor
    labels: Tensor
    workers: range
    dropout_uniforms: DropoutUniforms | None = None


BatchOf = Callable[[range], Iterable[Block]]
"""The images of some neighbouring workers at the current step: one block, or two where a short last step gives some of them
one image less, or none."""


@dataclass(frozen=True)
class StepGradients:
    """What the engine found for the T runs of the stack, the same bytes on every process.

    Parameters
    ----------
    gradients
        Shape (T, P), averaged over the n images of the global batch, parameters in module order.
    batch_statistics
        Shape (T, S): mean and unbiased variance of every batch normalisation, in layer order, averaged over the workers that
        had images (or those of worker 0).
    of_slot
        Loss and gradient norm of each run.
    finite
        Whether loss, gradient and batch statistics of each run are all finite: only then may the run take the step
        (statement W7). A variance can overflow while loss and gradient do not.
    stop_requested
        Whether some process was asked to stop.
    """

    gradients: Tensor
    batch_statistics: Tensor
    of_slot: Sequence[GradientStatistics]
    finite: Sequence[bool]
    stop_requested: bool


class GradientEngine:
    """Computes all workers' gradients and combines them in worker order (statements W1, W2).

    Parameters
    ----------
    model
        In training mode; its parameters are read, never written.
    placement
        Which blocks this process computes.
    label_smoothing
        Share of the target spread over all classes.
    only_worker0
        Take the batch statistics of worker 0 instead of the mean over workers (statement B3).
    stop_requested
        Asked once a step; rides along with the gradient so that all processes stop at the same step.
    """

    def __init__(
        self,
        model: StackedModel,
        world: World,
        placement: Placement,
        *,
        label_smoothing: float = 0.0,
        only_worker0: bool = False,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = model
        self.world = world
        self.placement = placement
        self._label_smoothing = label_smoothing
        self._only_worker0 = only_worker0
        self._stop_requested = stop_requested
        self._parameters = list(model.parameters())
        self.num_gradients = sum(p.numel() for p in self._parameters) // model.num_slots
        self.num_statistics = sum(2 * b.weight.numel() for b in model.batch_norms()) // model.num_slots

    def gradients(self, batch_of: BatchOf, num_images: int) -> StepGradients:
        """Compute the gradient of one global batch of `num_images` images at the model's current weights."""
        partial_sums = sum_leaves(self._leaves(batch_of))
        width = self.num_gradients + self.num_statistics + 2
        total = sum_over_processes(self.world, self.placement, partial_sums, (self.model.num_slots, width))
        gradients, statistics, scalars = total.split([self.num_gradients, self.num_statistics, 2], dim=1)
        gradients = gradients.div_(num_images)
        num_measured = 1 if self._only_worker0 else min(num_images, self.placement.num_workers)
        norms = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).tolist()
        losses = (scalars[:, 0].double() / num_images).tolist()
        of_slot = [GradientStatistics(loss, norm, num_images) for loss, norm in zip(losses, norms, strict=True)]
        measured = torch.isfinite(statistics.div_(num_measured)).all(1).tolist()
        return StepGradients(
            gradients=gradients,
            batch_statistics=statistics,
            of_slot=of_slot,
            finite=[found.finite and finite for found, finite in zip(of_slot, measured, strict=True)],
            stop_requested=bool(scalars[0, 1] > 0),
        )

    def first_failing_workers(self, batch_of: BatchOf, slot: int) -> range:
        """Find the first block of workers whose loss or gradient is not finite, by computing the step's blocks again.

        Returns
        -------
        Its workers, on every process; all workers when each block is finite by itself.
        """
        failing = torch.zeros(self.placement.num_blocks)
        for block in self.placement.blocks(self.world.process):
            leaf = self._leaf(self.placement.workers(block), batch_of)[slot]
            failing[block] = float(not torch.isfinite(leaf).all())
        found = self.world.merged(failing).nonzero().flatten().tolist()
        return self.placement.workers(found[0]) if found else range(self.placement.num_workers)

    def _leaves(self, batch_of: BatchOf) -> Iterator[tuple[int, Tensor]]:
        stop = torch.tensor([float(self._stop_requested())])
        if self.world.num_processes > self.placement.num_blocks:
            stop = self.world.merged(stop)  # a process without a block has no leaf that could carry its request
        for block in self.placement.blocks(self.world.process):
            leaf = self._leaf(self.placement.workers(block), batch_of)
            leaf[:, -1] = stop.item()
            yield block, leaf

    def _leaf(self, workers: range, batch_of: BatchOf) -> Tensor:
        """Return one block's sums, a row a slot: gradients, batch statistics, loss, and a place for the stop request."""
        leaf: Tensor | None = None
        for block in batch_of(workers):
            found = self._forward_backward(block)
            leaf = found if leaf is None else leaf.add_(found)
        if leaf is None:
            width = self.num_gradients + self.num_statistics + 2
            return torch.zeros(self.model.num_slots, width, device=self._parameters[0].device)
        return leaf

    def _forward_backward(self, block: Block) -> Tensor:
        num_slots, context = self.model.num_slots, self.model.context
        context.begin(len(block.workers), block.dropout_uniforms)
        logits = self.model(block.images)
        losses = F.cross_entropy(
            logits.flatten(0, 1), block.labels.flatten(), reduction="none", label_smoothing=self._label_smoothing
        ).view(block.labels.shape)
        gradients = torch.autograd.grad(losses.sum(), self._parameters)
        pieces = [gradient.reshape(num_slots, -1) for gradient in gradients]
        for statistics in context.batch_statistics():
            for moments in statistics:  # (k, T*C)
                pieces.append(self._over_workers(moments, block.workers).view(num_slots, -1))
        pieces.append(losses.detach().sum(0)[:, None])
        pieces.append(torch.zeros_like(pieces[-1]))
        return torch.cat(pieces, dim=1)

    def _over_workers(self, moments: Tensor, workers: range) -> Tensor:
        if not self._only_worker0:
            return moments.sum(0)
        return moments[0] if workers.start == 0 else torch.zeros_like(moments[0])
