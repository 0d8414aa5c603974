"""An independent small residual network and the gradient of all workers, written out one worker at a time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from widestep.models.build import build_model
from widestep.models.initialise import initialise
from widestep.models.stacked import StackedModel
from widestep.workers.engine import Block


@dataclass(frozen=True)
class GlobalBatch:
    """n images of W workers: worker w has images w, w + W, w + 2W, ..."""

    images: Tensor
    """Shape (n, T, 1, 8, 8)."""
    labels: Tensor
    """Shape (n, T)."""
    num_workers: int

    def of_worker(self, worker: int) -> slice:
        return slice(worker, None, self.num_workers)

    def batch_of(self, workers: range) -> Iterator[Block]:
        """Hand out the images of neighbouring workers as the engine asks for them: equal shares in one block."""
        counts = {worker: len(self.labels[self.of_worker(worker)]) for worker in workers}
        for count in sorted(set(counts.values()) - {0}, reverse=True):
            equal = [worker for worker in workers if counts[worker] == count]
            order = [worker + image * self.num_workers for image in range(count) for worker in equal]
            yield Block(self.images[order].flatten(1, 2), self.labels[order], range(equal[0], equal[-1] + 1))


@pytest.fixture
def global_batch() -> Callable[..., GlobalBatch]:
    def draw(num_images: int, num_workers: int, slots: int = 1, dtype: torch.dtype = torch.float64) -> GlobalBatch:
        generator = torch.Generator().manual_seed(num_images)
        images = torch.randn(num_images, slots, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
        return GlobalBatch(images, torch.randint(0, 10, (num_images, slots), generator=generator), num_workers)

    return draw


@pytest.fixture
def digits_model() -> Callable[..., StackedModel]:
    def make(slots: int = 1, dtype: torch.dtype = torch.float64) -> StackedModel:
        model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=slots)
        for slot in range(slots):
            initialise(model, slot, torch.Generator().manual_seed(slot))
        return model.to(dtype)

    return make


@dataclass
class Plain:
    """The network of a slot as functions of plain tensors; what its batch normalisations measured is listed in order."""

    parameters: Mapping[str, Tensor]

    def logits(self, images: Tensor, measured: list[Tensor]) -> Tensor:
        """Classify (n, 1, 8, 8); appends mean and unbiased variance of every batch normalisation."""
        p = self.parameters

        def norm(x: Tensor, name: str) -> Tensor:
            values = x.transpose(0, 1).flatten(1)
            mean = values.mean(1)
            squares = ((values - mean[:, None]) ** 2).sum(1)
            measured.extend((mean.detach(), squares.detach() / (values.shape[1] - 1)))
            column = [tensor[None, :, None, None] for tensor in (mean, squares / values.shape[1])]
            scale, shift = (p[f"{name}.{kind}"][None, :, None, None] for kind in ("weight", "bias"))
            return (x - column[0]) / torch.sqrt(column[1] + 1e-5) * scale + shift

        x = norm(F.conv2d(images, p["conv1.weight"], padding=1), "bn1").clamp(min=0)
        for layer, stride in (("layer1.0", 1), ("layer2.0", 2)):
            y = norm(F.conv2d(x, p[f"{layer}.conv1.weight"], stride=stride, padding=1), f"{layer}.bn1").clamp(min=0)
            y = norm(F.conv2d(y, p[f"{layer}.conv2.weight"], padding=1), f"{layer}.bn2")
            if stride == 2:
                x = norm(F.conv2d(x, p[f"{layer}.downsample.0.weight"], stride=2), f"{layer}.downsample.1")
            x = (x + y).clamp(min=0)
        return x.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]


@dataclass(frozen=True)
class Expected:
    """Loss, gradient (P,) and batch statistics (W', S) of the workers that have images."""

    loss: float
    gradient: Tensor
    statistics: Tensor


@pytest.fixture
def one_by_one() -> Callable[..., Expected]:
    """Compute a slot's global batch in a plain loop over the workers: (1/n) times the sum over all images (statement W1)."""

    def compute(model: StackedModel, slot: int, batch: GlobalBatch, label_smoothing: float = 0.0) -> Expected:
        leaves = {name: view.clone().requires_grad_() for name, view in model.slot_parameters(slot).items()}
        total: Tensor = torch.zeros((), dtype=batch.images.dtype)
        rows: list[Tensor] = []
        for worker in range(batch.num_workers):
            images, labels = batch.images[batch.of_worker(worker), slot], batch.labels[batch.of_worker(worker), slot]
            if len(labels) == 0:
                continue
            measured: list[Tensor] = []
            log_shares = torch.log_softmax(Plain(leaves).logits(images, measured), 1)
            target = torch.full_like(log_shares, label_smoothing / 10)
            target[torch.arange(len(labels)), labels] += 1 - label_smoothing
            total = total - (target * log_shares).sum()
            rows.append(torch.cat(measured))
        loss = total / len(batch.labels)
        gradient = torch.autograd.grad(loss, list(leaves.values()))
        return Expected(loss.item(), torch.cat([piece.flatten() for piece in gradient]), torch.stack(rows))

    return compute


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """The norm of the difference over the norm of what is expected."""

    def error(found: Tensor, expected: Tensor) -> float:
        return float((found.double() - expected.double()).norm() / expected.double().norm())

    return error
