"""LARS, LAMB and the blend of RMSprop and SGD on numbers worked out by hand (statements O2, O4, W5)."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.optim.build import build_optimizer, set_rate, update
from widestep.optim.rmsprop_sgd import sgd_share
from widestep.plan.recipe import OptimizerName, Recipe

Steps = Sequence[tuple[list[float], float, float]]


def descended(start: list[float], steps: Steps, name: OptimizerName, **fields: Any) -> list[list[float]]:
    """Return the weights after each step, given as gradient, rate and epoch."""
    w = torch.tensor(start)
    optimizer = build_optimizer(Recipe(optimizer=name, **fields), {"w": w}, {"w": "weight"})
    found = []
    for gradient, lr, epoch in steps:
        w.grad = torch.tensor(gradient)
        set_rate(optimizer, lr, epoch)
        update(optimizer)
        found.append(w.tolist())
    return found


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("lars-tf", [1.8, 1.3]),  # buffers (0, 1), then .5 (0, 1) + 1.2 (1, 1)
        ("lars-torch", [1.8, 0.8]),  # (0, 2.5), then .5 (0, 2.5) + 1.5 (1, 1), times .8
        ("lars-nus", [1.8, 1.2]),  # (0, 1), then .5 (0, 1) + (1, 1), times 1.2
    ],
)
def test_three_forms_of_lars(name: OptimizerName, second: list[float]) -> None:  # O2
    """Ratios .5 * 5/1 = 2.5 and, from (3, 3) along (1, 1), .5 * 3 = 1.5; rates .4 and .8. Only the first steps agree."""
    found = descended(
        [3.0, 4.0],
        [([0.0, 1.0], 0.4, 0), ([1.0, 1.0], 0.8, 0)],
        name,
        momentum=0.5,
        weight_decay=0.0,
        trust_coefficient=0.5,
    )
    assert found == [pytest.approx([3.0, 3.0]), pytest.approx(second)]


@pytest.mark.parametrize("name", ["lars-tf", "lars-torch", "lars-nus"])
@pytest.mark.parametrize(
    ("epsilon", "lr", "after"),
    [(0.0, 0.4, [2.7, 3.1]), (0.5, 0.5, [2.7, 3.1])],  # t = .5 * 5 / (1 + .2 * 5 + epsilon) = 1.25 and 1
)
def test_decay_and_epsilon_in_the_ratio(name: OptimizerName, epsilon: float, lr: float, after: list[float]) -> None:  # O2
    found = descended(
        [3.0, 4.0], [([0.0, 1.0], lr, 0)], name, weight_decay=0.2, trust_coefficient=0.5, trust_epsilon=epsilon
    )
    assert found == [pytest.approx(after)]


@pytest.mark.parametrize("name", ["lars-tf", "lars-torch", "lars-nus"])
def test_no_ratio_is_clamped(name: OptimizerName) -> None:  # O2
    """A ratio of 5e6 and a gradient of 1e4 go through as they are."""
    assert descended([3.0, 4.0], [([0.0, 1e-6], 0.4, 0)], name, weight_decay=0.0, trust_coefficient=1.0) == [
        pytest.approx([3.0, 2.0])
    ]
    assert descended([3.0, 4.0], [([0.0, 1e4], 0.4, 0)], name, weight_decay=0.0, trust_coefficient=1.0) == [
        pytest.approx([3.0, 2.0])
    ]


def test_steps_of_lamb() -> None:
    """Adam's first direction is the sign of the gradient, here (1, -1); with decay .5 and w = (3, 4) it becomes (2.5, 1)."""
    step = [([2.0, -1.0], 0.1 * 2**0.5, 0)]
    fields = {"beta1": 0.5, "beta2": 0.75, "epsilon": 1e-300}
    assert descended([3.0, 4.0], step, "lamb", weight_decay=0.0, **fields) == [pytest.approx([2.5, 4.5])]
    length = 7.25**0.5
    assert descended([3.0, 4.0], [([2.0, -1.0], length / 10, 0)], "lamb", weight_decay=0.5, **fields) == [
        pytest.approx([1.75, 3.5])
    ]
    # The second gradient (0, 2): m = (.5, .75), v = (.75, 1.1875) after 1/4 and 1 - 3/4^2 = 7/16 of corrections
    (_, second) = descended([3.0, 4.0], [([2.0, -1.0], 0.0, 0), ([0.0, 2.0], 0.2, 0)], "lamb", weight_decay=0.0, **fields)
    r = [(0.5 / 0.75) / (0.75 / 0.4375) ** 0.5, (0.75 / 0.75) / (1.1875 / 0.4375) ** 0.5]
    norm = (r[0] ** 2 + r[1] ** 2) ** 0.5
    assert second == pytest.approx([3 - r[0] / norm, 4 - r[1] / norm])


def test_steps_of_the_blend() -> None:
    """In epoch 10, half SGD: m = 4, factor .5 + .5 (.2/.1) / 2 = 1, delta = -4; in epoch 11.25: m = 4, factor .875."""
    found = descended(
        [1.0],
        [([4.0], 0.1, 10.0), ([2.0], 0.2, 11.25)],
        "rmsprop-sgd",
        momentum=0.5,
        beta2=0.75,
        epsilon=1e-300,
        rmsprop_lr=0.2,
        weight_decay=0.0,
    )
    assert found == [pytest.approx([0.6]), pytest.approx([-0.15])]  # delta = -.5 * 4 - .875 * 2 = -3.75


def test_decay_enters_the_blend_once() -> None:  # W5
    """g + .5 w = 4 both in the square and in the step: as the gradient 4 without decay."""
    fields = {"momentum": 0.5, "beta2": 0.75, "epsilon": 1e-300, "rmsprop_lr": 0.2}
    found = descended([2.0], [([3.0], 0.1, 10.0)], "rmsprop-sgd", weight_decay=0.5, **fields)
    assert found == [pytest.approx([1.6])]


def test_share_of_sgd() -> None:
    """exp(-2)/2 five epochs before the centre; 1/2 there; 1 from half a period later."""
    shares = [sgd_share(epoch, centre=10, period=5) for epoch in (0, 5, 7.5, 10, 11, 12, 12.5, 13, 90)]
    assert shares == pytest.approx([0.00915782, 0.06766764, 0.18393972, 0.5, 0.7, 0.9, 1.0, 1.0, 1.0], abs=1e-8)
    assert [sgd_share(epoch, centre=3, period=0) for epoch in (0, 2.999, 3, 4)] == [0, 0, 1, 1]


@given(st.floats(0, 100), st.floats(0, 50), st.floats(0.01, 50))
def test_the_share_rises_without_a_jump(epoch: float, centre: float, period: float) -> None:
    near = [sgd_share(epoch + step * period * 1e-6, centre, period) for step in range(4)]
    assert 0 <= near[0] <= near[-1] <= 1
    assert all(b - a <= 1.001e-6 for a, b in itertools.pairwise(near))  # its slope is at most 1 / period


def test_the_blend_cannot_divide_by_a_rate_of_0() -> None:
    with pytest.raises(UsageError, match=r"rate, which must be above 0 while RMSprop has a share\. It is 0 in epoch 2;"):
        descended([1.0], [([4.0], 0.0, 2.0)], "rmsprop-sgd")
    assert descended([1.0], [([4.0], 0.0, 12.5)], "rmsprop-sgd") == [[1.0]]  # RMSprop has no share any more
