"""What is told about an optimizer is what is built (statement O3)."""

import json
from typing import get_args

import pytest
import torch

from widestep.models.build import build_model
from widestep.models.stacked import Role, parameter_roles
from widestep.optim.build import build_optimizer
from widestep.optim.explain import explanation, explanation_lines
from widestep.plan.recipe import OptimizerName, Recipe


@pytest.fixture(scope="module")
def resnet50() -> tuple[dict[str, torch.Tensor], dict[str, Role]]:
    model = build_model("resnet50", num_classes=1000, image_shape=(3, 224, 224))
    return model.slot_parameters(0), parameter_roles(model)


def test_resnet50_in_words(resnet50: tuple[dict[str, torch.Tensor], dict[str, Role]]) -> None:  # O3
    recipe = Recipe(optimizer="lars-tf", weight_decay=1e-4, decay_exempt="batchnorm+bias", trust_epsilon=1e-9, clip_norm=2.5)
    assert explanation_lines(explanation(recipe, *resnet50)) == [
        "optimizer  lars-tf: v = 0.9 v + lr * t * (g + wd * w); w -= v",
        "source     You et al. 2017, arXiv 1708.03888, algorithm 1; TensorFlow, MLPerf",
        "rate       inside the buffer: earlier steps go on at the rates of their time, no momentum correction",
        "trust      t = 0.001 * |w| / (|g| + wd * |w| + 1e-09), 1 where |w| or |g| is 0",
        "clipping   averaged gradients longer than 2.5 are scaled to it, before weight decay",
        "tensors    161 with 25,557,032 values: 54 weights, 1 bias, 106 of normalisation (53 layers)",
        "group      decayed: 54 tensors with 25,502,912 values: 54 weights; weight decay 0.0001; with trust ratio",
        "group      exempt: 107 tensors with 54,120 values: 1 bias, 106 of normalisation (bias: fc.bias); "
        "no weight decay; without trust ratio",
    ]


def test_resnet50_in_values(resnet50: tuple[dict[str, torch.Tensor], dict[str, Role]]) -> None:  # O3
    found = explanation(Recipe(optimizer="sgd", weight_decay=1e-4, decay_exempt="batchnorm+bias"), *resnet50)
    assert json.loads(json.dumps(found)) == found
    assert (found["trust_ratio"], found["clip_norm"], found["experimental"]) == (None, None, False)
    assert found["num_normalisation_layers"] == 53
    assert found["roles"] == {
        "weight": {"num_tensors": 54, "num_values": 25_502_912},
        "bias": {"num_tensors": 1, "num_values": 1000},
        "batchnorm": {"num_tensors": 106, "num_values": 53_120},
    }
    assert found["groups"] == [
        {
            "name": "decayed",
            "weight_decay": 1e-4,
            "trust_ratio": False,
            "num_tensors": 54,
            "num_values": 25_502_912,
            "roles": {"weight": 54},
            "biases": [],
        },
        {
            "name": "exempt",
            "weight_decay": 0.0,
            "trust_ratio": False,
            "num_tensors": 107,
            "num_values": 54_120,
            "roles": {"bias": 1, "batchnorm": 106},
            "biases": ["fc.bias"],
        },
    ]


@pytest.mark.parametrize("name", get_args(OptimizerName))
@pytest.mark.parametrize("trust_exempt", ["none", "batchnorm"])
def test_groups_are_those_of_the_optimizer(name: OptimizerName, trust_exempt: str) -> None:
    roles: dict[str, Role] = {
        "conv": "weight",
        "bn.scale": "batchnorm",
        "fc": "weight",
        "fc.bias": "bias",
        "frozen": "weight",
    }
    parameters = {key: torch.ones(place + 1) for place, key in enumerate(roles) if key != "frozen"}
    recipe = Recipe(optimizer=name, decay_exempt="batchnorm+bias", trust_exempt=trust_exempt)
    found = explanation(recipe, parameters, roles)
    groups = build_optimizer(recipe, parameters, roles).param_groups
    assert [(told["name"], told["num_tensors"], told["weight_decay"], told["trust_ratio"]) for told in found["groups"]] == [
        (group["name"], len(group["params"]), group["weight_decay"], group.get("trusted", False)) for group in groups
    ]
    assert [told["num_values"] for told in found["groups"]] == [sum(p.numel() for p in g["params"]) for g in groups]
    assert (found["trust_ratio"] is not None) == name.startswith(("lars", "lamb"))
    lines = explanation_lines(found)
    assert lines[0].startswith(f"optimizer  {name}: ")
    assert "{" not in "".join(lines)
    assert lines[1].endswith("(experimental)") == (name == "rmsprop-sgd")
    assert len(lines) == 6 + len(groups)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("sgd", "v = 0.8 v + g + wd * w; w -= lr * v"),
        ("nesterov", "v = 0.8 v + g + wd * w; w -= lr * (g + wd * w + 0.8 v)"),
        ("lars-torch", "v = 0.8 v + t * (g + wd * w); w -= lr * v"),
        ("lars-nus", "v = 0.8 v + g + wd * w; w -= lr * t * v"),
        (
            "lamb",
            "m = 0.75 m + 0.25 g; v = 0.99 v + 0.01 g^2; r = (m / (1 - 0.75^n)) / (sqrt(v / (1 - 0.99^n)) + 1e-06); "
            "w -= lr * t * (r + wd * w)",
        ),
        (
            "adamw",
            "m = 0.75 m + 0.25 g; v = 0.99 v + 0.01 g^2; r = (m / (1 - 0.75^n)) / (sqrt(v / (1 - 0.99^n)) + 1e-06); "
            "w -= lr * (r + wd * w)",
        ),
        (
            "rmsprop-sgd",
            "g += wd * w; m = 0.99 m + 0.01 g^2; d = 0.8 d - (s + (1 - s) * (0.0003 / lr) / (sqrt(m) + 1e-06)) * g; "
            "w += lr * d; s rises to 1/2 at 10ep and to 1 half of 5ep later",
        ),
    ],
)
def test_formulas_have_the_recipes_numbers(name: OptimizerName, formula: str) -> None:
    recipe = Recipe(optimizer=name, momentum=0.8, beta1=0.75, beta2=0.99, epsilon=1e-6)
    assert explanation(recipe, {"w": torch.ones(1)}, {"w": "weight"})["formula"] == formula
