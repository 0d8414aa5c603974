"""Models with weights, made the same way for every test of the layer."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from widestep.models.build import build_model
from widestep.models.resnet import Architecture, Bottleneck, ResidualNetwork, Stage
from widestep.models.stacked import StackedModel

TINY_BOTTLENECK = Architecture(
    Bottleneck,
    (Stage(1, 4, 1), Stage(2, 8, 2)),
    stem_channels=6,
    smallest_side=8,
    stem_kernel=7,
    stem_stride=2,
    stem_pools=True,
)
"""The ImageNet stem and block at a size that takes milliseconds; images 3x16x16."""


@pytest.fixture
def made() -> Callable[..., StackedModel]:
    """Make a model of 5 classes whose slot i is initialised from `seeds[i]`, scales and shifts of batch-norm at random."""

    def make(name: str, seeds: tuple[int, ...], dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> StackedModel:
        model: StackedModel
        if name == "tiny-bottleneck":
            model = ResidualNetwork(TINY_BOTTLENECK, 5, num_channels=3, num_slots=len(seeds), dropout=dropout)
        else:
            shape = (1, 8, 8) if name == "digits-resnet" else (3, 16, 16)
            model = build_model(name, num_classes=5, image_shape=shape, num_slots=len(seeds), dropout=dropout)
        for slot, seed in enumerate(seeds):
            model.initialise(slot, seed)
            generator = torch.Generator().manual_seed(1000 + seed)
            for parameter_name, view in model.slot_parameters(slot).items():
                if "fc" not in parameter_name and view.dim() == 1:
                    view.add_(0.3 * torch.randn(view.shape, generator=generator))
        return model.to(dtype)

    return make


@pytest.fixture
def images_for() -> Callable[..., torch.Tensor]:
    """Draw images of one slot for a model: (num_images, C, H, W)."""

    def draw(name: str, num_images: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        shape = (1, 8, 8) if name == "digits-resnet" else (3, 16, 16)
        generator = torch.Generator().manual_seed(1000 + seed)
        return torch.randn(num_images, *shape, generator=generator, dtype=torch.float64).to(dtype)

    return draw


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., StackedModel]:
    """Build a user's own model: the body of a file that defines Net; 5 classes, images 3x8x8, key 0."""
    written: list[Path] = []

    def build(body: str, name: str = "Net", dtype: torch.dtype = torch.float32, key: int = 0) -> StackedModel:
        file = tmp_path / f"net{len(written)}.py"
        file.write_text("import torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n" + textwrap.dedent(body))
        written.append(file)
        model = build_model(f"{file}:{name}", num_classes=5, image_shape=(3, 8, 8))
        model.initialise(0, key)
        return model.to(dtype)

    return build


@pytest.fixture
def keys_of() -> Callable[..., Callable[[int], np.ndarray]]:
    """Dropout keys of some groups: group g, slot t and draw d have the key 1000 d + 10 g + t."""

    def of(groups: range, num_slots: int = 1) -> Callable[[int], np.ndarray]:
        return lambda draw: np.array([[1000 * draw + 10 * g + t for t in range(num_slots)] for g in groups], dtype=np.uint64)

    return of
