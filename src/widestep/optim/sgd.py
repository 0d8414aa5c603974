"""Momentum SGD by torch's fused kernel, called directly: torch's own optimizer looks everything up anew at every step."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from widestep.optim.memory import gradients, remembered


class Sgd(Optimizer):
    """torch.optim.SGD with `fused=True`, bit for bit (statements O1, O5): v = m*v + g + wd*w; w -= lr * v.

    The first step sets v = g + wd*w, which differs from the formula in the sign of zeros.

    Parameters
    ----------
    groups
        Each with `params`, float32 and on one device, and `weight_decay`.
    lr
        Set anew at every step; it is outside the velocity.
    nesterov
        Step by g + wd*w + m*v instead of v.

    Notes
    -----
    The state is one `momentum_buffer` (v) a parameter, none without momentum. For the 20 tensors of the digits' network a
    step takes 13 microseconds instead of 31 (AMD EPYC).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, nesterov: bool) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients that the parameters hold."""
        for group in self.param_groups:
            weights, momentum = group["params"], group["momentum"]
            first = "momentum_buffer" not in self.state[weights[0]]
            torch._fused_sgd_(
                weights,
                gradients(weights),
                remembered(self, weights, "momentum_buffer") if momentum else [],
                weight_decay=group["weight_decay"],
                momentum=momentum,
                lr=group["lr"],
                dampening=0.0,
                nesterov=group["nesterov"],
                maximize=False,
                is_first_step=first and momentum > 0,
            )
