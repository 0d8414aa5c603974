"""Every optimizer by its published formula: a plain loop over tensors in double precision (statements O1-O5, W5)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from widestep.models.stacked import Role
from widestep.optim.build import build_optimizer, set_rate, update
from widestep.plan.recipe import Exemption, OptimizerName, Recipe

EXEMPT: Mapping[Exemption, set[Role]] = {
    "none": set(),
    "batchnorm": {"batchnorm"},
    "batchnorm+bias": {"batchnorm", "bias"},
}


@dataclass
class Reference:
    """One tensor by the published formulas, in double precision."""

    recipe: Recipe
    weight: np.ndarray
    decay: float
    trusted: bool
    held: dict[str, Any] = field(default_factory=dict)
    moved: float = 0.0
    """Sum of the longest moves of a value so far: the scale that rounding errors are measured by."""

    def step(self, gradient: np.ndarray, lr: float, epoch: float) -> None:
        before = self.weight
        rule = {"sgd": self.sgd, "nesterov": self.sgd, "adamw": self.adam, "lamb": self.adam}
        rule.get(self.recipe.optimizer, self.lars if "lars" in self.recipe.optimizer else self.blend)(gradient, lr, epoch)
        self.moved += float(np.abs(self.weight - before).max(initial=0.0))

    def sgd(self, gradient: np.ndarray, lr: float, epoch: float) -> None:
        m, g = self.recipe.momentum, gradient + self.decay * self.weight
        v = self.held["v"] = m * self.held.get("v", 0.0) + g
        self.weight = self.weight - lr * (g + m * v if self.recipe.optimizer == "nesterov" else v)

    def adam(self, gradient: np.ndarray, lr: float, epoch: float) -> None:
        recipe, held = self.recipe, self.held
        n = held["n"] = held.get("n", 0) + 1
        m = held["m"] = recipe.beta1 * held.get("m", 0.0) + (1 - recipe.beta1) * gradient
        v = held["v"] = recipe.beta2 * held.get("v", 0.0) + (1 - recipe.beta2) * gradient**2
        r = (m / (1 - recipe.beta1**n)) / (np.sqrt(v / (1 - recipe.beta2**n)) + recipe.epsilon)
        step = r + self.decay * self.weight
        ratio, norms = 1.0, (np.sqrt((self.weight**2).sum()), np.sqrt((step**2).sum()))
        if self.trusted and recipe.optimizer == "lamb" and min(norms) > 0:
            ratio = norms[0] / norms[1]
        self.weight = self.weight - lr * ratio * step

    def lars(self, gradient: np.ndarray, lr: float, epoch: float) -> None:
        recipe, w = self.recipe, self.weight
        w_norm, g_norm = np.sqrt((w**2).sum()), np.sqrt((gradient**2).sum())
        t = 1.0
        if self.trusted and w_norm > 0 and g_norm > 0:
            t = recipe.trust_coefficient * w_norm / (g_norm + self.decay * w_norm + recipe.trust_epsilon)
        slope = gradient + self.decay * w
        inside, outside = {"lars-tf": (lr * t, 1.0), "lars-torch": (t, lr), "lars-nus": (1.0, lr * t)}[recipe.optimizer]
        buffer = self.held["buffer"] = recipe.momentum * self.held.get("buffer", 0.0) + inside * slope
        self.weight = w - outside * buffer

    def blend(self, gradient: np.ndarray, lr: float, epoch: float) -> None:
        recipe, held = self.recipe, self.held
        centre, period = float(recipe.blend_centre.amount), float(recipe.blend_period.amount)
        x = 2 * (epoch - centre) / period
        share = math.exp(x) / 2 if x < 0 else min(1.0, (1 + x) / 2)
        g = gradient + self.decay * self.weight
        m = held["m"] = recipe.beta2 * held.get("m", 0.0) + (1 - recipe.beta2) * g**2
        pull = share + (1 - share) * recipe.rmsprop_lr / lr / (np.sqrt(m) + recipe.epsilon)
        delta = held["delta"] = recipe.momentum * held.get("delta", 0.0) - pull * g
        self.weight = self.weight + lr * delta


@st.composite
def recipes(draw: st.DrawFn, name: OptimizerName) -> Recipe:
    return Recipe(
        optimizer=name,
        momentum=draw(st.sampled_from([0.0, 0.5, 0.9, 0.95])),
        beta1=draw(st.sampled_from([0.0, 0.5, 0.9])),
        beta2=draw(st.sampled_from([0.0, 0.9, 0.99, 0.999])),
        epsilon=draw(st.sampled_from([1e-8, 1e-6, 1e-2])),
        weight_decay=draw(st.sampled_from([0.0, 5e-5, 1e-2, 0.3])),
        decay_exempt=draw(st.sampled_from(get_args(Exemption))),
        trust_exempt=draw(st.sampled_from(get_args(Exemption))),
        trust_coefficient=draw(st.sampled_from([1e-3, 0.02, 1.0])),
        trust_epsilon=draw(st.sampled_from([0.0, 1e-9, 1e-5, 0.5])),
        rmsprop_lr=draw(st.sampled_from([3e-4, 0.01])),
    )


@pytest.mark.parametrize("name", get_args(OptimizerName))
@given(data=st.data())
@settings(max_examples=40)
def test_steps_follow_the_formula(name: OptimizerName, data: st.DataObject) -> None:  # O1, O2, O3, O4, O5, W5
    """Several steps of tensors of any shape and size, at rates that change, to float32 rounding."""
    recipe = data.draw(recipes(name))
    shapes = data.draw(st.lists(st.sampled_from([(), (1,), (5,), (64,), (3, 7), (4, 2, 3, 3)]), min_size=1, max_size=6))
    roles = {f"p{i}": data.draw(st.sampled_from(get_args(Role))) for i in range(len(shapes))}
    rng = np.random.Generator(np.random.PCG64(data.draw(st.integers(0, 2**32))))
    scales = [10.0 ** data.draw(st.integers(-4, 1)) for _ in shapes]
    start = {
        key: (data.draw(st.sampled_from([0.0, 1e-3, 1.0, 30.0])) * rng.standard_normal(shape)).astype(np.float32)
        for key, shape in zip(roles, shapes, strict=True)
    }
    weights = {key: torch.tensor(array) for key, array in start.items()}
    optimizer = build_optimizer(recipe, weights, roles)
    references = {
        key: Reference(
            recipe,
            array.astype(np.float64),
            0.0 if roles[key] in EXEMPT[recipe.decay_exempt] else recipe.weight_decay,
            roles[key] not in EXEMPT[recipe.trust_exempt],
        )
        for key, array in start.items()
    }
    rates = data.draw(st.lists(st.sampled_from([1e-3, 0.02, 0.1, 0.5]), min_size=1, max_size=6))
    for number, lr in enumerate(rates):
        epoch = 2.75 * number + 1
        gradients = {
            key: np.float32(scale * rng.standard_normal(shape))
            for key, shape, scale in zip(roles, shapes, scales, strict=True)
        }
        for key, weight in weights.items():
            weight.grad = torch.tensor(gradients[key])
        set_rate(optimizer, lr, epoch)
        update(optimizer)
        for key, reference in references.items():
            reference.step(gradients[key].astype(np.float64), lr, epoch)
            size = float(np.abs(start[key]).max(initial=0.0)) + reference.moved
            found = weights[key].numpy().astype(np.float64)
            np.testing.assert_allclose(found, reference.weight, rtol=0, atol=3e-5 * size)
            reference.weight = found  # a ratio near a norm of 0 may take either side in either precision
