"""Where the rate stands in an update: outside the momentum buffer, or inside as LARS was published (statement O1)."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch

from widestep.optim.build import build_optimizer, set_rate, update
from widestep.plan.recipe import OptimizerName, Recipe

JUMP = [Fraction(1, 1000)] * 10 + [Fraction(1, 10)] * 5
EVEN = [Fraction(1, 20)] * 15
MOMENTUM = Fraction(9, 10)


def trajectory(name: OptimizerName, rates: Sequence[Fraction], momentum: Fraction = MOMENTUM) -> list[float]:
    """Descend f = w^2/2 from w = 1, in double precision, without trust ratio and decay."""
    w = torch.ones((), dtype=torch.float64)
    recipe = Recipe(optimizer=name, momentum=float(momentum), weight_decay=0.0, trust_exempt="batchnorm")
    optimizer, found = build_optimizer(recipe, {"w": w}, {"w": "batchnorm"}), []
    for rate in rates:
        w.grad = w.clone()  # f' = w
        set_rate(optimizer, float(rate), epoch=100.0)
        update(optimizer)
        found.append(float(w))
    return found


def outside(rates: Sequence[Fraction]) -> list[float]:
    """v = m v + w; w -= lr v: equation 9 of Goyal et al. 2017, in fractions."""
    w, v, found = Fraction(1), Fraction(0), []
    for rate in rates:
        v = MOMENTUM * v + w
        w -= rate * v
        found.append(float(w))
    return found


def inside(rates: Sequence[Fraction], corrected: bool) -> list[float]:
    """u = m u + lr w; w -= u: equation 10; with momentum correction u is first multiplied by lr_t / lr_(t-1)."""
    w, u, before, found = Fraction(1), Fraction(0), rates[0], []
    for rate in rates:
        u = MOMENTUM * u * (rate / before if corrected else 1) + rate * w
        w, before = w - u, rate
        found.append(float(w))
    return found


@pytest.mark.parametrize("name", ["sgd", "lars-torch", "lars-nus", "rmsprop-sgd"])
def test_the_rate_is_outside_the_buffer(name: OptimizerName) -> None:  # O1
    found = trajectory(name, JUMP)
    assert found[:2] == pytest.approx([0.999, 0.997101], rel=1e-13)  # 1 - .001; .999 - .001 (.9 + .999)
    assert found == pytest.approx(outside(JUMP), rel=1e-12)
    assert found == pytest.approx(inside(JUMP, corrected=True), rel=1e-12)


def test_the_rate_of_lars_tf_is_inside_the_buffer() -> None:  # O1, O2
    found = trajectory("lars-tf", JUMP)
    assert found == pytest.approx(inside(JUMP, corrected=False), rel=1e-12)
    assert found[9] == pytest.approx(outside(JUMP)[9], rel=1e-12)
    assert abs(found[-1] - outside(JUMP)[-1]) > 0.1  # without momentum correction the jump ends elsewhere


@pytest.mark.parametrize("name", ["sgd", "lars-tf", "lars-torch", "lars-nus", "rmsprop-sgd"])
def test_at_an_even_rate_it_does_not_matter(name: OptimizerName) -> None:  # O1
    assert trajectory(name, EVEN) == pytest.approx(outside(EVEN), rel=1e-12)


def test_where_both_end() -> None:  # O1
    """By powers of the matrices of (w, v), ((1 - lr, -.9 lr), (1, .9)), and of (w, u), ((1 - lr, -.9), (lr, .9))."""
    assert trajectory("sgd", JUMP)[-1] == pytest.approx(-1.50289342238027491, rel=1e-12)
    assert trajectory("lars-tf", JUMP)[-1] == pytest.approx(-0.04271312525465266, rel=1e-12)
