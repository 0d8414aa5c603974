"""Small images that stay in memory, shifted and flipped in whole batches, against a DataLoader over the same images."""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import peers
from benchmarks.contest import Turn, contest, ranking
from benchmarks.drawn import DrawnPixels, drawn_source
from benchmarks.spread import Row
from benchmarks.wanted import Wanted
from widestep.plan.randomness import Stream
from widestep.train.setting import keep_freed_memory

SIDE, IMAGES = 32, 128
_CONTENDERS = ("torchvision", "torchvision, 2 workers", "widestep")


def run(wanted: Wanted) -> list[Row]:
    """Draw images in the size of CIFAR's and load them with the usual augmentation."""
    num_images, passes, rounds = (300, 1, 2) if wanted.quick else (5000, 1, 4) if wanted.gpu else (5000, 5, 9)
    contenders = _CONTENDERS[2 if wanted.quick and not wanted.gpu else 0 :]
    shared = {"images": num_images, "passes": passes, "device": wanted.device}
    outcomes = contest(__name__, {name: {"who": name, **shared} for name in contenders}, rounds, warming=2)
    case = {"images": num_images, "side": SIDE, "images_of_a_batch": IMAGES, "device": wanted.device}
    return [ranking(case, outcomes, num_images * passes, {"widestep": list(_CONTENDERS[:2])})]


def enter(settings: dict[str, Any]) -> Turn:
    """Prepare a loader; a turn is some passes over the images."""
    torch.set_num_threads(1)
    batches = _of_widestep(settings) if settings["who"] == "widestep" else _of_torchvision(settings)

    def turn() -> None:
        for _ in range(settings["passes"]):
            for _ in batches():
                pass
        if settings["device"] == "cuda":
            torch.cuda.synchronize()

    return turn


def _of_widestep(settings: dict[str, Any]) -> Callable[[], Iterator[Any]]:
    keep_freed_memory()  # as training does
    source = drawn_source((3, SIDE, SIDE), settings["images"], torch.device(settings["device"]), "shift-flip")
    ids = np.random.default_rng(0).permutation(source.facts.num_train)
    stream = Stream(0, "augment")

    def batches() -> Iterator[Any]:
        for start in range(0, len(ids), IMAGES):
            some = ids[start : start + IMAGES]
            yield source.training_images(some, stream.keys(some, 0)).result()

    return batches


class _Held(torch.utils.data.Dataset[Any]):
    """Images in memory that become Pillow's one by one, as torchvision's own class of CIFAR-10 has it."""

    def __init__(self, pixels: DrawnPixels, transform: Callable[[Any], Any]) -> None:
        self.pixels, self.transform = pixels, transform

    def __len__(self) -> int:
        return self.pixels.num_train

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels.read(index))), int(self.pixels.labels[index])


def _of_torchvision(settings: dict[str, Any]) -> Callable[[], Iterator[Any]]:
    peers.torchvision()
    transforms = import_module("torchvision.transforms")
    transform = transforms.Compose(
        [
            transforms.RandomCrop(SIDE, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    workers = 2 if settings["who"].endswith("2 workers") else 0
    data = _Held(DrawnPixels(SIDE, settings["images"]), transform)
    loader = torch.utils.data.DataLoader(
        data, batch_size=IMAGES, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    device = torch.device(settings["device"])

    def batches() -> Iterator[Any]:
        for images, labels in loader:
            yield images.to(device), labels

    return batches
