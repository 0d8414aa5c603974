"""Whole networks against an independent implementation: plain functions over a dictionary of parameters."""

import pytest
import torch
import torch.nn.functional as F

from widestep.models.build import build_model


def normalised(x, parameters, path):
    """Batch normalisation written out: biased variance over images and pixels."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    weight, bias = parameters[f"{path}.weight"], parameters[f"{path}.bias"]
    return (x - mean) / (variance + 1e-5).sqrt() * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def shortcut_of(x, parameters, path, stride, channels):
    if f"{path}.downsample.0.weight" in parameters:
        x = F.conv2d(x, parameters[f"{path}.downsample.0.weight"], stride=stride)
        return normalised(x, parameters, f"{path}.downsample.1")
    wide = torch.zeros(x.shape[0], channels, (x.shape[2] + stride - 1) // stride, (x.shape[3] + stride - 1) // stride).to(x)
    wide[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
    return wide


def residual_network(parameters, x, num_blocks, bottleneck=False, imagenet_stem=False, stem_stride=1, first_stride=1):
    """Logits in training mode of the residual network of He et al. 2016 with the given blocks a stage."""
    if imagenet_stem:
        x = normalised(F.conv2d(x, parameters["conv1.weight"], stride=2, padding=3), parameters, "bn1")
        x = F.max_pool2d(torch.relu(x), kernel_size=3, stride=2, padding=1)
    else:
        weight = parameters["conv1.weight"]
        x = torch.relu(normalised(F.conv2d(x, weight, stride=stem_stride, padding=weight.shape[2] // 2), parameters, "bn1"))
    for stage, count in enumerate(num_blocks):
        for block in range(count):
            path, stride = f"layer{stage + 1}.{block}", (2 if stage > 0 else first_stride) if block == 0 else 1
            kernels = (1, 3, 1) if bottleneck else (3, 3)
            strides = (1, stride, 1) if bottleneck else (stride, 1)
            y = x
            for number, (kernel, step) in enumerate(zip(kernels, strides), start=1):
                y = F.conv2d(y, parameters[f"{path}.conv{number}.weight"], stride=step, padding=kernel // 2)
                y = normalised(y, parameters, f"{path}.bn{number}")
                y = torch.relu(y) if number < len(kernels) else y
            x = torch.relu(y + shortcut_of(x, parameters, path, stride, y.shape[1]))
    return x.mean((2, 3)) @ parameters["fc.weight"].T + parameters["fc.bias"]


FORMS = {
    "digits-resnet": {"num_blocks": (1, 1)},
    "cifar-resnet6": {"num_blocks": (1, 1), "stem_stride": 2, "first_stride": 2},
    "cifar-resnet14x2": {"num_blocks": (2, 2, 2)},
    "cifar-resnet20": {"num_blocks": (3, 3, 3)},
    "tiny-bottleneck": {"num_blocks": (1, 2), "bottleneck": True, "imagenet_stem": True},
}


@pytest.mark.parametrize("name", FORMS)
def test_workers_and_slots_against_the_reference(name, made, images_for):
    """T = 2, k = 3 in one pass; the reference sees one worker of one slot at a time. Logits and gradients, float64."""
    num_workers, num_images = 3, 12
    model = made(name, seeds=(8, 9))
    images = [images_for(name, num_images, seed=slot) for slot in range(2)]
    weights = torch.linspace(-1, 1, num_images * 10, dtype=torch.float64).view(num_images, 2, 5)
    model.context.begin(num_workers)
    logits = model(torch.cat(images, dim=1))
    (logits * weights).sum().backward()
    for slot in range(2):
        leaves = {key: view.clone().requires_grad_() for key, view in model.slot_parameters(slot).items()}
        for worker in range(num_workers):
            own = slice(worker, None, num_workers)
            expected = residual_network(leaves, images[slot][own], **FORMS[name])
            torch.testing.assert_close(logits[own, slot], expected, rtol=1e-11, atol=1e-12)
            (expected * weights[own, slot]).sum().backward()
        for key, leaf in leaves.items():
            grad = model.get_parameter(key).grad.chunk(2)[slot]
            torch.testing.assert_close(grad, leaf.grad, rtol=1e-10, atol=1e-11)


def test_resnet50_on_small_images():
    model = build_model("resnet50", num_classes=10, image_shape=(3, 64, 64))
    model.initialise(0, 0)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    logits = model(images)
    assert logits.shape == (2, 1, 10)
    expected = residual_network(
        model.slot_parameters(0), images, num_blocks=(3, 4, 6, 3), bottleneck=True, imagenet_stem=True
    )
    torch.testing.assert_close(logits[:, 0].detach(), expected, rtol=1e-3, atol=1e-3)
    logits.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() and parameter.grad.any() for parameter in model.parameters())
