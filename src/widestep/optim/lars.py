"""LARS (layer-wise adaptive rate scaling) in its three published forms."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from widestep.optim.memory import gradients, remembered
from widestep.optim.trust import TrustRatios, norms, scaled

LarsForm = Literal["lars-tf", "lars-torch", "lars-nus"]


class Lars(Optimizer):
    """Momentum with a rate of its own for every tensor (You, Gitman and Ginsburg 2017, arXiv 1708.03888; statement O2).

    With wd the tensor's own weight decay (0 when exempt) and the trust ratio

        t = trust_coefficient * ||w|| / (||g|| + wd * ||w|| + trust_epsilon),    1 where ||w|| = 0 or ||g|| = 0,

    the three forms, which are not equivalent, take the step

        lars-tf      buffer = momentum * buffer + lr * t * (g + wd * w);    w -= buffer
        lars-torch   buffer = momentum * buffer + t * (g + wd * w);         w -= lr * buffer
        lars-nus     buffer = momentum * buffer + (g + wd * w);             w -= lr * t * buffer

    Parameters
    ----------
    groups
        Each with `params`, `weight_decay` and `trusted`: whether its tensors have a trust ratio; without, t is 1.
    form
        lars-tf: the paper's algorithm 1, TensorFlow's contributed optimizer and MLPerf's reference. lars-torch: a gradient
        that is scaled before it reaches torch's SGD, as in apex's LARC without clipping. lars-nus: the ImageNet code of the
        National University of Singapore.
    lr
        Set anew at every step.

    Notes
    -----
    The rate is inside the buffer of lars-tf, as published: steps taken earlier go on at the rates of their time, and there
    is no momentum correction (statement O1). The other forms have it outside, as torch's SGD and equation 9 of Goyal et al.
    2017.

    There are no clamps. The Singapore code also limits t to 50 and every value of g + wd * w to 10; LARC by default limits
    lr * t to lr. Exempt tensors have neither decay nor ratio in TensorFlow's and the Singapore code (LARC exempts none):
    for that, give `decay_exempt` and `trust_exempt` the same value. A tensor exempt from the ratio alone is decayed as any
    other. Where a norm is 0 LARC leaves out the decay too; here, as in TensorFlow, the ratio becomes 1 and nothing else
    changes. TensorFlow's optimizer can use Nesterov momentum instead; this one has the heavy ball of the paper.

    Norms are float64, everything else has the type of the parameters. The state is one `momentum_buffer` a parameter.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        form: LarsForm,
        lr: float,
        momentum: float,
        trust_coefficient: float,
        trust_epsilon: float,
    ) -> None:
        constants = {"momentum": momentum, "trust_coefficient": trust_coefficient, "trust_epsilon": trust_epsilon}
        super().__init__(groups, {"lr": lr, **constants, "ratios": None})
        self.form = form

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients that the parameters hold."""
        for group in self.param_groups:
            self._step(group)

    def _step(self, group: dict[str, Any]) -> None:
        weights, lr = group["params"], group["lr"]
        buffers = remembered(self, weights, "momentum_buffer")
        if group["trusted"]:
            group["ratios"] = self._ratios(group)
        change = torch._foreach_add(gradients(weights), weights, alpha=group["weight_decay"])
        if self.form != "lars-nus":
            change = scaled(change, group["ratios"], lr if self.form == "lars-tf" else 1.0)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, change)
        if self.form == "lars-nus":
            torch._foreach_sub_(weights, scaled(buffers, group["ratios"], lr))
        else:
            torch._foreach_add_(weights, buffers, alpha=-1.0 if self.form == "lars-tf" else -lr)

    def _ratios(self, group: dict[str, Any]) -> TrustRatios:
        of_weights, of_gradients = norms(group["params"]), norms(gradients(group["params"]))
        denominators = of_gradients + group["weight_decay"] * of_weights + group["trust_epsilon"]
        return TrustRatios.where(
            (of_weights > 0) & (of_gradients > 0), group["trust_coefficient"] * of_weights, denominators
        )
