"""Which parameters share their weight decay and their trust ratio: the parameter groups of a recipe's optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass

from widestep.models.stacked import Role
from widestep.plan.recipe import Exemption, OptimizerName, Recipe

_EXEMPT: dict[Exemption, frozenset[Role]] = {
    "none": frozenset(),
    "batchnorm": frozenset(("batchnorm",)),
    "batchnorm+bias": frozenset(("batchnorm", "bias")),
}


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are stepped alike.

    Parameters
    ----------
    name
        `decayed` or `exempt` (from weight decay); of LARS and LAMB these words stand for the trust ratio too, and the name
        says so where a group has only one of both.
    parameters
        Their names, in the order of the model.
    weight_decay
        0 when exempt.
    trusted
        Whether their steps have a trust ratio.
    """

    name: str
    parameters: tuple[str, ...]
    weight_decay: float
    trusted: bool


def has_trust_ratio(optimizer: OptimizerName) -> bool:
    """Say whether an optimizer scales the step of every tensor by a trust ratio."""
    return optimizer in ("lars-tf", "lars-torch", "lars-nus", "lamb")


def parameter_groups(recipe: Recipe, roles: Mapping[str, Role]) -> list[ParameterGroup]:
    """Sort parameters into as few groups as there are treatments: decayed ones first, then those with a trust ratio.

    What is exempt follows from the role of a parameter and never from its name (statement O3). `decay_exempt` and
    `trust_exempt` are independent of each other.

    Parameters
    ----------
    roles
        Name -> weight, bias or batchnorm, in the order of the model.
    """
    undecayed, untrusted = _EXEMPT[recipe.decay_exempt], _EXEMPT[recipe.trust_exempt]
    trusting = has_trust_ratio(recipe.optimizer)
    members: dict[tuple[bool, bool], list[str]] = {}
    for name, role in roles.items():
        members.setdefault((role not in undecayed, trusting and role not in untrusted), []).append(name)
    return [
        ParameterGroup(
            name=_name(decayed, trusted, trusting),
            parameters=tuple(members[decayed, trusted]),
            weight_decay=recipe.weight_decay if decayed else 0.0,
            trusted=trusted,
        )
        for decayed, trusted in sorted(members, reverse=True)
    ]


def _name(decayed: bool, trusted: bool, trusting: bool) -> str:
    name = "decayed" if decayed else "exempt"
    if not trusting or trusted == decayed:
        return name
    return f"{name}, {'with' if trusted else 'without'} trust ratio"
