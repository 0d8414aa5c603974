"""The gradient of a global batch, against a plain loop over the workers in double precision (statements W1, W8, B1-B4)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from widestep.errors import EnvironmentFault
from widestep.workers.blocks import ForwardPass
from widestep.workers.engine import GradientEngine, StepGradients, Wishes, _norms
from widestep.workers.placement import Placement
from widestep.workers.tree import sum_leaves
from widestep.workers.world import World

Make = Callable[..., Any]


def engine_of(model: Any, world: World | None = None, label_smoothing: float = 0.0, **options: Any) -> GradientEngine:
    forward = ForwardPass(
        model,
        label_smoothing=label_smoothing,
        precision=options.pop("precision", "fp32"),
        per_worker=options.get("has_worker_norms", False),
    )
    return GradientEngine(forward, world or World(), **options)


def near_zero(model: Any) -> torch.Tensor:
    """A centre of the right shape and type."""
    num_channels = sum(norm.num_channels for norm in model.batch_norms()) // model.num_slots
    return torch.full((model.num_slots, num_channels), 0.1, dtype=next(model.parameters()).dtype)


def gradients_of(model: Any, batch: Any, per_block: int = 1, **options: Any) -> StepGradients:
    placement = Placement(batch.num_workers, per_block, 1, batch.workers_per_group)
    centre = options.pop("centre", None)
    engine = engine_of(model, **options)
    return engine.gradients(batch.batch_of, len(batch.labels), placement, near_zero(model) if centre is None else centre)


EVEN, UNEVEN, FEWER_THAN_WORKERS = (24, 4), (23, 4), (3, 5)


@pytest.mark.parametrize(("num_images", "num_workers"), [EVEN, UNEVEN, FEWER_THAN_WORKERS, (6, 1)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_gradient_of_all_workers(
    digits_model: Make,
    global_batch: Make,
    one_by_one: Make,
    relative_error: Make,
    num_images: int,
    num_workers: int,
    label_smoothing: float,
) -> None:  # W1, B1
    model, batch = digits_model(), global_batch(num_images, num_workers)
    expected = one_by_one(model, 0, batch, label_smoothing)
    found = gradients_of(model, batch, label_smoothing=label_smoothing)
    assert found.of_slot[0].loss == pytest.approx(expected.loss, rel=1e-13)
    assert found.of_slot[0].gradient_norm == pytest.approx(expected.gradient.norm().item(), rel=1e-12)
    assert found.of_slot[0].num_images == num_images
    assert relative_error(found.gradients[0], expected.gradient) < 1e-12
    assert found.finite == [True]


def test_workers_count_by_their_images(digits_model: Make, global_batch: Make, relative_error: Make) -> None:  # W1
    """With 23 images of 4 workers the mean of the workers' means is another number."""
    model, batch = digits_model(), global_batch(*UNEVEN)
    found = gradients_of(model, batch).gradients[0]
    alone = []
    for worker in range(4):
        part = batch.of_group(worker)
        alone.append(gradients_of(model, type(batch)(batch.images[part], batch.labels[part], 1)).gradients[0])
    weighted = sum(count * gradient for count, gradient in zip((6, 6, 6, 5), alone, strict=True)) / 23
    assert relative_error(found, weighted) < 1e-13
    assert relative_error(found, sum(alone) / 4) > 1e-3


@pytest.mark.parametrize(("num_images", "num_workers"), [EVEN, UNEVEN, FEWER_THAN_WORKERS, (6, 1)])
@pytest.mark.parametrize("away", [0.0, 0.1, -3.0])
def test_moments_of_all_workers(
    digits_model: Make,
    global_batch: Make,
    one_by_one: Make,
    relative_error: Make,
    num_images: int,
    num_workers: int,
    away: float,
) -> None:  # B3, B4
    """Their mean, those of worker 0, and those of all values together, whatever centre the sums are taken about."""
    model, batch = digits_model(), global_batch(num_images, num_workers)
    expected = one_by_one(model, 0, batch)
    mean, variance = expected.of_groups()
    assert len(mean) == min(num_images, num_workers)
    found = gradients_of(model, batch, centre=near_zero(model) * 0 + away).moments
    assert relative_error(found.mean[0], mean.mean(0)) < 1e-13
    assert relative_error(found.variance[0], variance.mean(0)) < 1e-13
    assert relative_error(found.first_mean[0], mean[0]) < 1e-13
    assert relative_error(found.first_variance[0], variance[0]) < 1e-13
    pooled_mean, pooled_variance = expected.pooled()
    assert relative_error(found.pooled_mean[0], pooled_mean) < 1e-12
    assert relative_error(found.pooled_variance[0], pooled_variance) < 1e-12


