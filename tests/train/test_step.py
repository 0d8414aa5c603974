"""One optimizer step: decay, clipping, counting, AdaScale's gain, and steps that are not taken (W5, W6, W7, L6, O6)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Make = Callable[..., Any]


@pytest.mark.parametrize("grid", ["1x1x32", "2x2x8", "1x16x2"])
def test_decay_is_added_once_to_the_averaged_gradient(ready: Make, plain: Make, digits: Any, grid: str) -> None:  # W5
    """The mean over workers, worker by worker in double precision, plus a multiple of the weights."""
    run = ready(grid=grid, momentum=0.0, weight_decay=0.3, base_lr=0.05)
    network, groups = plain(run.state.parameters), plain({}).groups(digits.step(0), run.plan.recipe.grid.num_workers)
    gradient = torch.stack([network.gradient(group) for group in groups]).mean(0)
    before = run.weights()
    run.step(0)
    torch.testing.assert_close(run.weights(), before - 0.05 * (gradient + 0.3 * before), rtol=0, atol=3e-7)


@pytest.mark.parametrize(("limit", "clips"), [(0.25, True), (1e3, False)])
def test_clipping_shortens_the_averaged_gradient_before_decay(
    ready: Make, plain: Make, digits: Any, limit: float, clips: bool
) -> None:  # W6
    run = ready(clip_norm=limit, momentum=0.0, weight_decay=0.3, base_lr=0.05)
    network = plain(run.state.parameters)
    gradient = torch.stack([network.gradient(group) for group in network.groups(digits.step(0), 4)]).mean(0)
    norm = gradient.norm().item()
    factor = limit / norm if clips else 1.0
    assert clips == (norm > limit)
    before = run.weights()
    record = run.step(0)
    assert record.clip == pytest.approx(factor, rel=1e-6)
    assert record.statistics.gradient_norm == pytest.approx(norm, rel=1e-6)  # what is recorded is not clipped
    torch.testing.assert_close(run.weights(), before - 0.05 * (factor * gradient + 0.3 * before), rtol=0, atol=3e-7)


def test_the_tally_counts_images(ready: Make) -> None:
    run = ready(tail="short")
    losses = [run.step(number).statistics for number in range(7)]
    assert [found.num_images for found in losses] == [32] * 6 + [8]
    tally = run.state.tally
    assert (tally.step, tally.progress, tally.images_seen, tally.epoch_images) == (7, 7.0, 200, 200)
    assert tally.epoch_loss == pytest.approx(sum(found.loss * found.num_images for found in losses))


class PlainGain:
    """AdaScale's gain as published, from the gradients of the workers."""

    def __init__(self, kept: float) -> None:
        self.kept, self.variance, self.square = kept, 0.0, 0.0

    def of(self, gradients: Tensor) -> float:
        num_workers = len(gradients)
        scatter = (gradients - gradients.mean(0)).square().sum().item() / (num_workers - 1)
        square = max(0.0, gradients.mean(0).square().sum().item() - scatter / num_workers)
        self.variance = self.kept * self.variance + (1 - self.kept) * scatter
        self.square = self.kept * self.square + (1 - self.kept) * square
        return (self.variance + self.square) / (self.variance / num_workers + self.square)


@pytest.mark.parametrize(("smoothing", "kept"), [(None, 0.996), (0.5, 0.5), (0.0, 0.0)])
@pytest.mark.parametrize("per_forward", [1, 4])
def test_the_gain_is_that_of_the_workers_gradients(
    ready: Make, plain: Make, digits: Any, smoothing: float | None, kept: float, per_forward: int
) -> None:  # L6
    """Each worker's gradient by itself in double precision; the rate is the gain times that of the progress before."""
    run = ready(
        **{"scaling": "adascale", "adascale_smoothing": smoothing, "workers_per_forward": per_forward},
        **{"base_lr": 0.1, "warmup": "8st", "warmup_start": "zero", "momentum": 0.0, "weight_decay": 0.0},
    )
    expected, progress = PlainGain(kept), 0.0
    for number in range(4):
        network = plain(run.state.parameters)
        gradients = torch.stack([network.gradient(group) for group in network.groups(digits.step(number), 4)])
        gain, before = expected.of(gradients), run.weights()
        record = run.step(number)
        assert 1.0 < gain <= 4.0
        assert record.applied.gain == pytest.approx(gain, rel=1e-5)
        assert record.statistics.mean_square_of_workers == pytest.approx(gradients.square().sum(1).mean().item(), rel=1e-5)
        assert record.applied.lr == pytest.approx(gain * 0.1 * min(int(progress) + 1, 8) / 8, rel=1e-5)
        torch.testing.assert_close(run.weights(), before - record.applied.lr * gradients.mean(0), rtol=0, atol=3e-7)
        progress += gain
        assert run.state.tally.progress == pytest.approx(progress, rel=1e-5)


def test_workers_without_images_have_no_part_in_the_gain(ready: Make, plain: Make, digits: Any) -> None:  # L6
    """Two steps of 12 workers, then the 8 images of a short one: one each for 8 workers, and the gain is at most 8."""
    run = ready(scaling="adascale", adascale_smoothing=0.5, grid="1x12x8", tail="short", momentum=0.0, base_lr=0.01)
    expected = PlainGain(0.5)
    for number, num_busy in enumerate((12, 12, 8)):
        network = plain(run.state.parameters)
        groups = network.groups(digits.step(number, 96, "short"), 12)
        assert len(groups) == num_busy
        gain = expected.of(torch.stack([network.gradient(group) for group in groups]))
        assert run.step(number).applied.gain == pytest.approx(gain, rel=1e-5)


@pytest.mark.parametrize("scaling", ["none", "adascale"])
@pytest.mark.parametrize("factor", [float("nan"), 1e19], ids=["loss", "moments"])
def test_a_step_that_is_not_taken_changes_nothing(ready: Make, digits: Any, scaling: str, factor: float) -> None:  # O6, W7
    """An image of NaN; or one so bright that the variance of its worker overflows, while loss and gradient stay finite."""
    run = ready(scaling=scaling, worker_norms=True, momentum=0.9)
    untouched = ready(scaling=scaling, worker_norms=True, momentum=0.9)
    for number in range(2):
        run.step(number)
        untouched.step(number)
    run.source.damaged, run.source.factor = digits.step(2)[5], factor
    before = run.everything()
    record = run.step(2, taken=False)
    assert record.statistics.finite == (factor == 1e19)
    assert run.everything() == before
    run.source.factor = 1.0
    for number in (2, 3):
        run.step(number)
        untouched.step(number)
    assert run.everything() == untouched.everything() != before
