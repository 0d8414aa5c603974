"""What every process of `test_processes.py` runs: jobs of several sizes, one after another, each reported in a file.

Called as `python processes_program.py FOLDER PROCESS JOB...` with JOB = "NUM_PROCESSES:PORT:LISTEN_DESCRIPTOR". A process
takes part in the jobs that have more processes than its number.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from widestep.errors import DataError, StoreError, WidestepError
from widestep.models.build import build_model
from widestep.models.initialise import initialise
from widestep.workers import reduce
from widestep.workers.blocks import Block, ForwardPass
from widestep.workers.engine import GradientEngine, Wishes
from widestep.workers.launched import Launch
from widestep.workers.overlapped import OverlappedEngine
from widestep.workers.placement import Placement
from widestep.workers.tree import sum_leaves
from widestep.workers.world import World

CASES = [(1, (3,)), (2, (2, 5)), (3, (1, 7)), (4, (4, 1)), (7, (2, 3, 5)), (8, (12, 5)), (12, (61,)), (16, (1, 240))]
"""Blocks of workers, and the shape of a leaf."""


def leaf_value(leaf: int, shape: tuple[int, ...]) -> torch.Tensor:
    """A leaf of numbers that every order of summation rounds differently."""
    rng = np.random.default_rng([leaf, *shape])
    return torch.from_numpy((rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 5, shape)).astype(np.float32))


def summed(world: World, num_blocks: int, shape: tuple[int, ...]) -> torch.Tensor:
    placement = Placement(num_blocks, 1, world.num_processes)
    mine = sum_leaves((leaf, leaf_value(leaf, shape)) for leaf in placement.blocks(world.process))
    return reduce.sum_over_processes(world, placement, mine, shape)


class Meter:
    """Counts the bytes that this process hands to others."""

    def __init__(self, world: World) -> None:
        self.world, self.num_bytes = world, 0
        self._all_to_all, self._all_gather = dist.all_to_all_single, reduce._all_gather

    def __enter__(self) -> "Meter":
        reduce.dist.all_to_all_single, reduce._all_gather = self.all_to_all, self.all_gather
        return self

    def __exit__(self, *_: object) -> None:
        reduce.dist.all_to_all_single, reduce._all_gather = self._all_to_all, self._all_gather

    def all_to_all(self, received: torch.Tensor, sent: torch.Tensor, counts: list[int], to: list[int], group: Any) -> None:
        self.num_bytes += sent.element_size() * (sum(to) - to[self.world.process])
        self._all_to_all(received, sent, counts, to, group=group)

    def all_gather(self, whole: torch.Tensor, mine: torch.Tensor, group: Any) -> None:
        self.num_bytes += mine.element_size() * mine.numel() * (self.world.num_processes - 1)
        self._all_gather(whole, mine, group=group)


def wishes_seen(world: World, num_workers: int, stopping: int, saving: int) -> Wishes:
    """Let one process want a stop in a step, and another one a save; return what this one learns of it."""
    model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8))
    initialise(model, 0, torch.Generator().manual_seed(0))
    placement = Placement(num_workers, 1, world.num_processes)
    forward = ForwardPass(model, label_smoothing=0.0, precision="fp32")
    engine = GradientEngine(forward, world, wishes=lambda: Wishes(world.process == stopping, world.process == saving))
    images = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
    batch_of = lambda workers: [Block(images + workers.start, torch.tensor([[1], [2]]), workers)]  # noqa: E731
    centre = torch.zeros(1, engine.moments.num_channels)
    return engine.gradients(batch_of, 2 * num_workers, placement, centre).wishes


def digits_batch(num_workers: int, num_images: int) -> Callable[[range], list[Block]]:
    """One block for each worker that has images: worker w has images w, w + W, ..."""
    generator = torch.Generator().manual_seed(num_images)
    images = torch.randn(num_images, 1, 8, 8, generator=generator)
    labels = torch.randint(0, 10, (num_images, 1), generator=generator)
    own = [slice(worker, None, num_workers) for worker in range(num_workers)]
    return lambda workers: [Block(images[own[w]], labels[own[w]], range(w, w + 1)) for w in workers if w < num_images]


def fast_and_exact(world: World, num_workers: int, num_images: int, compression: str) -> dict[str, float]:
    """How far fast mode on all processes is from the tree on one, at two steps running, largest relative errors."""
    model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8))
    model.initialise(0, 5)
    forward = ForwardPass(model, label_smoothing=0.1, precision="fp32")
    exact = GradientEngine(forward, World())
    fast = OverlappedEngine(forward, world, compression=compression, wishes=lambda: Wishes(save=world.process == 0))
    centre = torch.zeros(1, exact.moments.num_channels)
    errors: dict[str, float] = {"gradient": 0.0, "moments": 0.0, "loss": 0.0}
    for step in range(2):
        batch_of = digits_batch(num_workers, num_images + step)
        a = exact.gradients(batch_of, num_images + step, Placement(num_workers, 1, 1), centre)
        b = fast.gradients(batch_of, num_images + step, Placement(num_workers, 1, world.num_processes), centre)
        assert b.wishes == (False, True)
        pairs = {
            "gradient": (a.gradients, b.gradients),
            "moments": (a.moments.pooled_variance, b.moments.pooled_variance),
            "loss": (torch.tensor(a.of_slot[0].loss), torch.tensor(b.of_slot[0].loss)),
        }
        errors |= {name: max(errors[name], float((x - y).norm() / x.norm())) for name, (x, y) in pairs.items()}
    return errors


def agreed(world: World, failing: range) -> list[Any]:
    """Let some processes fail, each in its own way; return what became of this one."""

    def act() -> int:
        if world.process in failing:
            raise (StoreError, DataError)[world.process % 2](f"process {world.process}")
        return world.process

    try:
        return ["value", world.agreed(act)]
    except WidestepError as error:
        return [type(error).__name__, error.exit_code, str(error)]


def job(launch: Launch) -> dict[str, Any]:
    report: dict[str, Any] = {}
    with World(launch) as world:
        report["sums"] = [summed(world, num_blocks, shape).numpy().tobytes().hex() for num_blocks, shape in CASES]
        with Meter(world) as meter:
            summed(world, 2 * world.num_processes, (840,))
        report["bytes_sent"] = meter.num_bytes
        report["told"] = world.broadcast_json({"words": ["Ä\U0001f600", None, 1.5]} if world.is_first else None)
        tensor = torch.full((2, 3), float(world.process + 7))
        world.broadcast(tensor)
        report["broadcast"] = tensor.tolist()
        filled = torch.zeros(7, dtype=torch.float64)
        filled[world.process :: world.num_processes] = 1 / 3 + world.process
        report["merged"] = world.merged(filled).tolist()
        last = world.num_processes - 1
        report["agreed"] = [agreed(world, range(*failing)) for failing in ((0,), (1,), (last, last + 1), (last + 1,))]
        report["wishes"] = [
            wishes_seen(world, workers, *wanting)
            for workers in (1, 2, last + 1)
            for wanting in ((0, -1), (last, 0), (-1, -1))
        ]
        report["fast"] = {
            f"{workers} {images} {how}": fast_and_exact(world, workers, images, how)
            for workers, images, how in ((8, 45, "none"), (2, 10, "none"), (8, 45, "fp16"), (8, 45, "bf16"))
        }
    return report


def main() -> None:
    folder, process = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    for text in sys.argv[3:]:
        num_processes, port, descriptor = map(int, text.split(":"))
        if process < num_processes:
            held = descriptor if process == 0 else None
            launch = Launch("widestep", process, num_processes, process, port=port, listen_descriptor=held)
            report = job(launch)
            (folder / f"{num_processes}-{process}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