def test_pooled_statistics_of_values_far_from_zero(digits_model: Make, global_batch: Make, relative_error: Make) -> None:
    """A mean of 3,000 times the spread: sums about a centre near it keep the variance, in float32."""
    model, batch = digits_model(), global_batch(24, 4)
    batch.images.add_(1000.0)
    exact = gradients_of(model, batch).moments
    centre = exact.mean.float() * 1.001
    found = gradients_of(model.float(), type(batch)(batch.images.float(), batch.labels, 4), centre=centre).moments
    assert relative_error(found.pooled_variance[0, :8], exact.pooled_variance[0, :8]) < 1e-3


@pytest.mark.parametrize("together", [2, 3, 12])
@pytest.mark.parametrize("num_images", [60, 53, 5], ids=["even", "uneven", "few"])
@pytest.mark.parametrize("per_block", [1, 2])
def test_groups_of_workers_are_normalised_together(
    digits_model: Make,
    global_batch: Make,
    one_by_one: Make,
    relative_error: Make,
    together: int,
    num_images: int,
    per_block: int,
) -> None:  # B1
    """group:2, group:3 and sync of 12 workers, one or two groups a block."""
    model, batch = digits_model(slots=2), global_batch(num_images, 12, slots=2, together=together)
    found = gradients_of(model, batch, per_block=min(12, together * per_block))
    for slot in range(2):
        expected = one_by_one(model, slot, batch)
        assert relative_error(found.gradients[slot], expected.gradient) < 1e-12
        assert found.of_slot[slot].loss == pytest.approx(expected.loss, rel=1e-13)
        mean, variance = expected.of_groups()
        assert relative_error(found.moments.mean[slot], mean.mean(0)) < 1e-12
        assert relative_error(found.moments.variance[slot], variance.mean(0)) < 1e-12
        assert relative_error(found.moments.pooled_variance[slot], expected.pooled()[1]) < 1e-12


@pytest.mark.parametrize("per_block", [1, 2, 3, 12])
@pytest.mark.parametrize("num_images", [60, 53, 5], ids=["even", "uneven", "few"])
def test_norms_of_the_workers_own_gradients(
    digits_model: Make, global_batch: Make, one_by_one: Make, relative_error: Make, per_block: int, num_images: int
) -> None:  # L6, N1
    model, batch = digits_model(slots=2), global_batch(num_images, 12, slots=2)
    found = gradients_of(model, batch, per_block, has_worker_norms=True)
    for slot in range(2):
        expected = one_by_one(model, slot, batch)
        assert found.of_slot[slot].mean_square_of_workers == pytest.approx(
            sum(expected.squares) / len(expected.squares), rel=1e-12
        )
        assert relative_error(found.gradients[slot], expected.gradient) < 1e-12
    assert gradients_of(model, batch, per_block).of_slot[0].mean_square_of_workers is None


def test_gradients_in_bfloat16_are_near_those_in_float32(
    digits_model: Make, global_batch: Make, relative_error: Make
) -> None:
    model, batch = digits_model(dtype=torch.float32), global_batch(240, 12, dtype=torch.float32)
    exact, found = (gradients_of(model, batch, 4, precision=precision) for precision in ("fp32", "bf16"))
    assert found.gradients.dtype == found.moments.mean.dtype == torch.float32
    assert 1e-4 < relative_error(found.gradients[0], exact.gradients[0]) < 0.1
    assert relative_error(found.moments.variance[0], exact.moments.variance[0]) < 0.02
    assert found.of_slot[0].loss == pytest.approx(exact.of_slot[0].loss, rel=0.01)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("per_block", [2, 3, 12])
@pytest.mark.parametrize("num_images", [60, 53], ids=["even", "uneven"])
@pytest.mark.parametrize("norms", [False, True])
def test_fused_blocks_agree_with_single_workers(
    digits_model: Make,
    global_batch: Make,
    relative_error: Make,
    dtype: torch.dtype,
    bound: float,
    per_block: int,
    num_images: int,
    norms: bool,
) -> None:  # W8
    model, batch = digits_model(dtype=dtype), global_batch(num_images, 12, dtype=dtype)
    one, many = (gradients_of(model, batch, k, has_worker_norms=norms) for k in (1, per_block))
    assert relative_error(many.gradients[0], one.gradients[0]) <= bound
    for name, expected in vars(one.moments).items():
        assert relative_error(getattr(many.moments, name)[0], expected[0]) <= bound
    assert many.of_slot[0].loss == pytest.approx(one.of_slot[0].loss, rel=bound)


def test_runs_of_a_stack_have_gradients_of_their_own(
    digits_model: Make, global_batch: Make, one_by_one: Make, relative_error: Make
) -> None:
    model, batch = digits_model(slots=3), global_batch(23, 4, slots=3)
    found = gradients_of(model, batch, per_block=3)
    for slot in range(3):
        expected = one_by_one(model, slot, batch)
        assert relative_error(found.gradients[slot], expected.gradient) < 1e-12
        assert relative_error(found.moments.variance[slot], expected.of_groups()[1].mean(0)) < 1e-12
        assert found.of_slot[slot].loss == pytest.approx(expected.loss, rel=1e-13)


