"""Short runs on the digits, trained within the test's process, and the same written out plainly in double precision."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_digits import digits_network
from torch import Tensor

from widestep.cli.console import SilentWatcher
from widestep.data.loading import Computed, Images
from widestep.data.source import open_source
from widestep.data.split import stratified_split
from widestep.plan.execution import Execution
from widestep.plan.randomness import Stream
from widestep.plan.recipe import Recipe
from widestep.plan.recipes import changed
from widestep.plan.runplan import RunPlan
from widestep.records.result import RunResult
from widestep.records.run import Run
from widestep.train.batches import Batches
from widestep.train.loop import train
from widestep.train.setting import build_engine, model_of
from widestep.train.state import TrainState
from widestep.train.step import take_step
from widestep.workers.world import World

SMALL = {
    "grid": "1x4x8",
    "train_images": 200,
    "epochs": "2",
    "scaling": "none",
    "base_lr": 0.1,
    "warmup": "0",
    "lr_decay": "constant",
    "images_per_evaluation": 500,
    "val_images": 300,
    "workers_per_forward": 4,
}
FILES = ("metrics.jsonl", "epochs.csv", "ledger.jsonl", "checkpoints/final.safetensors", "checkpoints/best.safetensors")
NORMS = ("bn1", "layer1.0.bn1", "layer1.0.bn2", "layer2.0.bn1", "layer2.0.bn2", "layer2.0.downsample.1")


@pytest.fixture(scope="session")
def small() -> Callable[..., Recipe]:
    """A recipe of 4 workers and 2 epochs of 6 steps, with some fields changed."""

    def make(**fields: Any) -> Recipe:
        return changed(Recipe(), {**SMALL, **fields})

    return make


class Listening(SilentWatcher):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def listening() -> Listening:
    return Listening()


def execute(runs: Mapping[Path, Recipe], watcher: SilentWatcher | None = None, **execution: Any) -> list[RunResult]:
    """Train runs side by side, and put back what training sets in torch."""
    opened = [Run(directory, recipe) for directory, recipe in runs.items()]
    chosen = Execution(**{"tensorboard": False, "loader_threads": 0, "device": "cpu", **execution})
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    try:
        return train(opened, chosen, World(), watcher or SilentWatcher())
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)


@pytest.fixture(scope="session")
def train_runs() -> Callable[..., list[RunResult]]:
    """Train runs, given as directory -> recipe, side by side."""
    return execute


@pytest.fixture(scope="session")
def train_one() -> Callable[..., RunResult]:
    """Train one run."""
    return lambda directory, recipe, *watcher, **execution: execute({directory: recipe}, *watcher, **execution)[0]


@pytest.fixture(scope="session")
def lines() -> Callable[[Path], list[dict[str, Any]]]:
    """Read a file of JSON lines."""
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes]]:
    """The files of a run without the times in them."""

    def read(directory: Path) -> dict[str, bytes]:
        found = {name: (directory / name).read_bytes() for name in FILES}
        records = [json.loads(line) for line in found["metrics.jsonl"].splitlines()]
        for record in records:
            del record["seconds"]
        found["metrics.jsonl"] = json.dumps(records).encode()
        return found

    return read


class Cut(BaseException):
    """The power is gone."""


class Cuts:
    """Lets a run be cut off at a chosen moment."""

    Cut = Cut

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def at(self, owner: Any, name: str, nth: int, when: Callable[..., bool] = lambda *_: True) -> None:
        """Let the nth call of a function fail; `when` says which calls count."""
        original, calls = getattr(owner, name), 0

        def cut(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += when(*arguments)
            if calls == nth:
                raise Cut
            return original(*arguments, **options)

        self._monkeypatch.setattr(owner, name, cut)

    def mend(self) -> None:
        self._monkeypatch.undo()


@pytest.fixture(scope="session")
def cutting() -> Callable[[], AbstractContextManager[Cuts]]:
    @contextmanager
    def arrange() -> Iterator[Cuts]:
        with pytest.MonkeyPatch.context() as patch:
            yield Cuts(patch)

    return arrange


@pytest.fixture
def cuts(cutting: Callable[[], AbstractContextManager[Cuts]]) -> Iterator[Cuts]:
    with cutting() as made:
        yield made


class Digits:
    """The 200 training images of a seed, in the order of its epochs, and the others; straight from the definitions."""

    def __init__(self) -> None:
        self.source = open_source("digits", augment="none", train_images=200)

    def epoch(self, number: int, seed: int = 0) -> list[int]:
        train = stratified_split(self.source.labels.numpy(), 200, seed).train
        return [int(train[place]) for place in Stream(seed, "order").permutation(200, number)]

    def step(self, number: int, global_batch: int = 32, tail: str = "drop", seed: int = 0) -> list[int]:
        """The images of a step without a ramp; at the end of an epoch all that are left (`short`) or none (`drop`)."""
        starts = range(0, 200 if tail == "short" else 200 - global_batch + 1, global_batch)
        epoch, place = divmod(number, len(starts))
        return self.epoch(epoch, seed)[starts[place] : starts[place] + global_batch]

    def validation(self, wanted: int | None = None, seed: int = 0) -> list[int]:
        """Every validation image, or `wanted` of them, evenly spread."""
        val = stratified_split(self.source.labels.numpy(), 200, seed).val.tolist()
        return val if wanted is None else [val[number * len(val) // wanted] for number in range(wanted)]

    def images(self, ids: Sequence[int]) -> Tensor:
        return self.source.evaluation_images(np.array(ids)).result().double()

    def labels(self, ids: Sequence[int]) -> Tensor:
        return self.source.labels[torch.tensor(ids)]


@pytest.fixture(scope="session")
def digits() -> Iterator[Digits]:
    made = Digits()
    yield made
    made.source.close()


class Plain:
    """The network for digits as functions of plain tensors, worker by worker, in double precision."""

    def __init__(self, weights: Mapping[str, Tensor], digits: Digits) -> None:
        self.weights = {name: tensor.detach().clone().double() for name, tensor in weights.items()}
        self._digits = digits

    def logits(self, images: Tensor, statistics: Tensor | None = None, seen: list[Tensor] | None = None) -> Tensor:
        """Classify with given statistics (2, M), or with those of the images, whose values `seen` collects by layer."""
        p, offset = self.weights, 0

        def norm(x: Tensor, name: str) -> Tensor:
            nonlocal offset
            values = x.transpose(0, 1).flatten(1)
            mean, variance = values.mean(1), values.var(1, correction=0)
            if statistics is not None:
                mean, variance = statistics.double()[:, offset : offset + len(values)]
            if seen is not None:
                seen.append(values.detach())
            offset += len(values)
            scaled = (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + 1e-5)
            return scaled * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]

        return digits_network(p, images, norm)

    @staticmethod
    def groups(ids: Sequence[int], num_workers: int, together: int = 1) -> list[list[int]]:
        """The images of every group of workers that has some: image n belongs to worker n mod W."""
        found = [[i for n, i in enumerate(ids) if n % num_workers // together == g] for g in range(num_workers // together)]
        return [group for group in found if group]

    def moments(self, groups: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Mean and unbiased variance (2, M) of a step by the policies of running statistics, each group by itself."""
        of_groups: list[list[Tensor]] = []
        for group in groups:
            of_groups.append([])
            self.logits(self._digits.images(group), seen=of_groups[-1])

        def pair(layers: Sequence[Tensor]) -> Tensor:
            return torch.stack([torch.cat([v.mean(1) for v in layers]), torch.cat([v.var(1) for v in layers])])

        mean = torch.stack([pair(layers) for layers in of_groups]).mean(0)
        pooled = pair([torch.cat(layers, dim=1) for layers in zip(*of_groups, strict=True)])
        return {"mean": mean, "pooled": pooled, "worker0": pair(of_groups[0]), "last": mean}

    def gradient(self, ids: Sequence[int]) -> Tensor:
        """The gradient of the mean loss of some images that are normalised together, shape (P,)."""
        leaves = [self.weights[name].requires_grad_() for name in self.weights]
        loss = F.cross_entropy(self.logits(self._digits.images(ids)), self._digits.labels(ids))
        found = torch.autograd.grad(loss, leaves)
        for leaf in leaves:
            leaf.requires_grad_(False)
        return torch.cat([piece.flatten() for piece in found])

    def judged(self, ids: Sequence[int], statistics: Tensor) -> tuple[list[bool], list[float]]:
        """Say of every image whether it is right, and its loss."""
        logits, labels = self.logits(self._digits.images(ids), statistics), self._digits.labels(ids)
        losses = logits.logsumexp(1) - logits[torch.arange(len(labels)), labels]
        return (logits.argmax(1) == labels).tolist(), losses.tolist()


