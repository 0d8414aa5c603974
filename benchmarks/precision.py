"""bfloat16 autocast against float32, forward and backward: seconds, and how far the gradients part."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.drawn import NUM_CLASSES, DrawnImages
from benchmarks.jobs import start
from benchmarks.spread import Row
from benchmarks.timing import alternating, compared
from benchmarks.wanted import Wanted
from widestep.models.build import build_model
from widestep.workers.blocks import Block, ForwardPass
from widestep.workers.world import World

CASES = (
    {"model": "digits-resnet", "image": (1, 8, 8), "images": 320, "zero_gamma": False, "rounds": 21},
    {"model": "cifar-resnet20", "image": (3, 32, 32), "images": 128, "zero_gamma": False, "rounds": 9},
    {"model": "resnet50", "image": (3, 224, 224), "images": 8, "zero_gamma": False, "rounds": 5},
    {"model": "resnet50", "image": (3, 224, 224), "images": 8, "zero_gamma": True, "rounds": 3},
)


def run(wanted: Wanted) -> list[Row]:
    """Measure on one process of one thread."""
    cases = [{**CASES[0], "images": 32, "rounds": 3}] if wanted.quick else CASES
    rows: list[Row] = start(__name__, 1, {"cases": cases})
    return rows


def measure(world: World, settings: dict[str, Any]) -> list[Row]:
    """Compare in every case."""
    return [_compared(world, case) for case in settings["cases"]]


def _compared(world: World, case: dict[str, Any]) -> Row:
    source = DrawnImages(tuple(case["image"]), case["images"])
    model = build_model(case["model"], num_classes=NUM_CLASSES, image_shape=source.facts.image_shape)
    model.initialise(0, 1, case["zero_gamma"])
    images = source.evaluation_images(source.split(0).train).result()
    found: dict[str, list[Tensor]] = {}

    def differentiate(name: str, precision: str, images: Tensor) -> None:
        block = Block(images, source.labels[:, None], range(1))
        losses = ForwardPass(model, label_smoothing=0.0, precision=precision).losses(block)
        found[name] = list(torch.autograd.grad(losses.mean(), list(model.parameters())))

    actions = {name: lambda name=name: differentiate(name, name, images) for name in ("fp32", "bf16")}
    seconds = alternating(actions, case["rounds"], world)
    differentiate("images", "fp32", images.bfloat16().float())  # how much the network makes of the smallest change
    return compared(
        {name: case[name] for name in ("model", "image", "images", "zero_gamma")},
        seconds,
        gradient_difference={
            "whole": _difference(*map(_flat, (found["bf16"], found["fp32"]))),
            "largest_of_a_tensor": max(map(_difference, found["bf16"], found["fp32"])),
            "images_rounded": _difference(*map(_flat, (found["images"], found["fp32"]))),
        },
    )


def _flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over that of the expected; 0 where both are 0."""
    apart = (found.double() - expected.double()).norm()
    return float(apart / expected.double().norm()) if apart > 0 else 0.0
