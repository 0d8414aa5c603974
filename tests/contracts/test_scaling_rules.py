"""What every scaling rule keeps to, whichever is added: identity at its reference, and peaks that grow with the grid."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.plan.duration import Duration
from widestep.plan.grid import WorkerGrid
from widestep.plan.recipe import Recipe
from widestep.plan.scaling import RuleName, ScalingRule

RULES = get_args(RuleName)
REFERENCE = 256
GRIDS = st.builds(WorkerGrid, st.integers(1, 64), st.integers(1, 16), st.integers(1, 512))


def rule_of(name: str) -> ScalingRule:
    return ScalingRule(name, REFERENCE if name in ("linear", "sqrt", "legw") else None)


def test_all_rules_are_known_to_recipes():
    assert set(get_args(Recipe.model_fields["scaling"].annotation)) == set(RULES)
    assert len(RULES) == 7


@pytest.mark.parametrize("name", RULES)
@given(base_lr=st.floats(1e-9, 1e9))
def test_identity_at_the_reference(name, base_lr):  # L2
    """One worker that takes the reference batch is the reference of every rule."""
    assert rule_of(name).peak(base_lr, WorkerGrid(1, 1, REFERENCE)) == base_lr


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("text", ["5ep", "0.15625ep", "600st", "2560im", "0"])
def test_the_warmup_stays_at_the_reference(name, text):  # L2
    assert rule_of(name).warmup(Duration.parse(text), WorkerGrid(1, 1, REFERENCE)) == Duration.parse(text)


@pytest.mark.parametrize("name", RULES)
@given(grid=GRIDS, steps=st.integers(0, 10**6))
def test_a_warmup_in_steps_is_never_changed(name, grid, steps):
    length = Duration.parse(f"{steps}st")
    assert rule_of(name).warmup(length, grid) == length


@pytest.mark.parametrize("name", RULES)
@given(grid=GRIDS, more=st.integers(1, 8))
def test_more_workers_never_lower_the_peak(name, grid, more):
    wider = WorkerGrid(grid.num_nodes * more, grid.workers_per_node, grid.images_per_worker)
    deeper = WorkerGrid(grid.num_nodes, grid.workers_per_node * more, grid.images_per_worker)
    rule = rule_of(name)
    assert rule.peak(0.1, wider) == rule.peak(0.1, deeper) >= rule.peak(0.1, grid) > 0


@pytest.mark.parametrize("name", RULES)
@given(grid=GRIDS, base_lr=st.floats(1e-6, 1e3))
def test_twice_the_base_rate_is_twice_the_peak(name, grid, base_lr):
    rule = rule_of(name)
    assert rule.peak(2 * base_lr, grid) == 2 * rule.peak(base_lr, grid)
    assert rule.peak(base_lr, grid) == base_lr * rule.factor(grid)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("grid", ["1x1x256", "40x6x128", "3x1x7"])
def test_the_derivation_begins_at_the_base_and_ends_at_the_peak(name, grid):
    rule, parsed = rule_of(name), WorkerGrid.parse(grid)
    words = rule.derivation(0.0125, parsed)
    assert words.startswith("0.0125 ")
    assert float(words.rpartition(" -> ")[2]) == pytest.approx(rule.peak(0.0125, parsed), rel=1e-5)
    assert "\n" not in words