@pytest.fixture(scope="session")
def plain(digits: Digits) -> Callable[[Mapping[str, Tensor]], Plain]:
    """The plain network with the parameters among some weights."""

    def make(weights: Mapping[str, Tensor]) -> Plain:
        return Plain({name: tensor for name, tensor in weights.items() if "running" not in name}, digits)

    return make


@pytest.fixture(scope="session")
def held() -> Callable[[Mapping[str, Tensor]], Tensor]:
    """The statistics (2, M) among the weights of a checkpoint."""

    def read(weights: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([torch.cat([weights[f"{norm}.running_{kind}"] for norm in NORMS]) for kind in ("mean", "var")])

    return read


class Ready:
    """A run in place before its first step."""

    def __init__(self, recipe: Recipe, digits: Any) -> None:
        self.plan = RunPlan(recipe, 200)
        self.model = model_of(recipe, 10, (1, 8, 8))
        self.state = TrainState(self.model, 0, self.plan)
        self.source = Damaged(digits.source)
        self.batches = Batches(self.source, [self.plan], torch.device("cpu"))
        self.engine = build_engine(self.model, recipe, World())

    def step(self, number: int, taken: bool = True) -> Any:
        (record,) = take_step([self.state], self.engine, self.batches, number)
        assert record.taken == taken
        return record

    def weights(self) -> Tensor:
        return torch.cat([view.flatten() for view in self.state.parameters.values()]).double().detach()

    def everything(self) -> dict[str, Any]:
        """All that a step may change, as bytes and numbers."""
        tensors = {**self.state.weights(), **self.state.optimizer_tensors(), "running": self.state.running}
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()} | {"tally": repr(self.state.tally)}


class Damaged:
    """The digits, of which one image may be multiplied by something."""

    def __init__(self, source: Any) -> None:
        self._source, self.damaged, self.factor = source, -1, 1.0
        self.facts, self.labels, self.split = source.facts, source.labels, source.split

    def training_images(self, ids: Any, keys: Any) -> Images:
        def images() -> Tensor:
            found: Tensor = self._source.training_images(ids, keys).result()
            found[torch.from_numpy(np.asarray(ids) == self.damaged)] *= self.factor
            return found

        return Computed(images)


@pytest.fixture
def ready(small: Callable[..., Recipe], digits: Digits) -> Callable[..., Ready]:
    return lambda **fields: Ready(small(**fields), digits)
