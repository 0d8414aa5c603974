"""A worker's images cut into several forward passes, against a plain double-precision loop (W1, B1, B2)."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from widestep.models.build import build_model
from widestep.workers.blocks import Block, ForwardPass
from widestep.workers.engine import GradientEngine, StepGradients
from widestep.workers.overlapped import OverlappedEngine
from widestep.workers.placement import Placement
from widestep.workers.world import World

Make = Callable[..., Any]
CUTS = [(0, 3), (3, 5), (5, 8)]
"""Passes of a worker of 8 images, unequal: 3, 2 and 3."""


def cut(batch: Any, cuts: list[tuple[int, int]]) -> Callable[[range], Iterator[Block]]:
    """Hand out each worker's images in passes."""

    def batch_of(workers: range) -> Iterator[Block]:
        for block in batch.batch_of(workers):
            assert len(block.groups) == 1
            for start, stop in cuts:
                part = slice(start, stop)
                share = (stop - start) / len(block.labels)
                yield replace(block, images=block.images[part], labels=block.labels[part], share=share)

    return batch_of


def found_in(model: Any, batch: Any, batch_of: Any, kind: type = GradientEngine, **options: Any) -> StepGradients:
    forward = ForwardPass(model, label_smoothing=0.0, precision="fp32", per_worker=options.get("has_worker_norms", False))
    engine = kind(forward, World(), **options)
    centre = torch.full((1, engine.moments.num_channels), 0.2, dtype=next(model.parameters()).dtype)
    placement = Placement(batch.num_workers, 1, 1)
    found: StepGradients = engine.gradients(batch_of, len(batch.labels), placement, centre)
    return found


def passes_of_workers(batch: Any) -> list[list[list[int]]]:
    """The images of every pass of every worker."""
    return [[batch.of_group(w)[start:stop] for start, stop in CUTS] for w in range(batch.num_workers)]


@pytest.fixture
def expected(digits_model: Make, global_batch: Make) -> dict[str, Any]:
    """Gradient, and moments of each pass, by autograd through torch's own functions, a pass at a time."""
    model, batch = digits_model(), global_batch(24, 3)
    weights = list(model.parameters())
    total: list[Tensor] = [torch.zeros_like(weight) for weight in weights]
    own_squares, moments, values = [], [], []
    for passes in passes_of_workers(batch):
        own = [torch.zeros_like(weight) for weight in weights]
        for ids in passes:
            inputs: dict[int, Tensor] = {}
            hooks = [
                norm.register_forward_hook(
                    lambda _, given, __, number=number, inputs=inputs: inputs.update({number: given[0].detach()})
                )
                for number, norm in enumerate(model.batch_norms())
            ]
            model.context.begin(1)
            logits = model(batch.images[ids].flatten(1, 2)).flatten(0, 1)
            loss = -torch.log_softmax(logits, 1)[torch.arange(len(ids)), batch.labels[ids].flatten()].sum()
            for place, slope in enumerate(torch.autograd.grad(loss, weights)):
                own[place] += slope
            for hook in hooks:
                hook.remove()
            seen = [inputs[number].transpose(0, 1).flatten(1) for number in range(len(inputs))]
            moments.append((len(ids), torch.cat([x.mean(1) for x in seen]), torch.cat([x.var(1) for x in seen])))
            values.append(seen)
        own_squares.append(sum(float((slope / 8).square().sum()) for slope in own))
        total = [a + b for a, b in zip(total, own, strict=True)]
    together = [torch.cat(layers, dim=1) for layers in zip(*values, strict=True)]
    return {
        "model": model,
        "batch": batch,
        "gradient": torch.cat([slope.flatten() for slope in total]) / 24,
        "square": sum(own_squares) / 3,
        "moments": moments,
        "pooled": [torch.cat([x.mean(1) for x in together]), torch.cat([x.var(1) for x in together])],
    }


def near(a: Tensor, b: Tensor, rtol: float = 1e-11) -> bool:
    return bool(torch.allclose(a.flatten().double(), b.flatten().double(), rtol=rtol, atol=rtol / 1000))


@pytest.mark.parametrize("kind", [GradientEngine, OverlappedEngine])
def test_gradients_of_passes_are_added(expected: dict[str, Any], kind: type) -> None:  # W1
    batch = expected["batch"]
    found = found_in(expected["model"], batch, cut(batch, CUTS), kind)
    assert near(found.gradients, expected["gradient"])


