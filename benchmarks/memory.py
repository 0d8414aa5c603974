"""Peak memory: of more and more virtual workers on one process, and of steps of ResNet-50 against the plain loop."""

from typing import Any

from benchmarks import emulation, training
from benchmarks.contest import contest, ranking
from benchmarks.spread import Row
from benchmarks.wanted import Wanted

Case = dict[str, Any]
WORKERS, QUICK_WORKERS = (1, 15, 240), (15,)
_MODEL: Case = {"model": "resnet18", "image": (3, 32, 32), "precision": "fp32", "memory_format": "contiguous"}
_QUICK: Case = {**_MODEL, "model": "digits-resnet", "image": (1, 8, 8)}
_IMAGES = 2


def run(wanted: Wanted) -> list[Row]:
    """Take two steps in processes of their own; all numbers of workers see the same set of images."""
    case = {**(_QUICK if wanted.quick else _MODEL), "images": _IMAGES, "device": wanted.device}
    workers_of = QUICK_WORKERS if wanted.quick else WORKERS
    drawn = max(workers_of) * _IMAGES
    settings = {
        f"{who} {workers}": {**case, "who": who, "workers": workers, "drawn": drawn}
        for workers in workers_of
        for who in (("widestep",) if wanted.quick else ("plain", "widestep"))
    }
    rows = [ranking(case, contest(emulation.__name__, settings, 1, warming=4 if wanted.gpu else 2), drawn, {})]
    if not wanted.quick:
        rows.append(_of_resnet50(wanted))
    return rows


def _of_resnet50(wanted: Wanted) -> Row:
    images = 16 if wanted.device == "cpu" else 128
    case = {"model": "resnet50", "image": (3, 224, 224), "images": images, "device": wanted.device}
    case |= {"augment": "none"}
    ways = {"plain": ("fp32", "contiguous"), "widestep": ("fp32", "auto")}
    ways |= {"plain bf16": ("bf16", "channels_last"), "widestep bf16": ("bf16", "channels_last")}
    settings = {
        name: {"who": name.split()[0], "precision": precision, "memory_format": layout, "steps": 2, **case}
        for name, (precision, layout) in ways.items()
    }
    return ranking(case, contest(training.__name__, settings, 1, warming=4 if wanted.gpu else 1), images, {})
