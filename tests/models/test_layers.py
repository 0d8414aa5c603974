"""Convolution and linear layer of T slots, against torch's own slot by slot and against numbers worked out by hand."""

import pytest
import torch
import torch.nn.functional as F

from widestep.models.block import BlockContext
from widestep.models.layers import StackedConv2d, StackedLinear, slot_view


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_convolution_slot_by_slot():
    layer = StackedConv2d(2, 4, 3, 2, 1, num_slots=3, context=BlockContext(), bias=True).double()
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
    layer = StackedLinear(2, 2, 2, BlockContext())
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2], [-1, -2], [3, 4], [-3, -4]]))
        layer.bias.copy_(torch.tensor([10.0, 0, 20, 0]))
    assert layer(torch.tensor([[1.0, 2, 3, 4]])).tolist() == [[[15.0, -5.0], [45.0, -25.0]]]


def test_slot_views_share_memory_whatever_the_dimension():
    tensor = torch.arange(6.0)
    slot_view(tensor, 1, 3).fill_(9.0)
    assert tensor.tolist() == [0, 1, 9, 9, 4, 5]
    scalar = torch.tensor(1.0, requires_grad=True)
    slot_view(scalar, 0, 1).fill_(7.0)
    assert scalar.item() == 7.0


@pytest.mark.parametrize(("num_slots", "num_workers", "bias"), [(1, 3, True), (2, 2, False), (2, 3, True)])
def test_every_workers_gradient_of_a_convolution_is_that_of_its_own_images(num_slots, num_workers, bias):  # W8
    context = BlockContext()
    layer = StackedConv2d(2, 3, 3, 1, 1, num_slots=num_slots, context=context, bias=bias).double()
    for seed, parameter in enumerate(layer.parameters()):
        parameter.detach().copy_(drawn(*parameter.shape, seed=seed))
    x, weights = drawn(4 * num_workers, 2 * num_slots, 5, 4, seed=5), drawn(4 * num_workers, 3 * num_slots, 5, 4, seed=6)
    context.begin(num_workers, per_worker=True)
    together = layer(x)
    torch.testing.assert_close(together, alone(layer, x), rtol=1e-13, atol=1e-13)
    found = torch.autograd.grad((together * weights).sum(), context.worker_leaves(layer.parameters()))
    for worker in range(num_workers):
        own = slice(worker, None, num_workers)
        expected = torch.autograd.grad((alone(layer, x[own]) * weights[own]).sum(), list(layer.parameters()))
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.shape == (num_workers, *theirs.shape)
            torch.testing.assert_close(ours[worker], theirs, rtol=1e-13, atol=1e-13)


def alone(layer, x):
    return F.conv2d(x, layer.weight, layer.bias, padding=1, groups=layer.num_slots)


def test_every_workers_gradient_of_a_linear_layer_by_hand():
    """One feature, one output, T = 1, loss = sum of logits: a worker's gradient is the sum of its features; bias: its n."""
    context = BlockContext()
    layer = StackedLinear(1, 1, 1, context)
    context.begin(2, per_worker=True)
    loss = layer(torch.tensor([[1.0], [10.0], [2.0], [20.0], [4.0], [40.0]])).sum()
    weight, bias = torch.autograd.grad(loss, context.worker_leaves(layer.parameters()))
    assert weight.tolist() == [[[7.0]], [[70.0]]]
    assert bias.tolist() == [[3.0], [3.0]]


def test_evaluation_knows_no_workers():
    """The context still speaks of the last training pass, and five images are not a multiple of its two workers."""
    context = BlockContext()
    layers = [StackedConv2d(1, 1, 1, 1, 0, num_slots=1, context=context, bias=True), StackedLinear(1, 2, 1, context)]
    context.begin(2, per_worker=True)
    for layer, x in zip(layers, (torch.ones(5, 1, 2, 2), torch.ones(5, 1)), strict=True):
        layer.weight.detach().fill_(3.0)
        assert (layer.eval()(x) == 3.0).all()


def test_without_copies_the_layers_use_their_parameters_and_a_lone_worker_needs_none():
    context = BlockContext()
    layer = StackedLinear(1, 1, 1, context)
    context.begin(1, per_worker=True)
    assert context.weight(layer.weight) is layer.weight
    assert context.worker_leaves(layer.parameters()) == [layer.weight, layer.bias]
    context.begin(2)
    assert context.weight(layer.weight) is layer.weight
    with pytest.raises(AssertionError, match="per_worker"):
        context.worker_leaves(layer.parameters())
