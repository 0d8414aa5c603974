"""Parameter groups by role (statement O3), what is read back from an optimizer, and the factor of clipping (W6)."""

from collections.abc import Mapping
from typing import get_args

import pytest
import torch
from torch import Tensor

from widestep.errors import UsageError
from widestep.models.build import build_model
from widestep.models.stacked import Role, parameter_roles
from widestep.optim.build import applied, build_optimizer, clip_factor, set_rate, update
from widestep.plan.duration import Duration
from widestep.plan.recipe import OptimizerName, Recipe

ROLES: Mapping[str, Role] = {"conv": "weight", "bn": "batchnorm", "bn.bias": "batchnorm", "fc": "weight", "fc.bias": "bias"}


def made(roles: Mapping[str, Role] = ROLES) -> dict[str, Tensor]:
    return {name: torch.full((4,), 1.0 + place) for place, name in enumerate(roles)}


@pytest.mark.parametrize(("exempt", "num_exempt"), [("none", 0), ("batchnorm", 106), ("batchnorm+bias", 107)])
@pytest.mark.parametrize("name", ["sgd", "lars-tf", "adamw"])
def test_tensors_of_resnet50_without_decay(name: OptimizerName, exempt: str, num_exempt: int) -> None:  # O3
    """53 batch normalisations have 106 scales and shifts; with the classifier's bias 107 of the 161 tensors are exempt."""
    model = build_model("resnet50", num_classes=1000, image_shape=(3, 224, 224))
    parameters, roles = model.slot_parameters(0), parameter_roles(model)
    recipe = Recipe(optimizer=name, decay_exempt=exempt, trust_exempt=exempt, weight_decay=1e-4)
    groups = {group["weight_decay"]: group["params"] for group in build_optimizer(recipe, parameters, roles).param_groups}
    assert len(parameters) == 161
    assert {decay: len(tensors) for decay, tensors in groups.items()} == (
        {1e-4: 161 - num_exempt, 0.0: num_exempt} if num_exempt else {1e-4: 161}
    )
    assert len(model.batch_norms()) == 53
    assert all(tensor.dim() == 1 for tensor in groups.get(0.0, []))  # no convolution and no matrix among them


def test_everything_exempt_is_one_group() -> None:
    optimizer = build_optimizer(Recipe(decay_exempt="batchnorm"), {"scale": torch.ones(3)}, {"scale": "batchnorm"})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]


def test_groups_of_a_trust_ratio_follow_both_exemptions() -> None:  # O3
    """At most three groups: what is exempt from the one is exempt from the other, or the other way round."""
    found = {}
    for decay in ("none", "batchnorm", "batchnorm+bias"):
        for trust in ("none", "batchnorm", "batchnorm+bias"):
            recipe = Recipe(optimizer="lars-nus", weight_decay=0.5, decay_exempt=decay, trust_exempt=trust)
            groups = build_optimizer(recipe, made(), ROLES).param_groups
            found[decay, trust] = [(group["name"], len(group["params"])) for group in groups]
            assert [group["weight_decay"] for group in groups] == [0.5 * group["name"].startswith("d") for group in groups]
    both, with_ratio, without = "batchnorm+bias", ", with trust ratio", ", without trust ratio"
    assert found == {
        ("none", "none"): [("decayed", 5)],
        ("none", "batchnorm"): [("decayed", 3), ("decayed" + without, 2)],
        ("none", both): [("decayed", 2), ("decayed" + without, 3)],
        ("batchnorm", "none"): [("decayed", 3), ("exempt" + with_ratio, 2)],
        ("batchnorm", "batchnorm"): [("decayed", 3), ("exempt", 2)],
        ("batchnorm", both): [("decayed", 2), ("decayed" + without, 1), ("exempt", 2)],
        (both, "none"): [("decayed", 2), ("exempt" + with_ratio, 3)],
        (both, "batchnorm"): [("decayed", 2), ("exempt" + with_ratio, 1), ("exempt", 2)],
        (both, both): [("decayed", 2), ("exempt", 3)],
    }


def test_other_optimizers_do_not_care_for_trust() -> None:
    for name in ("sgd", "nesterov", "adamw", "rmsprop-sgd"):
        recipe = Recipe(optimizer=name, decay_exempt="none", trust_exempt="batchnorm+bias")
        assert [group["name"] for group in build_optimizer(recipe, made(), ROLES).param_groups] == ["decayed"]


def test_roles_of_untrained_parameters_are_ignored() -> None:
    trained = {name: tensor for name, tensor in made().items() if name != "conv"}
    groups = build_optimizer(Recipe(decay_exempt="batchnorm"), trained, ROLES).param_groups
    assert [len(group["params"]) for group in groups] == [2, 2]


