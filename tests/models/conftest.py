"""Models with weights, made the same way for every test of the layer."""

from collections.abc import Callable

import pytest
import torch

from widestep.models.build import build_model
from widestep.models.initialise import initialise
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

    def make(name: str, seeds: tuple[int, ...], dtype: torch.dtype = torch.float64) -> StackedModel:
        model: StackedModel
        if name == "tiny-bottleneck":
            model = ResidualNetwork(TINY_BOTTLENECK, num_classes=5, num_channels=3, num_slots=len(seeds), dropout=0.0)
        else:
            shape = (1, 8, 8) if name == "digits-resnet" else (3, 16, 16)
            model = build_model(name, num_classes=5, image_shape=shape, num_slots=len(seeds))
        for slot, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            initialise(model, slot, generator)
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
