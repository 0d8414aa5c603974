"""LAMB: Adam whose step is scaled to the norm of the tensor that it moves."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from widestep.optim.memory import counted_step, gradients, remembered
from widestep.optim.trust import TrustRatios, norms, scaled


class Lamb(Optimizer):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2, with phi the identity).

    In step n = 1, 2, ... of a tensor w with gradient g and weight decay wd (0 when exempt)

        m = beta1 * m + (1 - beta1) * g;    v = beta2 * v + (1 - beta2) * g^2
        r = (m / (1 - beta1^n)) / (sqrt(v / (1 - beta2^n)) + epsilon)
        w -= lr * t * (r + wd * w),    t = ||w|| / ||r + wd * w||, and 1 where a norm is 0.

    Parameters
    ----------
    groups
        Each with `params`, `weight_decay` and `trusted`: whether its tensors have a trust ratio; without, t is 1, which is
        Adam with decoupled decay.
    lr
        Set anew at every step.
    betas
        beta1 and beta2.

    Notes
    -----
    The rate is outside all that is remembered. The moments are corrected for their start at 0, as in the paper; some
    implementations leave that out, bound the ratio, or clip the gradient's norm to 1 first. Nothing of that is done here.

    Norms are float64, everything else has the type of the parameters. The state is `exp_avg` (m) and `exp_avg_sq` (v) of
    every parameter and the `step` of every group, with the group's first parameter.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float], epsilon: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": epsilon, "ratios": None})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients that the parameters hold."""
        for group in self.param_groups:
            weights = group["params"]
            direction = self._direction(group)
            if group["trusted"]:
                group["ratios"] = _ratios(weights, direction)
            torch._foreach_sub_(weights, scaled(direction, group["ratios"], group["lr"]))

    def _direction(self, group: dict[str, Any]) -> tuple[Tensor, ...]:
        """Update the moments and return r + wd * w."""
        weights, slopes, (beta1, beta2) = group["params"], gradients(group["params"]), group["betas"]
        number = counted_step(self, weights)
        first, second = remembered(self, weights, "exp_avg"), remembered(self, weights, "exp_avg_sq")
        torch._foreach_lerp_(first, slopes, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, slopes, slopes, 1 - beta2)
        spread = torch._foreach_div(second, 1 - beta2**number)
        torch._foreach_sqrt_(spread)
        torch._foreach_add_(spread, group["eps"])
        direction = torch._foreach_div(first, 1 - beta1**number)
        torch._foreach_div_(direction, spread)
        torch._foreach_add_(direction, weights, alpha=group["weight_decay"])
        return direction


def _ratios(weights: list[Tensor], direction: tuple[Tensor, ...]) -> TrustRatios:
    of_weights, of_direction = norms(weights), norms(direction)
    return TrustRatios.where((of_weights > 0) & (of_direction > 0), of_weights, of_direction)
