"""From a recipe to its optimizer, with weight decay and trust ratios where the recipe wants them."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from widestep.errors import UsageError
from widestep.models.stacked import Role
from widestep.optim.groups import has_trust_ratio, parameter_groups
from widestep.optim.lamb import Lamb
from widestep.optim.lars import Lars
from widestep.optim.rmsprop_sgd import RmspropSgd
from widestep.optim.sgd import Sgd
from widestep.optim.trust import summary
from widestep.plan.duration import Duration
from widestep.plan.recipe import Recipe

# torch wraps an optimizer's methods to exempt them from compilation, and the wrappers import its compiler at the first call
# (3 s for every process that starts). Nothing is compiled here, so the methods are called as they are.
_plain = getattr(Optimizer.add_param_group, "__wrapped__", None)
if _plain is not None:
    vars(_plain).setdefault("__dynamo_disable", _plain)


def _only_epochs(length: Duration) -> float:
    if length.unit != "ep":
        raise UsageError(
            f"blend_centre and blend_period are compared with epochs. Got {length}; give it in epochs, for example 10ep."
        )
    return float(length.amount)


def build_optimizer(
    recipe: Recipe,
    parameters: Mapping[str, Tensor],
    roles: Mapping[str, Role],
    in_epochs: Callable[[Duration], float] = _only_epochs,
) -> Optimizer:
    """Build the optimizer of one run.

    Parameters
    ----------
    parameters
        Name -> tensor that is updated in place; its `.grad` must hold the averaged gradient.
    roles
        Name -> weight, bias or batchnorm, by module type (statement O3), of these parameters at least.
    in_epochs
        Tells how many epochs a length is that is given in steps or images: rmsprop-sgd blends by epochs.

    Raises
    ------
    UsageError
        When rmsprop-sgd has a length in other units than epochs and nothing that converts it.

    Notes
    -----
    sgd and nesterov equal torch.optim.SGD: v = m*v + g + wd*w; w -= lr * (v, or g + wd*w + m*v with Nesterov momentum). The
    rate is outside the velocity, which is equation 9 of Goyal et al. 2017 (statement O1). Decay is added once to the
    averaged gradient (W5). adamw is torch.optim.AdamW (Loshchilov and Hutter 2019), whose decay is beside the step:
    w -= lr*wd*w. Both run torch's fused kernels and equal torch's optimizers with `fused=True` bit for bit (O5); other forms
    of torch's round differently. The other optimizers are documented in their classes.
    """
    lr, momentum, betas = recipe.base_lr, recipe.momentum, (recipe.beta1, recipe.beta2)
    groups = _groups(recipe, parameters, roles)
    match recipe.optimizer:
        case "sgd":
            return Sgd(groups, lr=lr, momentum=momentum, nesterov=False)
        case "nesterov":  # with a momentum of 0 there is none
            return Sgd(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=recipe.epsilon, fused=True)
        case "lamb":
            return Lamb(groups, lr=lr, betas=betas, epsilon=recipe.epsilon)
        case "rmsprop-sgd":
            return RmspropSgd(
                groups,
                lr=lr,
                momentum=momentum,
                beta2=recipe.beta2,
                epsilon=recipe.epsilon,
                rmsprop_lr=recipe.rmsprop_lr,
                centre=in_epochs(recipe.blend_centre),
                period=in_epochs(recipe.blend_period),
            )
        case "lars-tf" | "lars-torch" | "lars-nus":
            return Lars(
                groups,
                form=recipe.optimizer,
                lr=lr,
                momentum=momentum,
                trust_coefficient=recipe.trust_coefficient,
                trust_epsilon=recipe.trust_epsilon,
            )


def _groups(recipe: Recipe, parameters: Mapping[str, Tensor], roles: Mapping[str, Role]) -> list[dict[str, Any]]:
    trusting = has_trust_ratio(recipe.optimizer)
    return [
        {
            "params": [parameters[name] for name in group.parameters],
            "name": group.name,
            "weight_decay": group.weight_decay,
            **({"trusted": group.trusted} if trusting else {}),
        }
        for group in parameter_groups(recipe, {name: roles[name] for name in parameters})
    ]


def set_rate(optimizer: Optimizer, lr: float, epoch: float) -> None:
    """Set what changes from step to step: the rate, and how many epochs are done, fractions included."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "epoch" in group:
            group["epoch"] = epoch


@torch.no_grad()
def update(optimizer: Optimizer) -> None:
    """Let the optimizer update its parameters from their gradients: `optimizer.step()` without its wrappers."""
    inspect.unwrap(type(optimizer).step)(optimizer)


def trust_ratios(optimizer: Optimizer) -> Tensor | None:
    """Return the trust ratios of the last step, group after group: float64, left on the device, None without any."""
    values = [group["ratios"].values() for group in optimizer.param_groups if group.get("ratios") is not None]
    return torch.cat(values) if values else None


def applied(optimizer: Optimizer, ratios: Sequence[float] | None = None) -> list[dict[str, Any]]:
    """Return what the optimizer really applies now, read back from it: one entry a parameter group.

    Parameters
    ----------
    ratios
        The values of `trust_ratios`, for whoever has them; otherwise they are read, which waits for the device.

    Returns
    -------
    Each has `name` (decayed or exempt), `lr`, `weight_decay`, `momentum` or `beta1` and `beta2` (rmsprop-sgd: `momentum` and
    `beta2`), and `num_tensors`; where the optimizer has them `nesterov`, `sgd_share`, and `trust`: the smallest, the median
    and the largest trust ratio of the last step, or None for a group without, and before the first step.
    """
    if ratios is None and (found := trust_ratios(optimizer)) is not None:
        ratios = found.tolist()
    rest = iter(ratios or ())
    return [_applied(group, rest) for group in optimizer.param_groups]


def _applied(group: Mapping[str, Any], ratios: Iterator[float]) -> dict[str, Any]:
    """Return one group's entry, and take as many ratios as the group has tensors if it has any."""
    shown = {name: group[name] for name in ("name", "lr", "weight_decay", "momentum") if name in group}
    if "betas" in group:
        shown["beta1"], shown["beta2"] = group["betas"]
    shown |= {name: group[name] for name in ("beta2", "nesterov", "sgd_share") if name in group}
    shown["num_tensors"] = len(group["params"])
    if "ratios" in group:
        shown["trust"] = None if group["ratios"] is None else summary(list(islice(ratios, shown["num_tensors"])))
    return shown


def clip_factor(gradient_norm: float, clip_norm: float) -> float:
    """Return what to multiply the averaged gradient by so that it is no longer than `clip_norm`: min(1, clip_norm / norm).

    Clipping acts on the averaged gradient of the global batch as it is: before weight decay is added, and before any rate or
    trust ratio multiplies it (statement W6). Nothing is added to the norm.

    Parameters
    ----------
    gradient_norm
        Euclidean norm of the averaged gradient, computed in float64. When it is not finite no step is taken (W7), and the
        factor means nothing.
    clip_norm
        The largest norm, above 0.

    Examples
    --------
    >>> clip_factor(4.0, clip_norm=1.0), clip_factor(0.5, clip_norm=1.0)
    (0.25, 1.0)
    """
    return clip_norm / gradient_norm if gradient_norm > clip_norm else 1.0


def clip_factor_on_device(gradient_norm: Tensor, clip_norm: float) -> Tensor:
    """Return `clip_factor` of a norm that is a float64 scalar of a device, the same number there; nothing is read."""
    limit = torch.full_like(gradient_norm, clip_norm)  # a number divided by a tensor is rounded twice
    return torch.where(gradient_norm > limit, limit / gradient_norm, 1.0)
