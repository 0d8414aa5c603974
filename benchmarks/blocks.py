"""k workers in one forward pass against the loop over workers, and the cost of the norms of the workers' own gradients."""

from typing import Any

from benchmarks.drawn import DrawnImages
from benchmarks.jobs import start
from benchmarks.spread import Row
from benchmarks.timing import alternating, compared
from benchmarks.trainer import Trainer
from benchmarks.wanted import Wanted
from widestep.plan.grid import WorkerGrid
from widestep.plan.recipe import Recipe
from widestep.workers.world import World

MODEL, IMAGE = "digits-resnet", (1, 8, 8)


def run(wanted: Wanted) -> list[Row]:
    """Measure on one process."""
    grids = ["8x1x4"] if wanted.quick else ["8x1x4", "8x1x32", "40x1x4", "40x1x32"]
    settings = {"grids": grids, "blocks": [1, 8] if wanted.quick else [1, 2, 4, 8], "rounds": 3 if wanted.quick else 11}
    rows: list[Row] = start(__name__, 1, settings)
    return rows


def measure(world: World, settings: dict[str, Any]) -> list[Row]:
    """Compare every block size with and without norms, a step of training each."""
    return [row for grid in settings["grids"] for row in _compared(world, grid, settings["blocks"], settings["rounds"])]


def _compared(world: World, grid: str, blocks: list[int], rounds: int) -> list[Row]:
    workers = WorkerGrid.parse(grid)
    source = DrawnImages(IMAGE, 2 * workers.global_batch)
    sizes = sorted({*blocks, workers.num_workers})
    trainers = {
        (k, norms): Trainer(
            Recipe(model=MODEL, grid=workers, base_lr=0.001, epochs="1000ep", workers_per_forward=k, worker_norms=norms),
            source,
            world,
        )
        for k in sizes
        for norms in (False, True)
    }
    actions = {f"{k} {norms}": lambda trainer=trainer: trainer.steps(1) for (k, norms), trainer in trainers.items()}
    seconds = alternating(actions, rounds, world)
    loop = compared({"grid": grid, "norms": False}, {str(k): seconds[f"{k} False"] for k in sizes})
    norms = [
        compared({"grid": grid, "k": k}, {name: seconds[f"{k} {name == 'norms'}"] for name in ("none", "norms")})
        for k in sizes
    ]
    return [loop, *norms]
