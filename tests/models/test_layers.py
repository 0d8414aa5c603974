"""Each layer against torch's own, against closed forms, and at its limits."""

import pytest
import torch
import torch.nn.functional as F

from widestep.errors import UsageError
from widestep.models.block import BlockContext
from widestep.models.layers import KeyedDropout, StackedConv2d, StackedLinear, WorkerBatchNorm2d


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_convolution_slot_by_slot():
    layer = StackedConv2d(2, 4, 3, 2, 1, num_slots=3, bias=True).double()
    with torch.no_grad():
        layer.weight.copy_(drawn(12, 2, 3, 3, seed=1))
        layer.bias.copy_(drawn(12, seed=2))
    x = drawn(5, 6, 7, 7)
    for slot, part in enumerate(layer(x).split(4, dim=1)):
        weight, bias = layer.weight[4 * slot : 4 * slot + 4], layer.bias[4 * slot : 4 * slot + 4]
        expected = F.conv2d(x[:, 2 * slot : 2 * slot + 2], weight, bias, stride=2, padding=1)
        torch.testing.assert_close(part, expected, rtol=1e-13, atol=1e-13)


def test_linear_by_hand():
    """Slot 0: 1*1 + 2*2 + 10 = 15, slot 1: 3*3 + 4*4 + 20 = 45; second output -1 times the first, without the bias."""
    layer = StackedLinear(2, 2, num_slots=2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2], [-1, -2], [3, 4], [-3, -4]]))
        layer.bias.copy_(torch.tensor([10.0, 0, 20, 0]))
    assert layer(torch.tensor([[1.0, 2, 3, 4]])).tolist() == [[[15.0, -5.0], [45.0, -25.0]]]


def test_one_worker_and_slot_is_torchs_batch_norm():
    reference = torch.nn.BatchNorm2d(4)
    layer = WorkerBatchNorm2d(4, 1, BlockContext())
    with torch.no_grad():
        for module in (reference, layer):
            module.weight.copy_(drawn(4, seed=1))
            module.bias.copy_(drawn(4, seed=2))
    for step in range(2):
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


@pytest.mark.parametrize(("num_workers", "images", "height", "width"), [(1, 3, 1, 1), (2, 1, 2, 3), (3, 4, 2, 2)])
def test_recorded_moments_closed_form(num_workers, images, height, width):  # B4
    """The values of worker w are 0, s, 2s, ..., (n-1)s with s = w+1: mean s(n-1)/2, unbiased variance s^2 n(n+1)/12."""
    n = images * height * width
    one = torch.arange(n, dtype=torch.float64).view(images, 1, 1, height, width)
    scales = torch.arange(1, num_workers + 1, dtype=torch.float64).view(1, num_workers, 1, 1, 1)
    x = (one * scales).flatten(0, 1)  # worker-fastest
    layer = WorkerBatchNorm2d(1, 2, BlockContext()).double()
    layer.context.begin(num_workers)
    layer(torch.cat([x, 10 + x], dim=1))
    ((mean, variance),) = layer.context.batch_statistics()
    s = scales.view(num_workers, 1)
    torch.testing.assert_close(mean, torch.cat([s * (n - 1) / 2, 10 + s * (n - 1) / 2], dim=1))
    torch.testing.assert_close(variance, (s**2 * n * (n + 1) / 12).expand(-1, 2))


def test_training_leaves_the_running_statistics_alone():  # B2
    layer = WorkerBatchNorm2d(3, 1, BlockContext())
    layer(drawn(4, 3, 2, 2, dtype=torch.float32))
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))


def test_evaluation_uses_the_running_statistics_and_records_nothing():
    layer = WorkerBatchNorm2d(1, 1, BlockContext(), eps=1.0).eval()
    layer.running_mean.fill_(2.0)
    layer.running_var.fill_(3.0)
    layer.context.begin(5)
    assert layer(torch.tensor([8.0]).view(1, 1, 1, 1)).item() == 3.0  # (8 - 2) / sqrt(3 + 1)
    with pytest.raises(AssertionError, match="training mode"):
        layer.context.batch_statistics()


def test_nothing_of_the_block_before_is_left():
    layer = WorkerBatchNorm2d(1, 1, BlockContext())
    layer(drawn(4, 1, 2, 2, dtype=torch.float32))
    layer.context.begin()
    with pytest.raises(AssertionError):
        layer.context.batch_statistics()


def test_statistics_come_in_layer_order_whatever_the_order_of_execution():
    context = BlockContext()
    first, second = WorkerBatchNorm2d(1, 1, context), WorkerBatchNorm2d(1, 1, context)
    second(torch.tensor([4.0, 6.0]).view(2, 1, 1, 1))
    first(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
    assert [statistics.mean.item() for statistics in context.batch_statistics()] == [2.0, 5.0]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_one_value_a_channel_is_refused_in_words(num_workers):
    layer = WorkerBatchNorm2d(2, 1, BlockContext())
    layer.context.begin(num_workers)
    with pytest.raises(UsageError, match="at least two images"):
        layer(torch.zeros(num_workers, 2, 1, 1))


def test_memory_format_does_not_matter():
    layer = WorkerBatchNorm2d(2, 2, BlockContext()).double()
    layer.context.begin(3)
    x = drawn(6, 4, 3, 3)
    expected = layer(x)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), expected, rtol=1e-13, atol=1e-13)


def test_low_precision_activations_keep_float32_statistics():
    layer = WorkerBatchNorm2d(2, 2, BlockContext())
    layer.context.begin(2)
    y = layer(drawn(4, 4, 3, 3, dtype=torch.float32).bfloat16())
    ((mean, variance),) = layer.context.batch_statistics()
    assert (y.dtype, mean.dtype, variance.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_dropout_by_hand():
    """Rate 1/4: kept where u >= 1/4, times 4/3; its gradient is the same factor."""
    uniforms = torch.tensor([[[0.0, 0.25], [0.24, 0.99]], [[0.5, 0.1], [0.3, 0.2]]])
    asked = []

    def provide(layer_number: int, width: int) -> torch.Tensor:
        asked.append((layer_number, width))
        return uniforms

    context = BlockContext()
    context.begin(2, provide)
    layer = KeyedDropout(0.25, context, layer_number=7, num_slots=2)
    x = torch.tensor([[3.0, 6, 9, 12], [15, 18, 21, 24]], requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, torch.tensor([[0.0, 8, 0, 16], [20, 0, 28, 0]]))
    (grad,) = torch.autograd.grad(y.sum(), [x])
    torch.testing.assert_close(grad, torch.tensor([[0.0, 1, 0, 1], [1, 0, 1, 0]]) * 4 / 3)
    assert asked == [(7, 2)]
    assert layer.eval()(x) is x
    assert asked == [(7, 2)]


def test_a_dropped_value_is_zero_even_if_it_was_infinite():
    context = BlockContext(dropout_uniforms=lambda number, width: torch.zeros(1, 1, width))
    assert KeyedDropout(0.5, context, 0, num_slots=1)(torch.tensor([[float("inf")]])).item() == 0.0


def test_rate_zero_asks_for_nothing_and_missing_uniforms_are_our_bug():
    x = torch.ones(2, 3)
    assert KeyedDropout(0.0, BlockContext(), 0, num_slots=1)(x) is x
    with pytest.raises(AssertionError, match="uniforms"):
        KeyedDropout(0.1, BlockContext(), 0, num_slots=1)(x)
