"""W virtual workers of b images on one process against plain accumulation of gradients over the same images."""

from typing import Any

import torch
from torch import nn

from benchmarks.contest import Turn, contest, ranking
from benchmarks.drawn import NUM_CLASSES, DrawnImages
from benchmarks.peers import How
from benchmarks.plain_model import PlainResNet
from benchmarks.spread import Row
from benchmarks.trainer import Trainer
from benchmarks.wanted import Wanted
from widestep.plan.grid import WorkerGrid
from widestep.plan.recipe import Recipe
from widestep.workers.launched import detect
from widestep.workers.world import World

Case = dict[str, Any]
_DIGITS: Case = {"model": "digits-resnet", "image": (1, 8, 8), "precision": "fp32"}
_CIFAR: Case = {"model": "cifar-resnet20", "image": (3, 32, 32), "precision": "fp32"}

ON_CPU: tuple[Case, ...] = (
    {**_CIFAR, "workers": 1, "images": 128, "rounds": 7},
    {**_CIFAR, "workers": 15, "images": 128, "rounds": 5},
    {**_CIFAR, "workers": 240, "images": 32, "rounds": 3},
    {"model": "resnet18", "image": (3, 64, 64), "precision": "fp32", "workers": 15, "images": 64, "rounds": 3},
    *({**_DIGITS, "workers": workers, "images": 128, "rounds": 9} for workers in (1, 240)),
)
"""Of the CIFAR network, 240 workers have 32 images each instead of 128: a step of all would take minutes."""
ON_GPU: tuple[Case, ...] = (
    {**_CIFAR, "precision": "bf16", "workers": 240, "images": 128, "rounds": 3, "within": 28},
    {**_CIFAR, "workers": 240, "images": 128, "rounds": 3, "within": 28},
)
QUICK: Case = {**_DIGITS, "workers": 5, "images": 4, "rounds": 2}


def run(wanted: Wanted) -> list[Row]:
    """Compare in every case, each way in a process of its own."""
    cases = wanted.cases((QUICK,) if wanted.quick else ON_GPU if wanted.gpu else ON_CPU)
    return [_row(case | {"device": wanted.device, "memory_format": "contiguous"}) for case in cases]


def _row(case: Case) -> Row:
    contenders = {who: {"who": who, **case} for who in ("plain", "widestep")}
    outcomes = contest(__name__, contenders, case["rounds"], within=case.get("within", 3600), warming=2)
    return ranking(case, outcomes, case["workers"] * case["images"], {"widestep": ["plain"]})


def enter(settings: Case) -> Turn:
    """Prepare a contender; a turn is one step of all workers."""
    torch.set_num_threads(1)
    device = torch.device(settings["device"])
    source = DrawnImages(tuple(settings["image"]), settings.get("drawn", settings["workers"] * settings["images"]), device)
    return _of_widestep(settings, source, device) if settings["who"] == "widestep" else _of_plain(settings, source)


def _of_plain(settings: Case, source: DrawnImages) -> Turn:
    how = How(settings)
    network = PlainResNet(settings["model"], NUM_CLASSES, settings["image"][0]).to(how.device).train()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-5)
    labels, each, workers = source.labels.to(how.device), settings["images"], settings["workers"]

    def turn() -> None:
        for start in range(0, workers * each, each):
            images = slice(start, start + each)
            with how.arithmetic():
                loss = criterion(network(source.images[images]), labels[images]) / workers
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        _ = loss.item()

    return turn


def _of_widestep(settings: Case, source: DrawnImages, device: torch.device) -> Turn:
    recipe = Recipe(
        model=settings["model"],
        grid=WorkerGrid(1, settings["workers"], settings["images"]),
        base_lr=0.01 / settings["workers"],
        epochs="100000ep",
        precision=settings["precision"],
        memory_format=settings["memory_format"],
    )
    trainer = Trainer(recipe, source, World(detect()), device)
    return lambda: trainer.steps(1)
