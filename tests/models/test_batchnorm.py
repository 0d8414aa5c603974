"""Batch normalisation against torch's own, against closed forms, against double precision, and at its limits."""

import pytest
import torch
from torch import nn

from widestep.errors import UsageError
from widestep.models.batchnorm import WorkerBatchNorm
from widestep.models.block import BlockContext


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_one_worker_and_slot_is_torchs_batch_norm():
    reference = nn.BatchNorm2d(4)
    layer = WorkerBatchNorm(4, BlockContext())
    with torch.no_grad():
        for module in (reference, layer):
            module.weight.copy_(drawn(4, seed=1))
            module.bias.copy_(drawn(4, seed=2))
    for step in range(2):
        layer.context.begin()
        x = drawn(6, 4, 5, 3, seed=10 + step, dtype=torch.float32)
        weights = drawn(6, 4, 5, 3, seed=20 + step, dtype=torch.float32)
        outputs = []
        for module in (reference, layer):
            leaf = x.clone().requires_grad_()
            y = module(leaf)
            grads = torch.autograd.grad((y * weights).sum(), [leaf, module.weight, module.bias])
            outputs.append([y.detach(), *grads])
        assert all(torch.equal(theirs, ours) for theirs, ours in zip(*outputs))
        (recorded,) = layer.context.batch_statistics()
        layer.running_mean.mul_(0.9).add_(0.1 * recorded.mean[0])
        layer.running_var.mul_(0.9).add_(0.1 * recorded.variance[0])
        torch.testing.assert_close(layer.running_mean, reference.running_mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(layer.running_var, reference.running_var, rtol=1e-6, atol=1e-7)
    x = drawn(2, 4, 5, 3, seed=30, dtype=torch.float32)
    torch.testing.assert_close(layer.eval()(x), reference.eval()(x), rtol=1e-6, atol=1e-6)


def normalised(x: torch.Tensor, num_groups: int, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
    """Group by group in plain arithmetic: image n belongs to group n % k."""
    y = torch.zeros_like(x)
    others = [0, *range(2, x.dim())]
    shape = [1, -1] + [1] * (x.dim() - 2)
    for group in range(num_groups):
        own = x[group::num_groups]
        mean = own.mean(others, keepdim=True)
        variance = ((own - mean) ** 2).mean(others, keepdim=True)
        y[group::num_groups] = (own - mean) / (variance + eps) ** 0.5 * scale.view(shape) + shift.view(shape)
    return y


@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
@pytest.mark.parametrize("places", [(), (5,), (3, 2), (2, 2, 2)])
def test_groups_against_plain_arithmetic_with_gradients(num_groups, places):  # B1
    """As many groups as workers is `local`; fewer groups, of several workers each, `group:K`; one group `sync`."""
    layer = WorkerBatchNorm(4, BlockContext(), eps=1e-3).double()
    layer.weight.detach().copy_(drawn(4, seed=1))
    layer.bias.detach().copy_(drawn(4, seed=2))
    x, weights = drawn(12, 4, *places, seed=3) * 3 + 1, drawn(12, 4, *places, seed=4)
    results = []
    for compute in ("ours", "reference"):
        leaf = x.clone().requires_grad_()
        if compute == "ours":
            layer.context.begin(num_groups)
            y = layer(leaf)
        else:
            y = normalised(leaf, num_groups, layer.weight, layer.bias, 1e-3)
        results.append([y.detach(), *torch.autograd.grad((y * weights).sum(), [leaf, layer.weight, layer.bias])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    (recorded,) = layer.context.batch_statistics()
    for group in range(num_groups):
        values = x[group::num_groups].transpose(0, 1).flatten(1)
        assert recorded.num_values == values.shape[1]
        torch.testing.assert_close(recorded.mean[group], values.mean(1), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(recorded.variance[group], values.var(1, correction=1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("num_groups", "images", "height", "width"), [(1, 3, 1, 1), (2, 1, 2, 3), (3, 4, 2, 2)])
def test_recorded_moments_closed_form(num_groups, images, height, width):  # B4
    """The values of group j are 0, s, 2s, ..., (n-1)s with s = j+1: mean s(n-1)/2, unbiased variance s^2 n(n+1)/12."""
    n = images * height * width
    one = torch.arange(n, dtype=torch.float64).view(images, 1, 1, height, width)
    scales = torch.arange(1, num_groups + 1, dtype=torch.float64).view(1, num_groups, 1, 1, 1)
    x = (one * scales).flatten(0, 1)  # group-fastest
    layer = WorkerBatchNorm(2, BlockContext()).double()
    layer.context.begin(num_groups)
    layer(torch.cat([x, 10 + x], dim=1))
    ((mean, variance, num_values),) = layer.context.batch_statistics()
    s = scales.view(num_groups, 1)
    torch.testing.assert_close(mean, torch.cat([s * (n - 1) / 2, 10 + s * (n - 1) / 2], dim=1))
    torch.testing.assert_close(variance, (s**2 * n * (n + 1) / 12).expand(-1, 2))
    assert num_values == n


def test_every_workers_gradient_of_scale_and_shift():  # W8
    context = BlockContext()
    layer = WorkerBatchNorm(4, context).double()
    x, weights = drawn(6, 4, 2, 2, seed=3), drawn(6, 4, 2, 2, seed=4)
    context.begin(3, per_worker=True)
    scale, shift = torch.autograd.grad((layer(x) * weights).sum(), context.worker_leaves(layer.parameters()))
    for worker in range(3):
        own = slice(worker, None, 3)
        y = normalised(x[own], 1, layer.weight, layer.bias, 1e-5)
        expected = torch.autograd.grad((y * weights[own]).sum(), [layer.weight, layer.bias])
        torch.testing.assert_close((scale[worker], shift[worker]), expected, rtol=1e-12, atol=1e-13)


def test_training_leaves_the_running_statistics_alone():  # B2
    layer = WorkerBatchNorm(3, BlockContext())
    layer(drawn(4, 3, 2, 2, dtype=torch.float32))
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))


def test_evaluation_uses_the_running_statistics_and_records_nothing():
    layer = WorkerBatchNorm(1, BlockContext(), eps=1.0).eval()
    layer.running_mean.fill_(2.0)
    layer.running_var.fill_(3.0)
    layer.context.begin(5)
    assert layer(torch.tensor([8.0]).view(1, 1, 1, 1)).item() == 3.0  # (8 - 2) / sqrt(3 + 1)
    with pytest.raises(AssertionError, match="training mode"):
        layer.context.batch_statistics()


def test_nothing_of_the_block_before_is_left():
    layer = WorkerBatchNorm(1, BlockContext())
    layer(drawn(4, 1, 2, 2, dtype=torch.float32))
    layer.context.begin()
    with pytest.raises(AssertionError):
        layer.context.batch_statistics()


def test_statistics_come_in_layer_order_whatever_the_order_of_execution():
    context = BlockContext()
    first, second = WorkerBatchNorm(1, context), WorkerBatchNorm(1, context)
    second(torch.tensor([4.0, 6.0]).view(2, 1, 1, 1))
    first(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
    assert [statistics.mean.item() for statistics in context.batch_statistics()] == [2.0, 5.0]


@pytest.mark.parametrize("num_groups", [1, 3])
def test_one_value_a_channel_is_refused_in_words(num_groups):
    layer = WorkerBatchNorm(2, BlockContext())
    layer.context.begin(num_groups)
    with pytest.raises(UsageError, match="at least two images"):
        layer(torch.zeros(num_groups, 2, 1, 1))


def test_memory_format_does_not_matter():
    layer = WorkerBatchNorm(4, BlockContext()).double()
    x = drawn(6, 4, 3, 3)
    for num_groups in (1, 3):
        layer.context.begin(num_groups)
        expected = layer(x)
        layer.context.begin(num_groups)
        found = layer(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_low_precision_activations_keep_float32_statistics():
    layer = WorkerBatchNorm(4, BlockContext())
    layer.context.begin(2)
    y = layer(drawn(4, 4, 3, 3, dtype=torch.float32).bfloat16())
    ((mean, variance, _),) = layer.context.batch_statistics()
    assert (y.dtype, mean.dtype, variance.dtype) == (torch.bfloat16, torch.float32, torch.float32)


LAYERS = {
    "1d": (nn.BatchNorm1d(3), (8, 3)),
    "1d with length": (nn.BatchNorm1d(3, eps=0.1), (8, 3, 5)),
    "2d": (nn.BatchNorm2d(3, momentum=None), (8, 3, 4, 2)),
    "2d plain": (nn.BatchNorm2d(3, affine=False), (8, 3, 4, 2)),
    "3d": (nn.BatchNorm3d(3, eps=0.01), (8, 3, 2, 2, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_torchs_layers_are_adopted_with_their_numbers(name):
    template, shape = LAYERS[name]
    options = {"eps": template.eps, "affine": template.affine, "momentum": 1.0}
    reference, adopted = (type(template)(3, **options).double() for _ in range(2))
    for module in (reference, adopted):
        for seed, parameter in enumerate(module.parameters()):
            parameter.detach().copy_(drawn(3, seed=seed))
    parameters = list(adopted.parameters())
    holder = [adopted]
    context = BlockContext()
    WorkerBatchNorm.adopt(adopted, context)
    assert isinstance(holder[0], WorkerBatchNorm)
    assert [id(p) for p in adopted.parameters()] == [id(p) for p in parameters]
    assert [name for name, _ in adopted.named_buffers()] == ["running_mean", "running_var"]
    x = drawn(*shape, seed=9)
    torch.testing.assert_close(adopted(x), reference(x), rtol=1e-12, atol=1e-13)
    ((mean, variance, _),) = context.batch_statistics()
    torch.testing.assert_close(mean[0], reference.running_mean)
    torch.testing.assert_close(variance[0], reference.running_var)
    adopted.running_mean.copy_(mean[0])
    adopted.running_var.copy_(variance[0])
    torch.testing.assert_close(adopted.eval()(x), reference.eval()(x), rtol=1e-12, atol=1e-13)
    assert adopted.num_channels == 3


def test_without_running_statistics_the_images_at_hand_count_in_evaluation_too():
    reference, adopted = (nn.BatchNorm2d(2, track_running_stats=False) for _ in range(2))
    context = BlockContext()
    WorkerBatchNorm.adopt(adopted, context)
    x = drawn(6, 2, 2, 2, dtype=torch.float32)
    context.begin(3)
    apart = torch.cat([reference(x[group::3]) for group in range(3)])
    torch.testing.assert_close(adopted(x)[[0, 3, 1, 4, 2, 5]], apart)
    assert context.batch_statistics() == []
    torch.testing.assert_close(adopted.eval()(x), reference.eval()(x))
    assert list(adopted.buffers()) == []
    with pytest.raises(UsageError, match="two values a channel"):
        adopted(torch.zeros(1, 2, 1, 1))


def test_a_shift_alone_or_a_scale_alone_is_enough():
    norm = nn.BatchNorm1d(2)
    norm.bias = None
    WorkerBatchNorm.adopt(norm, BlockContext())
    norm.weight.detach().fill_(3.0)
    norm.context.begin(2)
    x = torch.tensor([[1.0, 5.0], [0.0, 2.0], [3.0, 9.0], [8.0, 4.0]])
    expected = torch.tensor([[-3.0, -3.0], [-3.0, -3.0], [3.0, 3.0], [3.0, 3.0]])
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-4)
