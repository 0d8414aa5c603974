"""Dropout: masks worked out from the generators of given keys, the limits of the rate, whole channels, torch's layers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from widestep.errors import UsageError
from widestep.models.block import BlockContext
from widestep.models.dropout import KeyedDropout


def uniforms(key: int, *shape: int) -> torch.Tensor:
    """What a generator with this seed gives first."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(key))


def test_every_group_and_slot_has_the_mask_of_its_key():  # D4
    """k = 3 groups, T = 2 slots, 2 images each, 4 features: image i of group j is at 3 i + j."""
    context = BlockContext()
    layer = KeyedDropout(0.25, context, num_slots=2)
    keys = np.array([[5, 6], [7, 8], [2**63 + 9, 10]], dtype=np.uint64)
    context.begin(3, lambda draw: keys)
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.sum(), [x])
    for group in range(3):
        for slot in range(2):
            factor = (uniforms(int(keys[group, slot]), 2, 4) >= 0.25) / 0.75
            own, features = slice(group, None, 3), slice(4 * slot, 4 * slot + 4)
            torch.testing.assert_close(y[own, features], x[own, features] * factor)
            torch.testing.assert_close(gradient[own, features], factor)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.floats(0.01, 0.99))
def test_groups_together_are_groups_alone(num_groups, num_slots, num_each, rate):  # W8
    context = BlockContext()
    layer = KeyedDropout(rate, context, num_slots)
    x = torch.ones(num_groups * num_each, 5 * num_slots, 2)
    keys = np.arange(num_groups * num_slots, dtype=np.uint64).reshape(num_groups, num_slots)
    context.begin(num_groups, lambda draw: keys)
    together = layer(x)
    for group in range(num_groups):
        context.begin(1, lambda draw, group=group: keys[group : group + 1])
        assert torch.equal(together[group::num_groups], layer(x[group::num_groups]))


def test_the_share_that_is_dropped_is_the_rate():
    """Standard error of a share of 1e6 draws is at most 0.0005; the mean stays."""
    context = BlockContext()
    layer = KeyedDropout(0.3, context)
    context.begin(1, lambda draw: np.array([[3]], dtype=np.uint64))
    y = layer(torch.ones(1000, 1000))
    assert (y == 0).double().mean().item() == pytest.approx(0.3, abs=0.003)
    assert y.double().mean().item() == pytest.approx(1, abs=0.005)


def test_every_layer_and_every_further_use_has_a_number_of_its_own():
    context = BlockContext()
    first, second = KeyedDropout(0.5, context), KeyedDropout(0.5, context)
    asked = []

    def keys(draw: int) -> np.ndarray:
        asked.append(draw)
        return np.array([[draw]], dtype=np.uint64)

    for _ in range(2):
        context.begin(1, keys)
        for layer in (second, first, second, second, first):
            layer(torch.ones(1, 2))
    assert asked == [1, 0, 3, 5, 2] * 2


def test_a_dropped_value_is_zero_even_if_it_was_infinite():
    context = BlockContext()
    layer = KeyedDropout(0.999, context)
    context.begin(1, lambda draw: np.array([[0]], dtype=np.uint64))
    assert uniforms(0, 1).item() < 0.999
    assert layer(torch.tensor([[float("inf")]])).item() == 0.0


def test_rate_one_drops_everything_and_its_gradients_are_zero():
    context = BlockContext()
    layer = KeyedDropout(1.0, context)
    context.begin(1, lambda draw: np.array([[0]], dtype=np.uint64))
    x = torch.ones(2, 3, requires_grad=True)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.sum(), [x])
    assert not y.any()
    assert not gradient.any()


def test_rate_zero_asks_for_nothing_and_missing_keys_are_our_bug():
    x = torch.ones(2, 3)
    assert KeyedDropout(0.0, BlockContext())(x) is x
    assert KeyedDropout(0.5, BlockContext()).eval()(x) is x
    with pytest.raises(AssertionError, match="keys"):
        KeyedDropout(0.1, BlockContext())(x)


def adopted(layer: nn.Module, num_groups: int = 1) -> nn.Module:
    context = BlockContext()
    KeyedDropout.adopt(layer, context)
    keys = np.arange(num_groups, dtype=np.uint64)[:, None]
    context.begin(num_groups, lambda draw: keys)
    return layer


CHANNELS = [(nn.Dropout1d, (6, 4, 5)), (nn.Dropout2d, (6, 4, 3, 2)), (nn.Dropout3d, (6, 4, 2, 2, 2))]


@pytest.mark.parametrize(("kind", "shape"), CHANNELS)
def test_whole_channels(kind, shape):
    y = adopted(kind(0.5), num_groups=2)(torch.ones(shape))
    expected = torch.empty(6, 4)
    for group in range(2):
        expected[group::2] = (uniforms(group, 3, 4) >= 0.5) * 2.0
    assert torch.equal(y, expected.view(6, 4, *[1] * (len(shape) - 2)).expand(shape))


@pytest.mark.parametrize(("kind", "shape"), CHANNELS)
def test_whole_channels_need_their_dimensions(kind, shape):
    """Torch would take some of these for a single image, or for another layer's."""
    for other in (shape[:-1], (*shape, 1)):
        with pytest.raises(UsageError, match=r"activations of \d dimensions"):
            adopted(kind(0.5))(torch.ones(other))


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 2), (2, 3, 4, 5, 6)])
def test_torchs_dropout_is_adopted_for_any_shape(shape):
    layer = nn.Dropout(0.4)
    holder = nn.Sequential(layer)
    y = adopted(layer)(torch.ones(shape))
    torch.testing.assert_close(y, (uniforms(0, *shape) >= 0.4) / 0.6)
    assert isinstance(holder[0], KeyedDropout)
    assert not holder.eval()[0].training


def test_in_place_stays_in_place():
    x = torch.ones(100)
    layer = adopted(nn.Dropout(0.5, inplace=True))
    assert layer(x) is x
    assert set(x.tolist()) == {0.0, 2.0}
    leaf = torch.ones(100, requires_grad=True)
    y = leaf * 1
    layer(y)
    (gradient,) = torch.autograd.grad(y.sum(), [leaf])
    assert set(gradient.tolist()) == {0.0, 2.0}


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    adopted(nn.Dropout(0.5))(torch.ones(100))
    assert torch.equal(torch.get_rng_state(), before)
