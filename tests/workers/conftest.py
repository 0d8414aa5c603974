"""An independent small residual network and the gradient of all workers, written out one worker at a time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
import torch
from plain_digits import digits_network
from torch import Tensor

from widestep.models.build import build_model
from widestep.models.initialise import initialise
from widestep.models.stacked import StackedModel
from widestep.workers.blocks import Block


@dataclass(frozen=True)
class GlobalBatch:
    """n images of W workers: worker w has images w, w + W, w + 2W, ..."""

    images: Tensor
    """Shape (n, T, 1, 8, 8)."""
    labels: Tensor
    """Shape (n, T)."""
    num_workers: int
    workers_per_group: int = 1

    @property
    def num_groups(self) -> int:
        return self.num_workers // self.workers_per_group

    def of_group(self, group: int) -> list[int]:
        """The images of a group of neighbouring workers, in the order of the global batch."""
        return [n for n in range(len(self.labels)) if n % self.num_workers // self.workers_per_group == group]

    def batch_of(self, workers: range) -> Iterator[Block]:
        """Hand out the images of neighbouring workers as the engine asks for them: equal shares in one block."""
        groups = range(workers.start // self.workers_per_group, workers.stop // self.workers_per_group)
        counts = {group: len(self.of_group(group)) for group in groups}
        for count in sorted(set(counts.values()) - {0}, reverse=True):
            equal = [group for group in groups if counts[group] == count]
            order = [self.of_group(group)[image] for image in range(count) for group in equal]
            yield Block(self.images[order].flatten(1, 2), self.labels[order], range(equal[0], equal[-1] + 1))


@pytest.fixture
def global_batch() -> Callable[..., GlobalBatch]:
    def draw(
        num_images: int, num_workers: int, slots: int = 1, dtype: torch.dtype = torch.float64, together: int = 1
    ) -> GlobalBatch:
        generator = torch.Generator().manual_seed(num_images)
        images = torch.randn(num_images, slots, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
        return GlobalBatch(images, torch.randint(0, 10, (num_images, slots), generator=generator), num_workers, together)

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
        """Classify (n, 1, 8, 8); appends what every batch normalisation saw, a row a channel."""
        p = self.parameters

        def norm(x: Tensor, name: str) -> Tensor:
            values = x.transpose(0, 1).flatten(1)
            mean = values.mean(1)
            squares = ((values - mean[:, None]) ** 2).sum(1)
            measured.append(values.detach())
            column = [tensor[None, :, None, None] for tensor in (mean, squares / values.shape[1])]
            scale, shift = (p[f"{name}.{kind}"][None, :, None, None] for kind in ("weight", "bias"))
            return (x - column[0]) / torch.sqrt(column[1] + 1e-5) * scale + shift

        return digits_network(p, images, norm)


@dataclass(frozen=True)
class Expected:
    """What a plain loop over the groups of workers finds.

    Gradient (P,); the squared norm of every group's own gradient, of the mean loss of its images; and what each of its batch
    normalisations saw: values[group][layer], a row a channel.
    """

    loss: float
    gradient: Tensor
    squares: list[float]
    values: list[list[Tensor]]

    def of_groups(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance of every group that had images, each of shape (groups, M)."""
        rows = [[(layer.mean(1), layer.var(1)) for layer in group] for group in self.values]
        return tuple(torch.stack([torch.cat([pair[kind] for pair in row]) for row in rows]) for kind in (0, 1))  # type: ignore

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance of all groups' values together, each of shape (M,)."""
        together = [torch.cat(layers, dim=1) for layers in zip(*self.values, strict=True)]
        return torch.cat([layer.mean(1) for layer in together]), torch.cat([layer.var(1) for layer in together])


@pytest.fixture
def one_by_one() -> Callable[..., Expected]:
    """Compute a slot's global batch in a plain loop over the groups: (1/n) times the sum over all images (statement W1)."""

    def compute(model: StackedModel, slot: int, batch: GlobalBatch, label_smoothing: float = 0.0) -> Expected:
        leaves = {name: view.clone().requires_grad_() for name, view in model.slot_parameters(slot).items()}
        total: Tensor = torch.zeros((), dtype=batch.images.dtype)
        squares, values = [], []
        for group in range(batch.num_groups):
            own = batch.of_group(group)
            if not own:
                continue
            measured: list[Tensor] = []
            log_shares = torch.log_softmax(Plain(leaves).logits(batch.images[own, slot], measured), 1)
            target = torch.full_like(log_shares, label_smoothing / 10)
            target[torch.arange(len(own)), batch.labels[own, slot]] += 1 - label_smoothing
            loss = -(target * log_shares).sum()
            alone = torch.autograd.grad(loss / len(own), list(leaves.values()), retain_graph=True)
            squares.append(sum(piece.square().sum().item() for piece in alone))
            values.append(measured)
            total = total + loss
        loss = total / len(batch.labels)
        gradient = torch.autograd.grad(loss, list(leaves.values()))
        return Expected(loss.item(), torch.cat([piece.flatten() for piece in gradient]), squares, values)

    return compute


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """The norm of the difference over the norm of what is expected."""

    def error(found: Tensor, expected: Tensor) -> float:
        return float((found.double() - expected.double()).norm() / expected.double().norm())

    return error
