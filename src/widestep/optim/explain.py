"""What a recipe's optimizer does to which parameter, in words and as plain values: `widestep train --explain-optimizer`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from widestep.models.stacked import Role
from widestep.optim.groups import ParameterGroup, parameter_groups
from widestep.plan.recipe import OptimizerName, Recipe

_INSIDE = "inside the buffer: earlier steps go on at the rates of their time, no momentum correction"
_OUTSIDE = "outside the buffer: a change of the rate acts on all of it (Goyal et al. 2017, equation 9)"
_BESIDE = "outside the moments: a change of the rate acts at once"
_LARS = "t = {trust_coefficient:g} * |w| / (|g| + wd * |w|{trust_term}), 1 where |w| or |g| is 0"
_LAMB = "t = |w| / |r + wd * w|, 1 where a norm is 0"
_MOMENTS = "m = {beta1:g} m + {one_minus_beta1:g} g; v = {beta2:g} v + {one_minus_beta2:g} g^2; "
_ADAM = _MOMENTS + "r = (m / (1 - {beta1:g}^n)) / (sqrt(v / (1 - {beta2:g}^n)) + {epsilon:g}); "


@dataclass(frozen=True)
class _Wording:
    formula: str
    source: str
    rate: str
    trust_ratio: str | None = None
    experimental: bool = False


_WORDINGS: dict[OptimizerName, _Wording] = {
    "sgd": _Wording(
        "v = {momentum:g} v + g + wd * w; w -= lr * v", "Goyal et al. 2017, arXiv 1706.02677; torch.optim.SGD", _OUTSIDE
    ),
    "nesterov": _Wording(
        "v = {momentum:g} v + g + wd * w; w -= lr * (g + wd * w + {momentum:g} v)",
        "Sutskever et al. 2013, as torch.optim.SGD has it",
        _OUTSIDE,
    ),
    "adamw": _Wording(
        _ADAM + "w -= lr * (r + wd * w)", "Loshchilov and Hutter 2019, arXiv 1711.05101; torch.optim.AdamW", _BESIDE
    ),
    "lamb": _Wording(_ADAM + "w -= lr * t * (r + wd * w)", "You et al. 2020, arXiv 1904.00962, algorithm 2", _BESIDE, _LAMB),
    "lars-tf": _Wording(
        "v = {momentum:g} v + lr * t * (g + wd * w); w -= v",
        "You et al. 2017, arXiv 1708.03888, algorithm 1; TensorFlow, MLPerf",
        _INSIDE,
        _LARS,
    ),
    "lars-torch": _Wording(
        "v = {momentum:g} v + t * (g + wd * w); w -= lr * v",
        "You et al. 2017, arXiv 1708.03888, as a scaled gradient for torch.optim.SGD",
        _OUTSIDE,
        _LARS,
    ),
    "lars-nus": _Wording(
        "v = {momentum:g} v + g + wd * w; w -= lr * t * v",
        "You et al. 2017, arXiv 1708.03888, as the National University of Singapore's code",
        _OUTSIDE,
        _LARS,
    ),
    "rmsprop-sgd": _Wording(
        "g += wd * w; m = {beta2:g} m + {one_minus_beta2:g} g^2; "
        "d = {momentum:g} d - (s + (1 - s) * ({rmsprop_lr:g} / lr) / (sqrt(m) + {epsilon:g})) * g; w += lr * d; "
        "s rises to 1/2 at {blend_centre} and to 1 half of {blend_period} later",
        "Akiba et al. 2017, arXiv 1711.04325, second-hand",
        _OUTSIDE,
        experimental=True,
    ),
}


def explanation(recipe: Recipe, parameters: Mapping[str, Tensor], roles: Mapping[str, Role]) -> dict[str, Any]:
    """Return what the recipe's optimizer does, as plain values for JSON.

    Parameters
    ----------
    parameters
        Name -> tensor, of which only the number of values is read.
    roles
        Name -> weight, bias or batchnorm, of these parameters at least.

    Returns
    -------
    `optimizer`, `formula` (of a tensor w with averaged gradient g and its own weight decay wd, lr being the rate and n the
    number of the step), `source`, `experimental`, `rate`, `trust_ratio` and `clip_norm` (None without), `num_tensors`,
    `num_values`, `num_normalisation_layers`, `roles` with the counts of each role, and `groups`, each with its own counts.
    """
    wording = _WORDINGS[recipe.optimizer]
    settings = {
        **dict(recipe),
        "one_minus_beta1": 1 - recipe.beta1,
        "one_minus_beta2": 1 - recipe.beta2,
        "trust_term": f" + {recipe.trust_epsilon:g}" if recipe.trust_epsilon else "",
    }
    owners = {name.rpartition(".")[0] for name in parameters if roles[name] == "batchnorm"}
    held = {name: roles[name] for name in parameters}
    return {
        "optimizer": recipe.optimizer,
        "formula": wording.formula.format(**settings),
        "source": wording.source,
        "experimental": wording.experimental,
        "rate": wording.rate,
        "trust_ratio": None if wording.trust_ratio is None else wording.trust_ratio.format(**settings),
        "clip_norm": recipe.clip_norm,
        **_counts(parameters, parameters),
        "num_normalisation_layers": len(owners),
        "roles": {role: _counts((n for n in held if held[n] == role), parameters) for role in get_args(Role)},
        "groups": [_group(group, parameters, held) for group in parameter_groups(recipe, held)],
    }


def _counts(names: Iterable[str], parameters: Mapping[str, Tensor]) -> dict[str, int]:
    sizes = [parameters[name].numel() for name in names]
    return {"num_tensors": len(sizes), "num_values": sum(sizes)}


def _group(group: ParameterGroup, parameters: Mapping[str, Tensor], roles: Mapping[str, Role]) -> dict[str, Any]:
    counted = Counter(roles[name] for name in group.parameters)
    return {
        "name": group.name,
        "weight_decay": group.weight_decay,
        "trust_ratio": group.trusted,
        **_counts(group.parameters, parameters),
        "roles": {role: count for role in get_args(Role) if (count := counted[role])},
        "biases": [name for name in group.parameters if roles[name] == "bias"],
    }


def explanation_lines(explained: Mapping[str, Any]) -> list[str]:
    """Return what `explanation` found in words, one fact a line."""
    roles = {role: counts["num_tensors"] for role, counts in explained["roles"].items()}
    lines = [
        f"optimizer  {explained['optimizer']}: {explained['formula']}",
        f"source     {explained['source']}{' (experimental)' if explained['experimental'] else ''}",
        f"rate       {explained['rate']}",
        f"trust      {explained['trust_ratio'] or 'no trust ratio'}",
        f"clipping   {_clipping(explained['clip_norm'])}",
        f"tensors    {explained['num_tensors']:,} with {explained['num_values']:,} values: {_roles(roles)} "
        f"({explained['num_normalisation_layers']} layers)",
    ]
    return [*lines, *(_group_line(group, explained["trust_ratio"] is not None) for group in explained["groups"])]


def _clipping(clip_norm: float | None) -> str:
    if clip_norm is None:
        return "none"
    return f"averaged gradients longer than {clip_norm:g} are scaled to it, before weight decay"


def _group_line(group: Mapping[str, Any], trusting: bool) -> str:
    decay = f"weight decay {group['weight_decay']:g}" if group["name"].startswith("decayed") else "no weight decay"
    trust = f"; {'with' if group['trust_ratio'] else 'without'} trust ratio" if trusting else ""
    size = f"{group['num_tensors']:,} tensors with {group['num_values']:,} values"
    which = f"{_roles(group['roles'])}{_named(group['biases'])}"
    return f"group      {group['name'].partition(',')[0]}: {size}: {which}; {decay}{trust}"


def _roles(counts: Mapping[str, int]) -> str:
    one = {"weight": "weight", "bias": "bias", "batchnorm": "of normalisation"}
    more = {"weight": "weights", "bias": "biases", "batchnorm": "of normalisation"}
    return ", ".join(f"{count} {(one if count == 1 else more)[role]}" for role, count in counts.items() if count)


def _named(biases: list[str]) -> str:
    """Name the biases where there are few."""
    return f" (bias: {', '.join(biases)})" if 0 < len(biases) <= 3 else ""