@pytest.mark.parametrize("kind", [GradientEngine, OverlappedEngine])
def test_a_worker_has_the_mean_of_its_passes_weighted_by_images(expected: dict[str, Any], kind: type) -> None:  # B2
    batch, moments = expected["batch"], expected["moments"]
    found = found_in(expected["model"], batch, cut(batch, CUTS), kind).moments
    of_worker = [
        [sum(count / 8 * pair[which] for count, *pair in moments[3 * w : 3 * w + 3]) for which in (0, 1)] for w in range(3)
    ]
    rtol = 1e-11 if kind is GradientEngine else 1e-4  # which adds moments in float32
    assert near(found.mean, sum(pair[0] for pair in of_worker) / 3, rtol)
    assert near(found.variance, sum(pair[1] for pair in of_worker) / 3, rtol)
    assert near(found.first_mean, of_worker[0][0], rtol)
    assert near(found.first_variance, of_worker[0][1], rtol)
    assert near(found.pooled_mean, expected["pooled"][0], rtol)
    assert near(found.pooled_variance, expected["pooled"][1], rtol)


def test_a_workers_own_gradient_is_that_of_all_its_passes(expected: dict[str, Any]) -> None:
    batch = expected["batch"]
    found = found_in(expected["model"], batch, cut(batch, CUTS), has_worker_norms=True)
    assert found.of_slot[0].mean_square_of_workers == pytest.approx(expected["square"], rel=1e-12)


def test_sums_for_precise_statistics_are_those_of_the_passes(expected: dict[str, Any]) -> None:
    model, batch = expected["model"], expected["batch"]
    engine = GradientEngine(ForwardPass(model, label_smoothing=0.0, precision="fp32"), World())
    centre = torch.zeros(1, engine.moments.num_channels, dtype=torch.float64)
    sums = engine.moment_sums(cut(batch, CUTS), Placement(3, 1, 1), centre)
    found = engine.moments.unpack(sums, centre, 24, num_groups=1)
    assert near(found.pooled_mean, expected["pooled"][0])
    assert near(found.pooled_variance, expected["pooled"][1])


@pytest.mark.parametrize("cuts", [[(0, 8)], [(0, 4), (4, 8)], CUTS, [(image, image + 1) for image in range(8)]])
def test_without_batch_normalisation_cutting_changes_nothing_beyond_rounding(
    tmp_path: Path, global_batch: Make, cuts: list[tuple[int, int]]
) -> None:
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def Plain(num_classes, image_shape):\n"
        "    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.Tanh(), nn.Flatten(), "
        "nn.Linear(216, num_classes))\n"
    )
    model = build_model(f"{tmp_path / 'plain.py'}:Plain", num_classes=10, image_shape=(1, 8, 8))
    model.initialise(0, 3)
    model.double()
    batch = global_batch(16, 2)
    logits = model.network(batch.images.flatten(1, 2))
    loss = torch.nn.functional.cross_entropy(logits, batch.labels.flatten())
    whole = torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, list(model.parameters()))])
    found = found_in(model, batch, cut(batch, cuts))
    assert near(found.gradients, whole)
    assert found.of_slot[0].loss == pytest.approx(loss.item(), rel=1e-13)


def test_weights_are_rounded_once_a_step_and_to_the_same_bytes(
    digits_model: Make, global_batch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16: of every weight one copy for the four workers, and after an update other ones."""
    model, batch = digits_model(dtype=torch.float32), global_batch(24, 4, dtype=torch.float32)
    forward = ForwardPass(model, label_smoothing=0.0, precision="bf16")
    engine = GradientEngine(forward, World())
    centre = torch.zeros(1, engine.moments.num_channels)

    def run() -> tuple[Tensor, int]:
        with Roundings() as counted:
            found = engine.gradients(batch.batch_of, 24, Placement(4, 1, 1), centre).gradients
        return found, counted.number

    kept, num_kept = run()
    with monkeypatch.context() as patched:
        patched.setattr(ForwardPass, "of_one_step", lambda self: nullcontext())
        again, num_again = run()
    assert torch.equal(kept, again)
    num_convolutions = sum(parameter.dim() == 4 for parameter in model.parameters())
    assert num_again - num_kept == 3 * num_convolutions  # three of the four workers rounded none
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert not torch.equal(run()[0], kept)


class Roundings(TorchDispatchMode):
    """Counts how often a float32 tensor is rounded to bfloat16."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.number += func is torch.ops.aten._to_copy.default and found.dtype == torch.bfloat16
        return found
