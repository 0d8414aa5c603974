"""What our own optimizers do alike: read gradients, and remember tensors under the names that go into a checkpoint."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer


def gradients(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of every parameter; all must have one."""
    found = [weight.grad for weight in weights if weight.grad is not None]
    assert len(found) == len(weights)
    return found


def remembered(optimizer: Optimizer, weights: Sequence[Tensor], key: str) -> list[Tensor]:
    """Return what an optimizer remembers of every parameter under `key`: zeros before the first step."""
    for weight in weights:
        state = optimizer.state[weight]
        if key not in state:
            state[key] = torch.zeros_like(weight, requires_grad=False)
    return [optimizer.state[weight][key] for weight in weights]


def counted_step(optimizer: Optimizer, weights: Sequence[Tensor]) -> int:
    """Count a step of a group and return its number, from 1.

    The count is a float32 scalar named `step` (exact to 16 million), remembered with the first parameter of the group. It is
    kept on the CPU, where reading it does not wait for a device; restored on another device, it comes back at the next step.
    """
    state = optimizer.state[weights[0]]
    state["step"] = state.get("step", torch.zeros(())).cpu() + 1
    return int(state["step"])
