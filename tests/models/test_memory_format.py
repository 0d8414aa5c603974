"""Channels last in memory: the same numbers to rounding, no conversion on the way, and weights and gradients as ever."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from widestep.errors import UsageError
from widestep.models.adapted import AdaptedModel
from widestep.models.batchnorm import WorkerBatchNorm
from widestep.models.build import build_model
from widestep.models.stacked import StackedModel

OWN = Path(__file__).parents[1] / "laws" / "own_model.py"
LAST, PLANES = torch.channels_last, torch.contiguous_format


def made(name: str, slots: int = 1, side: int = 16, dtype: torch.dtype = torch.float64) -> StackedModel:
    model = build_model(name, num_classes=5, image_shape=(3, side, side), num_slots=slots)
    for slot in range(slots):
        model.initialise(slot, 10 + slot)
    return model.to(dtype).train()


def images_of(num_images: int, slots: int = 1, side: int = 16, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_images, 3 * slots, side, side, generator=generator, dtype=torch.float64).to(dtype)


def passed(model: StackedModel, images: Tensor, num_groups: int = 1, per_worker: bool = False) -> list[Tensor]:
    """Logits, gradients and what batch normalisation measured."""
    keys = np.arange(num_groups * model.num_slots, dtype=np.uint64).reshape(num_groups, -1)
    model.context.begin(num_groups, lambda layer: keys + np.uint64(100 * layer), per_worker=per_worker)
    torch.default_generator.manual_seed(7)  # what the user's own model draws
    logits = model(images)
    leaves = model.context.worker_leaves(model.parameters()) if per_worker else list(model.parameters())
    gradients = torch.autograd.grad((logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).sum(), leaves)
    measured = [moment for found in model.context.batch_statistics() for moment in found[:2]]
    return [logits.detach(), *gradients, *measured]


CASES = {
    "cifar": ("cifar-resnet20", 1, 1, False),
    "two workers a pass": ("cifar-resnet20", 1, 2, False),
    "own gradients of two workers": ("digits-resnet", 1, 2, True),
    "two slots": ("cifar-resnet20", 2, 1, False),
    "projections": ("digits-resnet", 1, 1, False),
    "own": (f"{OWN}:Net", 1, 1, False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_order_in_memory_changes_no_number_beyond_rounding(case: str) -> None:
    """A gradient whose numbers were permuted would differ by as much as it is large."""
    name, slots, num_groups, per_worker = CASES[case]
    planes, last = made(name, slots), made(name, slots)
    last.memory_format = LAST
    images = images_of(6, slots)
    expected, found = (passed(model, images, num_groups, per_worker) for model in (planes, last))
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12 * float(a.abs().max()) + 1e-14)


def test_either_order_of_images_is_taken() -> None:
    model, images = made("cifar-resnet20"), images_of(4)
    model.memory_format = LAST
    first, second = passed(model, images), passed(model, images.contiguous(memory_format=LAST))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("name", "side"), [("cifar-resnet20", 32), ("resnet18", 64), ("resnet50", 64)])
def test_no_layer_goes_back_to_planes(name: str, side: int) -> None:
    """Neither forward nor backward; of one channel or one pixel both orders are the same."""
    model = made(name, side=side, dtype=torch.float32)
    model.memory_format = LAST
    seen: list[tuple[str, Tensor]] = []
    for path, module in model.named_modules():
        if path and path not in ("fc", "dropout") and not any(True for _ in module.children()):
            module.register_forward_hook(lambda _, given, found, path=path: seen.extend(((path, given[0]), (path, found))))
            module.register_full_backward_hook(lambda _, slopes, found, path=path: seen.append((path, found[0])))
    passed(model, images_of(2, side=side, dtype=torch.float32).requires_grad_())
    assert len(seen) > 3 * len(model.batch_norms())
    assert [path for path, tensor in seen if not tensor.is_contiguous(memory_format=LAST)] == []


def test_weights_and_their_memory_stay_as_they_are() -> None:
    model = made("cifar-resnet20")
    before = {name: (tensor.stride(), tensor.data_ptr()) for name, tensor in model.slot_parameters(0).items()}
    model.memory_format = LAST
    passed(model, images_of(4))
    after = {name: (tensor.stride(), tensor.data_ptr()) for name, tensor in model.slot_parameters(0).items()}
    assert after == before
    assert all(tensor.is_contiguous() for tensor in model.parameters())


def test_evaluation_has_the_same_order() -> None:
    planes, last = made("cifar-resnet20").eval(), made("cifar-resnet20").eval()
    last.memory_format = LAST
    seen = []
    norms = [module for module in last.modules() if isinstance(module, WorkerBatchNorm)]
    norms[-1].register_forward_hook(lambda *held: seen.append(held[2].is_contiguous(memory_format=LAST)))
    images = images_of(3)
    with torch.inference_mode():
        assert torch.allclose(planes(images), last(images), rtol=1e-11)
    assert seen == [True]


def test_what_a_users_model_cannot_do_is_said(tmp_path: Path) -> None:
    (tmp_path / "planes.py").write_text(
        "from torch import nn\n"
        "class Planes(nn.Module):\n"
        "    def __init__(self, num_classes, image_shape):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 4, 3)\n"
        "        self.fc = nn.Linear(4 * 14 * 14, num_classes)\n"
        "    def forward(self, images):\n"
        "        return self.fc(self.conv(images).view(len(images), -1))\n"
    )
    model = made(f"{tmp_path / 'planes.py'}:Planes")
    assert isinstance(model, AdaptedModel)
    assert model(images_of(2)).shape == (2, 1, 5)
    model.memory_format = LAST
    with pytest.raises(UsageError, match="must classify images without an error; it raised RuntimeError: view") as caught:
        model(images_of(2))
    assert "planes.py" in str(caught.value)
