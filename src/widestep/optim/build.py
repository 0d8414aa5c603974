"""From a recipe to torch's own optimizer, with weight decay where the recipe wants it."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from widestep.models.stacked import Role
from widestep.plan.recipe import Recipe

# torch wraps an optimizer's methods to exempt them from compilation, and the wrappers import its compiler at the first call
# (3 s for every process that starts). Nothing is compiled here, so the methods are called as they are.
_plain = getattr(Optimizer.add_param_group, "__wrapped__", None)
if _plain is not None:
    vars(_plain).setdefault("__dynamo_disable", _plain)

_EXEMPT: dict[str, frozenset[Role]] = {
    "none": frozenset(),
    "batchnorm": frozenset(("batchnorm",)),
    "batchnorm+bias": frozenset(("batchnorm", "bias")),
}


def build_optimizer(recipe: Recipe, parameters: Mapping[str, Tensor], roles: Mapping[str, Role]) -> Optimizer:
    """Build the optimizer of one run.

    Parameters
    ----------
    parameters
        Name -> tensor that is updated in place; its `.grad` must hold the averaged gradient.
    roles
        Name -> weight, bias or batchnorm, by module type (statement O3).

    Notes
    -----
    SGD is torch.optim.SGD: v = m*v + g + wd*w; w -= lr * (v, or g + wd*w + m*v with Nesterov momentum). The rate is outside
    the velocity, which is equation 9 of Goyal et al. 2017 (statement O1). Decay is added once to the averaged gradient (W5).
    The learning rate is set at every step by the trainer.
    """
    exempt = _EXEMPT[recipe.decay_exempt]
    decayed = [tensor for name, tensor in parameters.items() if roles[name] not in exempt]
    free = [tensor for name, tensor in parameters.items() if roles[name] in exempt]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": recipe.weight_decay}] if decayed else []
    if free:
        groups.append({"params": free, "weight_decay": 0.0})
    nesterov = recipe.optimizer == "nesterov" and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.base_lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)


@torch.no_grad()
def update(optimizer: Optimizer) -> None:
    """Let the optimizer update its parameters from their gradients: `optimizer.step()` without its wrappers."""
    inspect.unwrap(type(optimizer).step)(optimizer)


def applied(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return what the optimizer really applies now, read back from it: one entry a parameter group."""
    names = ("lr", "weight_decay", "momentum", "nesterov")
    return [
        {name: group[name] for name in names if name in group} | {"num_tensors": len(group["params"])}
        for group in optimizer.param_groups
    ]
