"""Fast mode: torch's own data-parallel all-reduce, overlapped with the backward pass (statement W3).

Gradients of a process's blocks are added where they fall, and those of all processes by a ring whose order depends on how
many there are: bytes then depend on the number of processes. In everything else it is the engine of reproducible mode.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from widestep.workers.blocks import BatchOf, Block, ForwardPass
from widestep.workers.engine import GradientEngine, StepGradients, Wishes
from widestep.workers.placement import Placement
from widestep.workers.world import World


def _in_bf16(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
    """Compress with torch's hook, which by its name is refused without a GPU, though gloo adds bfloat16 as well."""
    return default_hooks.bf16_compress_hook(state, bucket)


_HOOKS: dict[str, Any] = {"fp16": default_hooks.fp16_compress_hook, "bf16": _in_bf16}


class OverlappedEngine(GradientEngine):
    """Computes the gradient of a global batch with torch.nn.parallel.DistributedDataParallel.

    Parameters
    ----------
    compression
        `none`, or the type that gradients are rounded to on their way: `fp16`, `bf16` (torch's communication hooks).
    """

    def __init__(
        self, forward: ForwardPass, world: World, *, compression: str = "none", wishes: Callable[[], Wishes] = Wishes
    ) -> None:
        super().__init__(forward, world, wishes=wishes)
        self._loss_of: nn.Module = _LossOf(forward, self._parameters)
        if world.num_processes > 1:
            self._loss_of = DistributedDataParallel(self._loss_of, gradient_as_bucket_view=True, process_group=world.group)
            if compression != "none":
                self._loss_of.register_comm_hook(None, _HOOKS[compression])

    def gradients(self, batch_of: BatchOf, num_images: int, placement: Placement, centre: Tensor) -> StepGradients:
        """Compute the gradient of one global batch, as `GradientEngine.gradients`."""
        mine = placement.blocks(self.world.process)
        blocks = (part for block in mine for part in batch_of(placement.workers(block)))
        with self._forward.of_one_step():
            sums = self._backward(blocks, num_images, centre)
        wishes = self.wishes()
        if self.world.num_processes > 1:
            sums[:, -len(wishes) :] = sums.new_tensor(wishes)
            sums = self.world.summed_in_any_order(sums)
            wishes = Wishes(*(sums[0, -len(wishes) :] > 0).tolist())
        held = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        gradients = torch.cat([gradient.reshape(self.model.num_slots, -1) for gradient in held], dim=1)
        gradients *= self.world.num_processes  # torch averages over processes
        return self._found(gradients, sums, num_images, placement, centre, wishes)

    def _backward(self, blocks: Iterator[Block], num_images: int, centre: Tensor) -> Tensor:
        """Accumulate the gradients of all blocks, exchanged during the last backward pass; return the other sums."""
        for parameter in self._parameters:
            if parameter.grad is None:  # memory of its own: what a compiled pass returns is overwritten by the next
                parameter.grad = torch.zeros_like(parameter)
        torch._foreach_zero_([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        sums = torch.zeros(self.model.num_slots, sum(self._widths[1:]), device=self._device)
        block = next(blocks, None)  # a process without images takes part in the exchange all the same
        while True:
            self.world.pulse.beat("computing")
            following = next(blocks, None)
            with nullcontext() if following is None else self._keeping(), self.model.explaining("be differentiated"):
                losses = self._loss_of(block)
                (losses.sum() / num_images).backward()
            if block is not None:
                scalars = sums.new_zeros(self.model.num_slots, self._widths[2])
                scalars[:, 0] = losses.detach().sum(0)
                sums += torch.cat([*self._forward.measured(block, centre), scalars], dim=1)
            if following is None:
                break
            block = following
        return sums

    def _keeping(self) -> "nullcontext[None]":
        """Return a context in which gradients are added up and not exchanged."""
        if isinstance(self._loss_of, DistributedDataParallel):
            return self._loss_of.no_sync()  # type: ignore[return-value]
        return nullcontext()


class _LossOf(nn.Module):
    """What torch wraps: the losses of a block; of none, a 0 that depends on every parameter, so that all take part.

    It owns the parameters and not the model, whose statistics torch would otherwise send around before every pass.
    """

    def __init__(self, forward: ForwardPass, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.read = nn.ParameterList(parameters)
        self._losses = forward.losses

    def forward(self, block: Block | None) -> Tensor:
        """Return losses of shape (N, T)."""
        if block is None:
            return torch.stack([parameter.sum() * 0.0 for parameter in self.read]).sum()
        return self._losses(block)