def test_weights_and_running_statistics_are_only_read(digits_model: Make, global_batch: Make) -> None:  # B2
    model = digits_model(slots=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients_of(model, global_batch(24, 4, slots=2))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("num_processes", [1, 2, 3, 6, 13])
def test_blocks_give_the_same_bytes_wherever_they_are_computed(
    digits_model: Make, global_batch: Make, monkeypatch: pytest.MonkeyPatch, num_processes: int
) -> None:  # W2
    """Every process by turns in this one; the exchange itself is tested with real processes."""
    model, batch = digits_model(dtype=torch.float32), global_batch(53, 12, dtype=torch.float32)
    partial_sums: dict[Any, Any] = {}

    class Part(World):
        def merged(self, values: torch.Tensor) -> torch.Tensor:
            return values

    def collect(leaves: Any) -> Any:
        mine = sum_leaves(leaves)
        partial_sums.update(mine)
        return mine

    expected = gradients_of(model, batch, per_block=2)
    monkeypatch.setattr("widestep.workers.engine.sum_leaves", collect)
    monkeypatch.setattr("widestep.workers.engine.sum_over_processes", lambda *given: torch.zeros(given[-1]))
    for process in range(num_processes):
        world = Part()
        world.process, world.num_processes = process, num_processes
        engine_of(model, world).gradients(batch.batch_of, 53, Placement(12, 2, num_processes), near_zero(model))
    monkeypatch.undo()
    monkeypatch.setattr("widestep.workers.engine.sum_leaves", lambda leaves: partial_sums)
    again = gradients_of(model, batch, per_block=2)
    assert again.gradients.numpy().tobytes() == expected.gradients.numpy().tobytes()
    assert again.moments.pooled_variance.equal(expected.moments.pooled_variance)
    assert again.of_slot == expected.of_slot


@pytest.mark.parametrize(("per_block", "expected"), [(1, range(5, 6)), (4, range(4, 8)), (12, range(12))])
def test_the_failing_worker_is_found(digits_model: Make, global_batch: Make, per_block: int, expected: range) -> None:  # W7
    model, batch = digits_model(slots=2), global_batch(53, 12, slots=2)
    batch.images[5 + 2 * 12, 1, 0, 3, 3] = float("nan")
    engine, placement = engine_of(model), Placement(12, per_block, 1)
    found = engine.gradients(batch.batch_of, 53, placement, near_zero(model))
    assert found.finite == [True, False]
    assert [statistics.finite for statistics in found.of_slot] == [True, False]
    assert found.gradients[0].isfinite().all()
    assert engine.first_failing_workers(batch.batch_of, placement, 1) == expected
    assert engine.first_failing_workers(batch.batch_of, placement, 0) == range(12)  # none fails by itself


def test_an_overflowing_variance_is_not_finite(digits_model: Make, global_batch: Make) -> None:  # W7
    """Activations of 1e25 have a variance above the largest float32, while loss and gradient remain finite."""
    model, batch = digits_model(dtype=torch.float32), global_batch(24, 4, dtype=torch.float32)
    model.slot_parameters(0)["bn1.weight"].mul_(1e25)
    found = gradients_of(model, batch)
    assert found.of_slot[0].finite
    assert found.finite == [False]


def test_wishes_ride_along(digits_model: Make, global_batch: Make) -> None:
    model, batch = digits_model(), global_batch(24, 4)
    assert gradients_of(model, batch, wishes=lambda: Wishes(stop=True)).wishes == (True, False)
    assert gradients_of(model, batch, wishes=lambda: Wishes(save=True)).wishes == (False, True)
    assert gradients_of(model, batch).wishes == (False, False)


def test_an_operation_without_a_deterministic_form_is_named(digits_model: Make, global_batch: Make) -> None:
    model, batch = digits_model(), global_batch(24, 4)
    text = "scatter_thing_cuda does not have a deterministic implementation, but you set ..."

    def fail(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(text)

    model.forward = fail
    with pytest.raises(EnvironmentFault, match=r"scatter_thing_cuda has no such form on cpu; use another layer"):
        gradients_of(model, batch)
    text = "out of order"
    with pytest.raises(RuntimeError, match="out of order"):
        gradients_of(model, batch)


@pytest.mark.parametrize("num_runs", [1, 3])
@pytest.mark.parametrize("length", [5, 65_536, 65_537, 200_001])
def test_norms_of_long_rows(num_runs: int, length: int) -> None:
    """Taken by parts where a row is long; NumPy adds the squares up in double precision."""
    rows = torch.randn(num_runs, length, generator=torch.Generator().manual_seed(length))
    expected = np.sqrt((rows.double().numpy() ** 2).sum(1))
    found = _norms(rows)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    rows[-1, -1] = float("inf")
    assert torch.isfinite(_norms(rows)).tolist() == [True] * (num_runs - 1) + [False]
