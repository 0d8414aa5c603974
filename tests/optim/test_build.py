"""The optimizer against torch's own and a recursion on paper, and the tensors without decay (statements O1, O3)."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from widestep.models.build import build_model
from widestep.models.stacked import Role, parameter_roles
from widestep.optim.build import applied, build_optimizer, update
from widestep.plan.recipe import Recipe

ROLES: Mapping[str, Role] = {
    "conv": "weight",
    "bn.weight": "batchnorm",
    "bn.bias": "batchnorm",
    "fc": "weight",
    "fc.bias": "bias",
}
SHAPES = {"conv": (8, 3, 3, 3), "bn.weight": (8,), "bn.bias": (8,), "fc": (10, 37), "fc.bias": (10,)}
DECAYED = {
    "none": ["conv", "bn.weight", "bn.bias", "fc", "fc.bias"],
    "batchnorm": ["conv", "fc", "fc.bias"],
    "batchnorm+bias": ["conv", "fc"],
}


def made(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in SHAPES.items()}


def trained(step: Callable[[], object], parameters: Mapping[str, Tensor], set_rate: Callable[[float], None]) -> None:
    """Take 20 steps with gradients and rates made up beforehand."""
    for number in range(20):
        set_rate(0.05 * (number + 1))
        for name, gradient in made(100 + number, next(iter(parameters.values())).dtype).items():
            parameters[name].grad = gradient
        step()


def run_ours(recipe: Recipe, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    parameters = {name: tensor.requires_grad_() for name, tensor in made(0, dtype).items()}
    optimizer = build_optimizer(recipe, parameters, ROLES)

    def set_rate(rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate

    trained(lambda: update(optimizer), parameters, set_rate)
    return {name: tensor.detach() for name, tensor in parameters.items()}


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
@pytest.mark.parametrize("exempt", DECAYED)
@pytest.mark.parametrize("fused", [True, False])
def test_twenty_steps_equal_torchs_sgd(name: str, exempt: str, fused: bool) -> None:  # O1, O5
    """Bit for bit with the same kernel, to rounding with torch's loop over tensors."""
    ours = run_ours(Recipe(optimizer=name, momentum=0.9, weight_decay=0.01, decay_exempt=exempt))
    theirs = {name: tensor.requires_grad_() for name, tensor in made(0).items()}
    groups = [
        {"params": [theirs[key] for key in SHAPES if key in DECAYED[exempt]], "weight_decay": 0.01},
        {"params": [theirs[key] for key in SHAPES if key not in DECAYED[exempt]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        [group for group in groups if group["params"]], lr=1.0, momentum=0.9, nesterov=name == "nesterov", fused=fused
    )

    def set_rate(rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate

    trained(optimizer.step, theirs, set_rate)
    for key, tensor in theirs.items():
        if fused:
            assert ours[key].numpy().tobytes() == tensor.detach().numpy().tobytes()
        else:
            torch.testing.assert_close(ours[key], tensor.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_twenty_steps_by_the_formula(name: str, momentum: float) -> None:
    """v = m v + g + wd w; w -= lr v, or lr (g + wd w + m v) with Nesterov momentum."""
    recipe = Recipe(optimizer=name, momentum=momentum, weight_decay=0.01, decay_exempt="batchnorm")
    ours = run_ours(recipe, torch.float64)
    w = made(0, torch.float64)
    v = {key: torch.zeros_like(tensor) for key, tensor in w.items()}
    for number in range(20):
        for key, g in made(100 + number, torch.float64).items():
            slope = g + (0.01 * w[key] if key in DECAYED["batchnorm"] else 0.0)
            v[key] = momentum * v[key] + slope
            w[key] = w[key] - 0.05 * (number + 1) * (slope + momentum * v[key] if name == "nesterov" else v[key])
    for key, tensor in w.items():
        torch.testing.assert_close(ours[key], tensor, rtol=1e-12, atol=1e-12)


def test_rate_outside_the_velocity_is_momentum_correction() -> None:  # O1
    """On f = w^2/2 from w = 1 with a jump of the rate from 1e-3 to 1e-1.

    With u = lr v, the rate inside, the velocity must be multiplied by lr_t / lr_(t-1) (Goyal et al. 2017, equation 10);
    without that correction the jump ends elsewhere.
    """
    rates = [1e-3] * 10 + [1e-1] * 5
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = build_optimizer(Recipe(momentum=0.9, weight_decay=0.0), {"w": w}, {"w": "weight"})
    outside, velocity = 1.0, 0.0
    inside = {True: (1.0, 0.0), False: (1.0, 0.0)}
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        w.grad = w.detach().clone()  # f' = w
        update(optimizer)
        velocity = 0.9 * velocity + outside
        outside -= rate * velocity
        for corrected, (point, u) in inside.items():
            factor = rate / rates[step - 1] if corrected and step else 1.0
            moved = 0.9 * factor * u + rate * point
            inside[corrected] = point - moved, moved
        assert w.item() == pytest.approx(outside, rel=1e-14)
        assert w.item() == pytest.approx(inside[True][0], rel=1e-13)
    assert math.fabs(w.item() - inside[False][0]) > 0.1


@pytest.mark.parametrize(("exempt", "num_exempt"), [("none", 0), ("batchnorm", 106), ("batchnorm+bias", 107)])
def test_tensors_of_resnet50_without_decay(exempt: str, num_exempt: int) -> None:  # O3
    """53 batch normalisations have 106 scales and shifts; with the classifier's bias 107 of the 161 tensors are exempt."""
    model = build_model("resnet50", num_classes=1000, image_shape=(3, 224, 224))
    parameters, roles = model.slot_parameters(0), parameter_roles(model)
    optimizer = build_optimizer(Recipe(decay_exempt=exempt, weight_decay=1e-4), parameters, roles)
    groups = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert len(parameters) == 161
    assert {decay: len(tensors) for decay, tensors in groups.items()} == (
        {1e-4: 161 - num_exempt, 0.0: num_exempt} if num_exempt else {1e-4: 161}
    )
    assert len(model.batch_norms()) == 53
    assert all(tensor.dim() == 1 for tensor in groups.get(0.0, []))  # no convolution and no matrix among them


def test_everything_exempt_is_one_group() -> None:
    optimizer = build_optimizer(Recipe(decay_exempt="batchnorm"), {"scale": torch.ones(3)}, {"scale": "batchnorm"})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]


def test_what_is_applied_is_read_back() -> None:
    recipe = Recipe(optimizer="nesterov", momentum=0.8, weight_decay=0.5, decay_exempt="batchnorm+bias")
    optimizer = build_optimizer(recipe, made(0), ROLES)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.25
    shared = {"lr": 0.25, "momentum": 0.8, "nesterov": True}
    assert applied(optimizer) == [
        {**shared, "weight_decay": 0.5, "num_tensors": 2},
        {**shared, "weight_decay": 0.0, "num_tensors": 3},
    ]