EXPECTED = {
    "sgd": {"momentum": 0.8, "nesterov": False},
    "nesterov": {"momentum": 0.8, "nesterov": True},
    "adamw": {"beta1": 0.6, "beta2": 0.7},
    "lamb": {"beta1": 0.6, "beta2": 0.7, "trust": None},
    "lars-tf": {"momentum": 0.8, "trust": None},
    "lars-torch": {"momentum": 0.8, "trust": None},
    "lars-nus": {"momentum": 0.8, "trust": None},
    "rmsprop-sgd": {"momentum": 0.8, "beta2": 0.7, "sgd_share": None},
}


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_what_is_applied_is_read_back(name: OptimizerName) -> None:
    recipe = Recipe(
        optimizer=name,
        momentum=0.8,
        beta1=0.6,
        beta2=0.7,
        weight_decay=0.5,
        decay_exempt="batchnorm+bias",
    )
    optimizer = build_optimizer(recipe, made(), ROLES)
    set_rate(optimizer, 0.25, 3.0)
    assert applied(optimizer) == [
        {"name": "decayed", "lr": 0.25, "weight_decay": 0.5, "num_tensors": 2, **EXPECTED[name]},
        {"name": "exempt", "lr": 0.25, "weight_decay": 0.0, "num_tensors": 3, **EXPECTED[name]},
    ]


def test_momentum_0_is_no_nesterov_momentum() -> None:
    optimizer = build_optimizer(Recipe(optimizer="nesterov", momentum=0.0), made(), ROLES)
    assert [group["nesterov"] for group in applied(optimizer)] == [False]


@pytest.mark.parametrize("num_tensors", [3, 4])
@pytest.mark.parametrize("name", ["lars-tf", "lars-torch", "lars-nus", "lamb"])
def test_ratios_of_the_last_step_are_read_back(name: OptimizerName, num_tensors: int) -> None:
    """Norms 2, 4, 8 (and 64) of weights over norms 2 of gradients, times 1/8; or over 2, Adam's first step of 4 values."""
    roles: dict[str, Role] = {f"w{place}": "weight" for place in range(num_tensors)} | {"bias": "bias"}
    parameters = {key: torch.full((4,), size) for key, size in zip(roles, [1.0, 2.0, 4.0, 32.0], strict=False)}
    parameters["bias"] = torch.full((4,), 1e6)
    recipe = Recipe(optimizer=name, weight_decay=0.0, trust_coefficient=0.125, epsilon=1e-300, decay_exempt="batchnorm+bias")
    optimizer = build_optimizer(recipe, parameters, roles)
    for parameter in parameters.values():
        parameter.grad = torch.ones(4)
    set_rate(optimizer, 1e-30, 0.0)
    for _ in range(2):
        update(optimizer)
    unit = 1.0 if name == "lamb" else 0.125
    expected = {"smallest": unit, "median": (2 if num_tensors == 3 else 3) * unit, "largest": 4 * unit}
    if num_tensors == 4:
        expected["largest"] = 32 * unit
    assert [group["trust"] for group in applied(optimizer)] == [pytest.approx(expected), None]


def test_rate_and_epoch_reach_every_group() -> None:
    optimizer = build_optimizer(Recipe(optimizer="rmsprop-sgd", decay_exempt="batchnorm"), made(), ROLES)
    for parameter in optimizer.param_groups[0]["params"] + optimizer.param_groups[1]["params"]:
        parameter.grad = torch.ones(4)
    set_rate(optimizer, 0.5, 11.25)
    update(optimizer)
    assert [(group["lr"], group["sgd_share"]) for group in applied(optimizer)] == [(0.5, 0.75)] * 2


def test_lengths_of_the_blend_in_steps_need_a_translation() -> None:
    recipe = Recipe(optimizer="rmsprop-sgd", blend_centre="600st", blend_period="5ep")
    with pytest.raises(UsageError, match=r"Got 600st; give it in epochs, for example 10ep\.$"):
        build_optimizer(recipe, made(), ROLES)

    def in_epochs(length: Duration) -> float:
        return length.epochs(steps_per_epoch=300, global_batch=32)

    optimizer = build_optimizer(recipe, made(), ROLES, in_epochs)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones(4)
    set_rate(optimizer, 0.5, 2.0)
    update(optimizer)
    assert applied(optimizer)[0]["sgd_share"] == 0.5


@pytest.mark.parametrize(
    ("norm", "limit", "factor"),
    [(5.0, 1.0, 0.2), (1.0, 1.0, 1.0), (0.5, 1.0, 1.0), (0.0, 1.0, 1.0), (1e30, 1e-3, 1e-33), (3.0, 2.0, 2.0 / 3.0)],
)
def test_only_gradients_that_are_too_long_are_clipped(norm: float, limit: float, factor: float) -> None:  # W6
    assert clip_factor(norm, limit) == factor


def test_a_clipped_gradient_has_the_length_allowed() -> None:  # W6
    gradient = torch.tensor([3.0, -4.0, 12.0])
    assert float((gradient * clip_factor(13.0, 6.5)).norm()) == 6.5
