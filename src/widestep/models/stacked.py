"""What all models have in common: T slots, a block context, and views of one slot's parameters and statistics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from widestep.models.batchnorm import WorkerBatchNorm
from widestep.models.block import BlockContext
from widestep.models.layers import slot_view

Role = Literal["weight", "bias", "batchnorm"]

NORMALISATIONS = (WorkerBatchNorm, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers whose parameters are scales and shifts; `_NormBase` stands for torch's batch and instance normalisations."""


class StackedModel(nn.Module, ABC):
    """A classifier that holds T independent trials: images (N, T*C, H, W) -> logits (N, T, num_classes).

    Every parameter and every running statistic has T*C entries in its first dimension, slot t owning the t-th piece.
    With T = 1 it is the ordinary network. In training mode the N images are those of `context.num_groups` groups of workers,
    group-fastest.

    Parameters
    ----------
    context
        The one that all its layers were given.
    num_slots
        T.
    """

    draws_globally = False
    """Whether training may draw from torch's global generators, which the caller then seeds."""
    memory_format = torch.contiguous_format
    """How images lie in memory, and with them all activations. Weights, and so gradients and what optimizers remember, stay
    contiguous: convolutions convert what they read, which costs nothing that could be measured."""
    compiled: Callable[[Tensor], Tensor] | None = None
    """What computes training passes in the place of `compute`; passes without gradients never are compiled."""

    def __init__(self, context: BlockContext, num_slots: int) -> None:
        super().__init__()
        self.context = context
        self.num_slots = num_slots

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (N, T*C, H, W): logits (N, T, num_classes)."""
        wanted = self.training and torch.is_grad_enabled()
        compute = self.compiled if wanted and self.compiled is not None else self.compute
        return compute(images.contiguous(memory_format=self.memory_format))

    @abstractmethod
    def compute(self, images: Tensor) -> Tensor:
        """Compute logits from images that lie in memory as they should."""

    @property
    def network(self) -> nn.Module:
        """The module that parameters and statistics have their names in."""
        return self

    def explaining(self, doing: str) -> AbstractContextManager[None]:
        """Return a context that turns errors of a user's own code into words; for shipped models, one that does nothing."""
        return nullcontext()

    @abstractmethod
    def initialise(self, slot: int, key: int, zero_gamma: bool = False, classifier_std: float | None = None) -> None:
        """Give one slot its initial weights and statistics, functions of `key`; the other slots keep theirs.

        Parameters
        ----------
        slot
            Which trial, from 0.
        key
            In [0, 2**64).
        zero_gamma
            Start every residual at 0, so that only the shortcuts pass: the scale of the last batch normalisation of each
            block is 0 instead of 1 (statement B6; Goyal et al. 2017, section 5.1).
        classifier_std
            Standard deviation of the classifier's normal weights, its bias being 0 (0.01 in Goyal et al. 2017, section
            5.1); None for the usual ones.

        Raises
        ------
        UsageError
            When `zero_gamma` or `classifier_std` is asked of a model that widestep does not know from within.
        """

    def trained_names(self) -> list[str]:
        """Return the names of the parameters that training moves: all but those with requires_grad=False."""
        return [name for name, parameter in self.network.named_parameters() if parameter.requires_grad]

    def slot_parameters(self, slot: int) -> dict[str, Tensor]:
        """Return one trial's parameters by name, in the order of `parameters()`, with the shapes of the unstacked network.

        They are detached views: writing into one changes the model. Moving the model to another device or type gives
        it new memory; ask again afterwards.
        """
        return self._views(self.network.named_parameters(), slot)

    def slot_statistics(self, slot: int) -> dict[str, Tensor]:
        """Return what else one trial's logits depend on, by name, in module order, as views (see above).

        That is `running_mean` and `running_var`; for users' own models also their other buffers.
        """
        return self._views(self.network.named_buffers(), slot)

    def batch_norms(self) -> list[WorkerBatchNorm]:
        """Return the batch normalisations with running statistics, in the order of `context.batch_statistics()`."""
        numbered = {m.layer_number: m for m in self.modules() if isinstance(m, WorkerBatchNorm)}
        return [numbered[number] for number in range(self.context.num_batch_norms)]

    def _views(self, named: Iterator[tuple[str, Tensor]], slot: int) -> dict[str, Tensor]:
        return {name: slot_view(tensor, slot, self.num_slots) for name, tensor in named}


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """Say of every parameter what it is, by the type of the layer that owns it and its dimension, never by its name.

    Weight decay and trust ratios treat weights, biases and the scales and shifts of normalisations differently (statement
    O3). Names mislead: in ResNet-50 the batch normalisations of the four projection shortcuts are called `downsample.1`.

    Returns
    -------
    Parameter name -> role, in the order of `parameters()`:

    - "batchnorm" for every parameter of a batch, group, layer, instance or RMS normalisation of torch or of this package;
    - "bias" for every other parameter of at most one dimension, whatever it does;
    - "weight" for the rest.

    A parameter that several layers share has one name, its first, and is "batchnorm" when one of them is a normalisation.
    """
    network = model.network if isinstance(model, StackedModel) else model
    of_norms = {
        parameter
        for module in network.modules()
        if isinstance(module, NORMALISATIONS)
        for parameter in module.parameters(recurse=False)
    }

    def role(parameter: Tensor) -> Role:
        if parameter in of_norms:
            return "batchnorm"
        return "bias" if parameter.dim() <= 1 else "weight"

    return {name: role(parameter) for name, parameter in network.named_parameters()}
