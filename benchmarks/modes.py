"""Fast mode against reproducible mode of the same recipe: seconds a step, and how far the weights part."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drawn import DrawnImages
from benchmarks.jobs import start
from benchmarks.spread import Row
from benchmarks.timing import alternating, compared
from benchmarks.trainer import Trainer
from benchmarks.wanted import Wanted
from widestep.data.source import ImageSource, open_source
from widestep.plan.grid import WorkerGrid
from widestep.plan.recipe import Recipe
from widestep.workers.world import World

GRID = "8x1x8"
COMPRESSIONS = ("none", "fp16", "bf16")
SPEED = (
    {"model": "digits-resnet", "image": (1, 8, 8), "k": 1, "steps": 10},
    {"model": "digits-resnet", "image": (1, 8, 8), "k": 4, "steps": 20},
    {"model": "cifar-resnet20", "image": (3, 8, 8), "k": 4, "steps": 5},
    {"model": "cifar-resnet20", "image": (3, 32, 32), "k": 4, "steps": 2},
    {"model": "resnet18", "image": (3, 32, 32), "k": 4, "steps": 1},
)
"""k workers a forward pass, and the steps of a round. resnet18 has 11 million weights to exchange."""
DEVIATION = (
    {"model": "digits-resnet", "data": "digits"},
    {"model": "cifar-resnet20", "data": "drawn"},
)
"""The digits themselves, and drawn images of 16x16 pixels; one worker a forward pass."""


def run(wanted: Wanted) -> list[Row]:
    """Measure speed on 2 processes; compare weights on 2 processes, and (not if quick) of fast mode on 2 against 3."""
    cases, checked = (DEVIATION[:1], [1, 3]) if wanted.quick else (DEVIATION, [1, 10, 100])
    pairs = [(f"fast {how} 2", "reproducible 2") for how in COMPRESSIONS]
    with tempfile.TemporaryDirectory() as folder:
        rest = {"rounds": 3 if wanted.quick else 11, "deviation": cases, "checked": checked, "folder": folder}
        rows = start(__name__, 2, {"speed": [{**SPEED[0], "steps": 1}] if wanted.quick else SPEED, **rest})
        if not wanted.quick:
            start(__name__, 3, {"speed": (), **rest})
            pairs.append(("fast none 2", "fast none 3"))
        return [*rows, *(_deviation(Path(folder), case, checked, *pair) for case in cases for pair in pairs)]


def measure(world: World, settings: dict[str, Any]) -> list[Row]:
    """Measure speed, and leave weights in a folder."""
    rows = [_speed(world, case, settings["rounds"]) for case in settings["speed"]]
    for case in settings["deviation"]:
        for name, recipe in _recipes(case["model"], 1).items():
            if world.num_processes == 2 or name == "fast none":
                path = Path(settings["folder"]) / f"{case['model']} {name} {world.num_processes}"
                _save_weights(Trainer(recipe, _images(case["data"]), world), settings["checked"], path)
    return rows


def _recipes(model: str, k: int) -> dict[str, Recipe]:
    grid = WorkerGrid.parse(GRID)
    shared = {"model": model, "grid": grid, "base_lr": 0.0125, "epochs": "1000ep", "workers_per_forward": k}
    fast = {f"fast {how}": Recipe(**shared, mode="fast", compression=how) for how in COMPRESSIONS}
    return {"reproducible": Recipe(**shared), **fast}


def _speed(world: World, case: dict[str, Any], rounds: int) -> Row:
    source = DrawnImages(tuple(case["image"]), 640)
    trainers = {name: Trainer(recipe, source, world) for name, recipe in _recipes(case["model"], case["k"]).items()}
    actions = {name: lambda trainer=trainer: trainer.steps(case["steps"]) for name, trainer in trainers.items()}
    seconds = alternating(actions, rounds, world)
    a_step = {name: [value / case["steps"] for value in values] for name, values in seconds.items()}
    return compared({"processes": world.num_processes, "grid": GRID, **case}, a_step)


def _images(data: str) -> ImageSource:
    if data == "drawn":
        return DrawnImages((3, 16, 16), 640)
    return open_source(data)


def _save_weights(trainer: Trainer, checked: list[int], path: Path) -> None:
    """Save the weights before the first step and after some numbers of steps."""
    for step in (0, *checked):
        trainer.steps(step - trainer.state.tally.step)
        if trainer.engine.world.is_first:
            np.save(f"{path} {step}.npy", trainer.weights())


def _deviation(folder: Path, case: dict[str, Any], checked: list[int], one: str, other: str) -> Row:
    """Compare what `_save_weights` left: the norm of the difference over that of the weights, and over that of their way."""

    def weights(way: str, step: int) -> Any:
        return np.load(folder / f"{case['model']} {way} {step}.npy").astype(np.float64)

    of_weights, of_way = {}, {}
    for step in checked:
        apart = np.linalg.norm(weights(one, step) - weights(other, step))
        of_weights[str(step)] = float(apart / np.linalg.norm(weights(other, step)))
        of_way[str(step)] = float(apart / np.linalg.norm(weights(other, step) - weights(other, 0)))
    return {"case": {**case, "grid": GRID, "one": one, "other": other}, "of_weights": of_weights, "of_way": of_way}
