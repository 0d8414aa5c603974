"""Training steps of the real networks against what people would use instead: images a second and memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.contest import Turn, contest, ranking
from benchmarks.drawn import NUM_CLASSES, drawn_source
from benchmarks.peers import How, step_of
from benchmarks.roofline import bytes_an_image, device_rates, flop_an_image
from benchmarks.spread import Row
from benchmarks.trainer import Trainer
from benchmarks.wanted import Wanted
from widestep.plan.grid import WorkerGrid
from widestep.plan.recipe import Recipe
from widestep.workers.launched import detect
from widestep.workers.world import World

Case = dict[str, Any]

ON_CPU: tuple[Case, ...] = (
    {"model": "resnet50", "image": (3, 224, 224), "images": 16, "steps": 1, "rounds": 5, "augment": "none"},
    {"model": "cifar-resnet20", "image": (3, 32, 32), "images": 64, "steps": 2, "rounds": 11, "augment": "none"},
    {"model": "cifar-resnet56", "image": (3, 32, 32), "images": 64, "steps": 1, "rounds": 7, "augment": "none"},
)
ON_GPU: tuple[Case, ...] = (
    {"model": "resnet50", "image": (3, 224, 224), "images": 128, "steps": 10, "rounds": 5, "augment": "none", "within": 135},
    {
        "model": "cifar-resnet20",
        "image": (3, 32, 32),
        "images": 2048,
        "steps": 10,
        "rounds": 5,
        "augment": "shift-flip",
        "within": 70,
    },
)
QUICK: tuple[Case, ...] = (
    {
        "model": "cifar-resnet20",
        "image": (3, 8, 8),
        "images": 8,
        "steps": 1,
        "rounds": 2,
        "augment": "shift-flip",
        "within": 150,
    },
)
QUICK_GPU: tuple[Case, ...] = (
    {"model": "resnet18", "image": (3, 32, 32), "images": 4, "steps": 1, "rounds": 2, "augment": "none", "within": 200},
    *QUICK,
)

_BF16 = {"precision": "bf16", "memory_format": "channels_last"}
_EVERYWHERE: dict[str, Case] = {
    "plain": {"precision": "fp32", "memory_format": "contiguous"},
    "plain bf16": _BF16,
    "widestep": {"precision": "fp32", "memory_format": "auto"},
    "widestep contiguous": {"precision": "fp32", "memory_format": "contiguous"},
    "widestep bf16": _BF16,
}
_PHOTOGRAPHS: dict[str, Case] = {
    "torchvision": {"precision": "fp32", "memory_format": "contiguous"},
    "timm": {"precision": "fp32", "memory_format": "contiguous"},
    "timm bf16": _BF16,
}
_COMPILED: dict[str, Case] = {
    "plain bf16 compiled": {**_BF16, "compile": "default"},
    "widestep bf16 compiled": {**_BF16, "compile": "default"},
}
_GPU: dict[str, Case] = {
    "plain tf32": {"precision": "tf32", "memory_format": "contiguous"},
    "plain bf16": _BF16,
    "widestep tf32": {"precision": "tf32", "memory_format": "auto"},
    "widestep bf16 contiguous": {"precision": "bf16", "memory_format": "contiguous"},
    "widestep bf16": _BF16,
    "widestep bf16 fast": {**_BF16, "mode": "fast"},
    "widestep bf16 fast compiled": {**_BF16, "mode": "fast", "compile": "default"},
    "widestep bf16 reduce-overhead": {**_BF16, "compile": "reduce-overhead"},
    **_COMPILED,
}
_GPU_PHOTOGRAPHS: dict[str, Case] = {
    "torchvision bf16": _BF16,
    "torchvision bf16 compiled": {**_BF16, "compile": "default"},
    "timm bf16": _BF16,
    "timm bf16 compiled": {**_BF16, "compile": "default"},
}
AGAINST = {
    "plain bf16": ["plain"],
    "plain bf16 compiled": ["plain bf16"],
    "torchvision": ["plain"],
    "torchvision bf16": ["plain bf16"],
    "torchvision bf16 compiled": ["plain bf16 compiled"],
    "timm": ["plain"],
    "timm bf16": ["plain bf16"],
    "timm bf16 compiled": ["plain bf16 compiled"],
    "widestep": ["plain", "torchvision", "timm"],
    "widestep contiguous": ["plain"],
    "widestep tf32": ["plain tf32"],
    "widestep bf16 contiguous": ["plain bf16"],
    "widestep bf16": ["plain bf16", "torchvision bf16", "timm bf16"],
    "widestep bf16 fast": ["plain bf16"],
    "widestep bf16 fast compiled": ["plain bf16 compiled"],
    "widestep bf16 compiled": ["plain bf16 compiled", "torchvision bf16 compiled", "timm bf16 compiled"],
    "widestep bf16 reduce-overhead": ["plain bf16 compiled", "torchvision bf16 compiled", "timm bf16 compiled"],
}
"""With whom: the same arithmetic and layout, or what a setting of a peer is worth."""


def run(wanted: Wanted) -> list[Row]:
    """Let everybody train the same networks on the same images, in float32 and bfloat16."""
    quick, full = (QUICK_GPU, ON_GPU) if wanted.gpu else (QUICK, ON_CPU)
    rates = device_rates(wanted)
    return [_row(case, wanted) | {"rates": rates} for case in wanted.cases(quick if wanted.quick else full)]


def _row(case: Case, wanted: Wanted) -> Row:
    shared, contenders = {**case, "device": wanted.device}, _contenders(case, wanted)
    settings = {name: {"who": name.split()[0], **shared, **how} for name, how in contenders.items()}
    shared["flop_an_image"] = flop_an_image(case["model"], case["image"])
    shared["bytes_an_image"] = bytes_an_image(case["model"], case["image"])
    within = case.get("within", 3600)
    # Compiling takes long, and a machine with a GPU has many cores.
    outcomes = contest(__name__, settings, case["rounds"], within=within, warming=6 if wanted.gpu else 1 + wanted.quick)
    return ranking(shared, outcomes, case["images"] * case["steps"], AGAINST)


def _contenders(case: Case, wanted: Wanted) -> dict[str, Case]:
    photographs = case["model"].startswith("resnet")
    if wanted.gpu:
        return _GPU | (_GPU_PHOTOGRAPHS if photographs else {})
    if wanted.quick:
        return {name: _EVERYWHERE[name] for name in ("plain bf16", "widestep bf16")}
    return _EVERYWHERE | (_PHOTOGRAPHS if photographs else _COMPILED)


def enter(settings: Case) -> Turn:
    """Prepare a contender; a turn is some steps."""
    torch.set_num_threads(settings.get("threads", 1))
    steps = settings["steps"]
    take = _of_widestep(settings) if settings["who"] == "widestep" else _of_a_peer(settings)

    def turn() -> None:
        take(steps)

    return turn


def _of_a_peer(settings: Case) -> Callable[[int], None]:
    how = How(settings)
    source = drawn_source(tuple(settings["image"]), settings["images"])
    images = how.images(source.evaluation_images(np.arange(settings["images"])).result())
    labels = source.labels.to(how.device)
    step = step_of(settings["who"], settings["model"], NUM_CLASSES, settings["image"][0], how)

    def take(num_steps: int) -> None:
        for _ in range(num_steps):
            step(images, labels)
        if how.device.type == "cuda":
            torch.cuda.synchronize()

    return take


def _of_widestep(settings: Case) -> Callable[[int], None]:
    device = torch.device(settings["device"])
    source = drawn_source(tuple(settings["image"]), settings["images"], device, settings["augment"])
    recipe = Recipe(
        model=settings["model"],
        grid=WorkerGrid(1, 1, settings["images"]),
        base_lr=0.01,
        augment=settings["augment"],
        epochs="100000ep",
        precision="bf16" if settings["precision"] == "bf16" else "fp32",
        tf32=settings["precision"] == "tf32",
        memory_format=settings["memory_format"],
        compile=settings.get("compile", "none"),
        mode=settings.get("mode", "reproducible"),
    )
    return Trainer(recipe, source, World(detect()), device).steps
