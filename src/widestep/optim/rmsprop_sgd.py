"""RMSprop that turns into SGD in the course of training: Akiba's warmup. Experimental."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from widestep.errors import UsageError
from widestep.optim.memory import gradients, remembered


def sgd_share(epoch: float, centre: float, period: float) -> float:
    """Return how much of the step is SGD: exponential up to one half at the centre, then linear, 1 from centre + period / 2.

    share = exp(2 * (epoch - centre) / period) / 2    before the centre,
            1/2 + (epoch - centre) / period           from there to centre + period / 2,
            1                                         afterwards

    (Akiba, Suzuki and Fukuda 2017, arXiv 1711.04325, on RMSprop warm-up: `beta_center` 10, `beta_period` 5). Its pieces meet
    with equal slopes as those of the activation ELU, to which the paper compares it. The paper's formula is known to us
    second-hand, in two copies that agree on 2 * (epoch - centre) / period in the linear piece; that would rise to 3/2, turn
    RMSprop's share negative and fall back to 1, and is taken for a misprint.

    Parameters
    ----------
    epoch
        How far training is, fractions included.
    centre, period
        In epochs; with a period of 0 the share jumps from 0 to 1 at the centre.

    Examples
    --------
    >>> [sgd_share(epoch, centre=10, period=5) for epoch in (10, 11.25, 12.5, 90)]
    [0.5, 0.75, 1.0, 1.0]
    """
    if epoch >= centre + period / 2:
        return 1.0
    if epoch >= centre:
        return 0.5 + (epoch - centre) / period
    return 0.5 * math.exp(2 * (epoch - centre) / period) if period > 0 else 0.0


class RmspropSgd(Optimizer):
    """RMSprop and momentum SGD in one step, blended (Akiba et al. 2017, arXiv 1711.04325). Experimental.

    With s = `sgd_share`, and g the gradient with weight decay already added to it, once:

        m = beta2 * m + (1 - beta2) * g^2
        delta = momentum * delta - (s + (1 - s) * (rmsprop_lr / lr) / (sqrt(m) + epsilon)) * g
        w += lr * delta

    Parameters
    ----------
    groups
        Each with `params` and `weight_decay`.
    lr
        Rate of the SGD part, set anew at every step; so is the groups' `epoch`, which has no value to begin with.
    momentum, beta2
        mu_1 and mu_2 of the paper, which has 0.9 and 0.99.
    rmsprop_lr
        Rate of the RMSprop part; 3e-4 in the paper.
    centre, period
        Of the transition, in epochs.

    Notes
    -----
    The rate is outside delta, as in torch's SGD. m starts at 0 without correction, as the paper says nothing of one. The
    formulas are second-hand and nobody has shown us the published accuracy with them: hence experimental.

    The state is `momentum_buffer` (delta) and `square_avg` (m) of every parameter.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        beta2: float,
        epsilon: float,
        rmsprop_lr: float,
        centre: float,
        period: float,
    ) -> None:
        constants = {"momentum": momentum, "beta2": beta2, "eps": epsilon, "rmsprop_lr": rmsprop_lr}
        super().__init__(groups, {"lr": lr, **constants, "epoch": None, "sgd_share": None})
        self.centre, self.period = centre, period

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients that the parameters hold.

        Raises
        ------
        UsageError
            When the rate is 0 and RMSprop has a share: the formula divides by it.
        """
        for group in self.param_groups:
            assert group["epoch"] is not None, "set_rate comes before the first step"
            group["sgd_share"] = sgd_share(group["epoch"], self.centre, self.period)
            self._step(group, _rmsprop_factor(group))

    def _step(self, group: dict[str, Any], rmsprop: float) -> None:
        weights = group["params"]
        slopes = torch._foreach_add(gradients(weights), weights, alpha=group["weight_decay"])
        squares = remembered(self, weights, "square_avg")
        torch._foreach_mul_(squares, group["beta2"])
        torch._foreach_addcmul_(squares, slopes, slopes, 1 - group["beta2"])
        spread = torch._foreach_sqrt(squares)
        torch._foreach_add_(spread, group["eps"])
        pull = torch._foreach_div(slopes, spread)
        torch._foreach_mul_(pull, rmsprop)
        torch._foreach_add_(pull, slopes, alpha=group["sgd_share"])
        deltas = remembered(self, weights, "momentum_buffer")
        torch._foreach_mul_(deltas, group["momentum"])
        torch._foreach_sub_(deltas, pull)
        torch._foreach_add_(weights, deltas, alpha=group["lr"])


def _rmsprop_factor(group: dict[str, Any]) -> float:
    """Return (1 - s) * rmsprop_lr / lr."""
    others = 1.0 - float(group["sgd_share"])
    if others == 0:
        return 0.0
    if group["lr"] == 0:
        raise UsageError(
            "rmsprop-sgd divides by the learning rate, which must be above 0 while RMSprop has a share. It is 0 in epoch "
            f"{group['epoch']:g}; start the warmup above 0 (warmup_start = base, or warmup_first = open)."
        )
    return others * float(group["rmsprop_lr"]) / float(group["lr"])
