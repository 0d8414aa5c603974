"""What every model keeps to: shapes, roles, public names, and slots that know nothing of one another."""

import numpy as np
import pytest
import torch

from widestep.models.build import MODEL_NAMES, build_model
from widestep.models.stacked import parameter_roles

CLASSES = 3

OWN = """
from torch import nn

class Plain(nn.Sequential):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(image_shape[0], 6, 3, bias=False), nn.BatchNorm2d(6)
        self.pool, self.flat, self.drop = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3)
        self.fc = nn.Linear(24, num_classes)
"""


def built(name, num_slots):
    side = 32 if name.startswith("resnet") else 8
    channels = 1 if name == "digits-resnet" else 3
    model = build_model(name, num_classes=CLASSES, image_shape=(channels, side, side), num_slots=num_slots)
    for slot in range(num_slots):
        model.initialise(slot, slot)
    return model.eval(), torch.rand((2, num_slots * channels, side, side), generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module", params=[*MODEL_NAMES, "own"])
def single(request, tmp_path_factory):
    if request.param != "own":
        return built(request.param, 1)
    file = tmp_path_factory.mktemp("own") / "plain.py"
    file.write_text(OWN)
    return built(f"{file}:Plain", 1)


SMALL = [name for name in MODEL_NAMES if not name.startswith("resnet")]


def test_there_are_models():
    assert len(SMALL) == 7
    assert len(MODEL_NAMES) == 12


def test_images_become_logits(single):
    model, images = single
    with torch.inference_mode():
        logits = model(images)
    assert logits.shape == (2, 1, CLASSES)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


def test_initial_weights_are_functions_of_the_key(single):
    model, images = single
    found = []
    for key in (3, 4, 3):
        model.initialise(0, key)
        with torch.inference_mode():
            found.append(model(images))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_a_training_pass_gives_every_parameter_a_gradient_and_measures_every_normalisation(single):
    model, images = single
    model.train()
    try:
        model.context.begin(2, lambda draw: np.array([[draw], [draw + 100]], dtype=np.uint64))
        loss = model(images.repeat(2, 1, 1, 1)).square().sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        measured = model.context.batch_statistics()
    finally:
        model.eval()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert model.trained_names() == list(model.slot_parameters(0))
    assert [found.mean.shape for found in measured] == [(2, norm.num_channels) for norm in model.batch_norms()]
    assert all(found.variance.shape == found.mean.shape and found.num_values > 1 for found in measured)


def test_every_parameter_has_a_role(single):
    model, _ = single
    roles = parameter_roles(model)
    shapes = {name: view.shape for name, view in model.slot_parameters(0).items()}
    assert roles.keys() == shapes.keys() == dict(model.network.named_parameters()).keys()
    assert {name for name, role in roles.items() if role == "weight"} == {n for n, shape in shapes.items() if len(shape) > 1}
    assert [name for name, role in roles.items() if role == "bias"] == ["fc.bias"]
    assert shapes["fc.bias"] == (CLASSES,)
    assert shapes["fc.weight"][0] == CLASSES


def test_every_normalisation_has_running_statistics(single):
    model, _ = single
    statistics = model.slot_statistics(0)
    norms = model.batch_norms()
    assert len(statistics) == 2 * len(norms) > 0
    assert sorted(name.rpartition(".")[2] for name in statistics) == ["running_mean"] * len(norms) + ["running_var"] * len(
        norms
    )
    assert len({name for name, role in parameter_roles(model).items() if role == "batchnorm"}) == 2 * len(norms)


def test_names_are_those_of_a_plain_network(single):
    model, _ = single
    names = [*model.slot_parameters(0), *model.slot_statistics(0)]
    assert {name.split(".")[0] for name in names} <= {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
    assert not any(name.startswith("module.") for name in names)


@pytest.mark.parametrize("name", SMALL)
def test_slots_know_nothing_of_one_another(name):
    model, images = built(name, 3)
    channels = images.shape[1] // 3
    with torch.inference_mode():
        before = model(images)
        assert before.shape == (2, 3, CLASSES)
        for view in model.slot_parameters(1).values():
            view.mul_(1.5)
        images[:, channels : 2 * channels] += 1
        after = model(images)
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize("name", SMALL)
def test_a_slot_is_the_plain_network(name):
    stacked, images = built(name, 3)
    plain, _ = built(name, 1)
    channels = images.shape[1] // 3
    for key, view in stacked.slot_parameters(2).items():
        plain.slot_parameters(0)[key].copy_(view)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images[:, 2 * channels :])[:, 0], stacked(images)[:, 2], rtol=1e-4, atol=1e-5)
