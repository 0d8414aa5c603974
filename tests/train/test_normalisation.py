"""Running statistics of batch normalisation and those computed anew, against a plain loop over workers (B1-B5)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from widestep.train.normalisation import centre_of, policy_after, precise_statistics
from widestep.train.state import POLICIES

Make = Callable[..., Any]
TOGETHER = {"local": 1, "group:2": 2, "sync": 4}


def folded(running: dict[str, Tensor], step: dict[str, Tensor], momentum: float) -> None:
    """One update a step, whatever the number of workers; `last` keeps nothing (Akiba et al. 2017)."""
    for policy in ("mean", "pooled", "worker0"):
        running[policy] = (1 - momentum) * running[policy] + momentum * step[policy]
    running["last"] = step["last"]


def start() -> dict[str, Tensor]:
    return {policy: torch.tensor([[0.0], [1.0]]).double().expand(2, 72) for policy in POLICIES}


def check(found: Tensor, expected: dict[str, Tensor]) -> None:
    for row, policy in zip(found, POLICIES, strict=True):
        torch.testing.assert_close(row.double(), expected[policy], rtol=2e-5, atol=2e-6, msg=policy)


@pytest.mark.parametrize("batchnorm", TOGETHER)
@pytest.mark.parametrize("per_forward", [1, 4])
def test_running_statistics_after_several_steps(
    ready: Make, plain: Make, digits: Any, batchnorm: str, per_forward: int
) -> None:  # B1, B2, B3, B4
    """Six steps of 32 images, a short one of 8 (2 a worker), and the first of the next epoch."""
    run = ready(batchnorm=batchnorm, workers_per_forward=per_forward, tail="short", batchnorm_momentum=0.3, base_lr=0.3)
    expected = start()
    for number in range(8):
        network = plain(run.state.parameters)
        groups = network.groups(digits.step(number, tail="short"), 4, TOGETHER[batchnorm])
        folded(expected, network.moments(groups), 0.3)
        run.step(number)
        check(run.state.running, expected)
    apart = (expected["mean"] - expected["pooled"])[1].abs().max()
    assert apart > 0.01 or batchnorm == "sync"  # elsewhere the policies are told apart
    assert (expected["mean"] - expected["worker0"]).abs().max() > 0.01 or batchnorm == "sync"


@pytest.mark.parametrize(("batchnorm", "num_groups"), [("local", 8), ("group:2", 4), ("group:3", 3)])
def test_groups_without_images_count_for_nothing(
    ready: Make, plain: Make, digits: Any, batchnorm: str, num_groups: int
) -> None:  # B3
    """Twelve workers share the 8 images of a short last step: 8 have one image, 4 have none."""
    run = ready(batchnorm=batchnorm, grid="1x12x8", tail="short", batchnorm_momentum=0.5, base_lr=0.01)
    expected = start()
    for number in range(3):
        network = plain(run.state.parameters)
        groups = network.groups(digits.step(number, 96, "short"), 12, 12 // {8: 12, 4: 6, 3: 4}[num_groups])
        folded(expected, network.moments(groups), 0.5)
        run.step(number)
    assert len(groups) == num_groups
    check(run.state.running, expected)


def test_running_statistics_move_on_where_workers_join(ready: Make, plain: Make, digits: Any) -> None:  # B2
    """Twelve steps of 2 workers, then 4 workers: the same weight of a step before and after."""
    run = ready(grid="1x2x8", worker_ramp="1ep:4", batchnorm_momentum=0.2)
    expected = start()
    for number in range(14):
        network = plain(run.state.parameters)
        ids = digits.step(number, 16) if number < 12 else digits.epoch(1)[32 * (number - 12) :][:32]
        folded(expected, network.moments(network.groups(ids, 2 if number < 12 else 4)), 0.2)
        run.step(number)
    check(run.state.running, expected)


def test_the_start_keeps_its_weight(ready: Make) -> None:  # B2, B5
    """What is left of other initial statistics after n steps, exactly: (1 - m)^n of the difference."""
    run, other = ready(batchnorm_momentum=0.25), ready(batchnorm_momentum=0.25)
    other.state.running += 64.0
    for number in range(5):
        run.step(number)
        other.step(number)
    difference = (other.state.running - run.state.running).double()
    torch.testing.assert_close(difference[:3], torch.full_like(difference[:3], 64 * 0.75**5), rtol=1e-5, atol=0)
    assert not difference[3].any()


@pytest.mark.parametrize(
    ("momentum", "last_anew"),
    [(0.1, 43), (0.05, 89), (0.01, 458), (0.5, 6), (0.9, 1), (0.995, 0), (1.0, 0)],
)
@pytest.mark.parametrize("policy", ["mean", "pooled", "worker0"])
def test_few_updates_leave_the_start_in(small: Make, momentum: float, last_anew: int, policy: str) -> None:  # B5
    """(1 - m)^n above 0.01: .9^43 = .01078, .9^44 = .00970; .95^89 = .01041, .95^90 = .00989; .99^458 = .01002 ..."""
    recipe = small(batchnorm_momentum=momentum, batchnorm_running=policy)
    if last_anew:
        assert [policy_after(recipe, steps) for steps in (1, last_anew)] == ["precise"] * 2
    assert [policy_after(recipe, steps) for steps in (last_anew + 1, last_anew + 500)] == [policy] * 2
    never = small(batchnorm_momentum=momentum, batchnorm_running=policy, batchnorm_recompute="never")
    assert policy_after(never, 1) == policy_after(never, 500) == policy


@pytest.mark.parametrize("policy", ["last", "precise"])
@pytest.mark.parametrize("recompute", ["auto", "never"])
def test_policies_without_a_memory_are_followed_from_the_start(small: Make, policy: str, recompute: str) -> None:  # B5
    recipe = small(batchnorm_running=policy, batchnorm_recompute=recompute)
    assert [policy_after(recipe, steps) for steps in (1, 43, 44, 1000)] == [policy] * 4


@pytest.mark.parametrize("batchnorm", TOGETHER)
@pytest.mark.parametrize(
    ("wanted", "tail", "num_steps"), [(33, "drop", 2), (8192, "drop", 6), (8192, "short", 7), (1, "drop", 1)]
)
def test_statistics_computed_anew_are_those_of_a_plain_pass(
    ready: Make, plain: Make, digits: Any, batchnorm: str, wanted: int, tail: str, num_steps: int
) -> None:  # B3, `precise`
    """Each group normalises its own images of the first steps; the values of all of them are pooled at every layer."""
    run = ready(batchnorm=batchnorm, batchnorm_images=wanted, tail=tail, workers_per_forward=2, base_lr=0.3)
    for number in range(3):
        run.step(number)
    network, before = plain(run.state.parameters), run.everything()
    groups = [
        group
        for number in range(num_steps)
        for group in network.groups(digits.step(number, tail=tail), 4, TOGETHER[batchnorm])
    ]
    expected = network.moments(groups)["pooled"]
    centre = centre_of([run.state], run.engine)
    torch.testing.assert_close(centre[0], run.state.running[0, 0])
    for about in (centre, centre + 0.5):
        found = precise_statistics(run.engine, run.batches, about)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found[0].double(), expected, rtol=2e-5, atol=2e-6)
    assert run.everything() == before


def test_values_far_from_zero_keep_their_variance(ready: Make, plain: Make, digits: Any) -> None:  # B3
    """Means of a thousand times the spread: sums about running means that are near, in float32, lose nothing."""
    run = ready(batchnorm_momentum=1.0)
    run.state.parameters["layer1.0.bn2.bias"].detach().fill_(2000.0)
    run.step(0)
    network = plain(run.state.parameters)
    step = network.moments(network.groups(digits.step(1), 4))
    run.step(1)
    found = run.state.running[POLICIES.index("pooled"), 1].double()
    torch.testing.assert_close(found, step["pooled"][1], rtol=2e-2, atol=1e-4)
