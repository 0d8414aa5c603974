"""Initial weights: their distributions, and that only the key decides them."""

import math

import pytest
import torch

from widestep.models.build import build_model
from widestep.models.initialise import initialise


def state_of(model, slot):
    return {**model.slot_parameters(slot), **model.slot_statistics(slot)}


@pytest.mark.parametrize("name", ["digits-resnet", "cifar-resnet20"])
def test_neither_stack_nor_slot_nor_type_decides(name):
    single = build_model(name, num_classes=10, image_shape=(3, 8, 8))
    single.initialise(0, 3)
    stacked = build_model(name, num_classes=10, image_shape=(3, 8, 8), num_slots=4)
    for slot, seed in ((2, 3), (0, 1), (3, 3)):
        stacked.initialise(slot, seed)
    double = build_model(name, num_classes=10, image_shape=(3, 8, 8), num_slots=2).double()
    double.initialise(1, 3)
    expected = state_of(single, 0)
    for slot in (2, 3):
        assert all(torch.equal(expected[key], view) for key, view in state_of(stacked, slot).items())
    assert all(torch.equal(expected[key], view.float()) for key, view in state_of(double, 1).items())
    assert not torch.equal(expected["conv1.weight"], stacked.slot_parameters(0)["conv1.weight"])
    assert not stacked.slot_parameters(1)["conv1.weight"].any()


def test_draws_follow_the_module_order():
    """The first draws are the first convolution's, N(0, 2 / (8*9)); the last ones the classifier's bias."""
    model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=2)
    model.initialise(1, 0)
    generator = torch.Generator().manual_seed(0)
    for name, view in model.slot_parameters(1).items():
        if view.dim() == 4:
            fan_out = view.shape[0] * view.shape[2] * view.shape[3]
            drawn = torch.randn(view.shape, generator=generator) * math.sqrt(2 / fan_out)
        elif name.startswith("fc"):
            drawn = (2 * torch.rand(view.shape, generator=generator) - 1) / math.sqrt(16)
        else:
            continue
        torch.testing.assert_close(view, drawn, rtol=1e-5, atol=1e-6)


def test_spread_of_large_tensors():
    """Standard error of a standard deviation from n normal draws is sigma / sqrt(2n): 0.05 % at n = 2.4 million."""
    model = build_model("resnet18", num_classes=1000, image_shape=(3, 64, 64))
    model.initialise(0, 0)
    parameters = model.slot_parameters(0)
    conv = parameters["layer4.1.conv2.weight"]
    assert conv.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.003)
    assert abs(conv.mean().item()) < 5 * math.sqrt(2 / (512 * 9) / conv.numel())
    for leaf in ("weight", "bias"):
        fc, bound = parameters[f"fc.{leaf}"], 1 / math.sqrt(512)
        assert fc.abs().max().item() <= bound
        assert fc.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06)


def test_batch_norm_starts_as_the_identity_even_on_used_slots():
    model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=2)
    for view in state_of(model, 1).values():
        view.fill_(7.0)
    model.initialise(1, 0)
    for norm in model.batch_norms():
        for tensor, value in ((norm.weight, 1), (norm.bias, 0), (norm.running_mean, 0), (norm.running_var, 1)):
            assert torch.equal(tensor.detach().chunk(2)[1], torch.full((tensor.numel() // 2,), float(value)))


def test_a_given_spread_of_the_classifier():
    """All else stays as without it; 0.01 is that of Goyal et al. 2017. Standard error of 5,120 draws: 1 %."""
    model = build_model("cifar-resnet20", num_classes=80, image_shape=(1, 8, 8), num_slots=2)
    model.initialise(0, 4)
    model.initialise(1, 5)
    model.initialise(1, 4, classifier_std=0.01)
    plain, changed = model.slot_parameters(0), model.slot_parameters(1)
    assert [key for key in plain if not torch.equal(plain[key], changed[key])] == ["fc.weight", "fc.bias"]
    assert not changed["fc.bias"].any()
    assert changed["fc.weight"].std().item() == pytest.approx(0.01, rel=0.05)
    assert changed["fc.weight"].abs().max().item() > 0.03  # not uniform


@pytest.mark.parametrize("key", [0, 2**63, 2**64 - 1])
def test_every_key_of_64_bits_is_one(key):
    model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8))
    model.initialise(0, key)
    assert model.slot_parameters(0)["conv1.weight"].any()


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("digits-resnet", ["layer1.0.bn2", "layer2.0.bn2"]),
        ("resnet50", [f"layer{i}.{j}.bn3" for i, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for j in range(n)]),
    ],
)
def test_zero_gamma(name, last):  # B6
    model = build_model(name, num_classes=10, image_shape=(1, 32, 32), num_slots=2)
    model.initialise(0, 0)
    model.initialise(1, 0, zero_gamma=True)
    plain, zeroed = model.slot_parameters(0), model.slot_parameters(1)
    changed = [key for key in plain if not torch.equal(plain[key], zeroed[key])]
    assert changed == [f"{path}.weight" for path in last]
    assert all(not zeroed[key].any() for key in changed)


def test_the_same_generator_moves_on():
    model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=2)
    generator = torch.Generator().manual_seed(0)
    initialise(model, 0, generator)
    initialise(model, 1, generator)
    weights = [model.slot_parameters(slot)["conv1.weight"] for slot in (0, 1)]
    assert not torch.equal(*weights)
