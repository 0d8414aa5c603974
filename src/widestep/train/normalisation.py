"""Which statistics batch normalisation uses in evaluation (statements B2, B3, B5).

Every run keeps running statistics under four policies side by side; they are small, they travel with the gradient, and at
the end the same weights can be judged under each. The fifth, `precise`, is computed anew from training images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from widestep.plan.recipe import Recipe
from widestep.train.batches import Batches
from widestep.train.state import POLICIES, TrainState
from widestep.workers.engine import GradientEngine
from widestep.workers.moments import StepMoments

_START_LEFT = 0.01


def of_step(moments: StepMoments) -> Tensor:
    """Arrange a step's moments as the running statistics they move: shape (T, 4, 2, M), a row a policy."""
    mean = torch.stack((moments.mean, moments.variance), dim=1)
    pooled = torch.stack((moments.pooled_mean, moments.pooled_variance), dim=1)
    first = torch.stack((moments.first_mean, moments.first_variance), dim=1)
    return torch.stack((mean, pooled, first, mean), dim=1)


def centre_of(states: Sequence[TrainState], engine: GradientEngine) -> Tensor:
    """Return numbers near the current means, shape (T, M): each run's running mean in its slot, 0 in empty slots."""
    empty = torch.zeros(engine.moments.num_channels, device=states[0].gradient.device)
    held = {state.slot: state.running[0, 0] for state in states}
    return torch.stack([held.get(slot, empty) for slot in range(engine.model.num_slots)])


def policy_after(recipe: Recipe, num_steps: int) -> str:
    """Return the policy that an evaluation after `num_steps` steps follows.

    The initial statistics keep a weight of (1 - batchnorm_momentum) to the power of the steps; until that is below 1 % (44
    steps at 0.1) statistics are computed anew, unless the recipe says never (statement B5).

    Examples
    --------
    >>> policy_after(Recipe(), 43), policy_after(Recipe(), 44)
    ('precise', 'mean')
    """
    left = (1.0 - recipe.batchnorm_momentum) ** num_steps
    if recipe.batchnorm_recompute == "auto" and recipe.batchnorm_running != "last" and left > _START_LEFT:
        return "precise"
    return recipe.batchnorm_running


def precise_statistics(engine: GradientEngine, batches: Batches, centre: Tensor) -> Tensor:
    """Compute statistics at the current weights from the first training images, shape (T, 2, M).

    The images are those of the first steps of training, as many whole steps as hold batchnorm_images, one epoch at most;
    each group of workers normalises its own, as in training, and the values of all of them are pooled (Wu and Johnson 2021,
    arXiv 2105.07576, section 3). The same bytes on any processes.
    """
    steps = batches.steps_for_statistics()
    sums = torch.zeros((), dtype=torch.float64, device=centre.device)
    for step in steps:
        sums = sums + engine.moment_sums(batches.again(step), batches.placement(step), centre).double()
    num_images = sum(batches.num_images(step) for step in steps)
    found = engine.moments.unpack(sums, centre.double(), num_images, num_groups=1)
    return torch.stack((found.pooled_mean, found.pooled_variance), dim=1).to(centre.dtype)


def show_statistics(states: Sequence[TrainState], engine: GradientEngine, batches: Batches, policy: str) -> None:
    """Let runs that share a model evaluate under a policy from now on."""
    if engine.moments.num_channels == 0:
        return
    precise = precise_statistics(engine, batches, centre_of(states, engine)) if policy == "precise" else None
    for state in states:
        state.show(statistics_of(state, policy, precise))


def statistics_of(state: TrainState, policy: str, precise: Tensor | None) -> Tensor:
    """Return the statistics (2, M) of a run under a policy; `precise` holds those of all slots where they are needed."""
    if policy == "precise":
        assert precise is not None
        return precise[state.slot]
    return state.running[POLICIES.index(policy)]
