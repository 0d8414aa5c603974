"""What all models have in common: T slots, a block context, and views of one slot's parameters and statistics."""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from widestep.models.block import BlockContext
from widestep.models.layers import StackedConv2d, StackedLinear, WorkerBatchNorm2d, slot_view

Role = Literal["weight", "bias", "batchnorm"]


class StackedModel(nn.Module):
    """A classifier that holds T independent trials: images (N, T*C, H, W) -> logits (N, T, num_classes).

    Every parameter and every running statistic has T*C entries in its first dimension, slot t owning the t-th piece.
    With T = 1 it is the ordinary network. In training mode the N images are those of `context.num_workers` workers,
    worker-fastest.

    Parameters
    ----------
    context
        The one that all its layers were given.
    num_slots
        T.
    """

    def __init__(self, context: BlockContext, num_slots: int) -> None:
        super().__init__()
        self.context = context
        self.num_slots = num_slots

    def slot_parameters(self, slot: int) -> dict[str, Tensor]:
        """Return one trial's parameters by name, in module order, with the shapes of the unstacked network.

        They are detached views: writing into one changes the model. Moving the model to another device or type gives
        it new memory; ask again afterwards.
        """
        return self._views(self.named_parameters(), slot)

    def slot_statistics(self, slot: int) -> dict[str, Tensor]:
        """Return one trial's `running_mean` and `running_var` by name, in module order, as views (see above)."""
        return self._views(self.named_buffers(), slot)

    def batch_norms(self) -> list[WorkerBatchNorm2d]:
        """Return the batch normalisations in the order of `context.batch_statistics()`."""
        norms = [module for module in self.modules() if isinstance(module, WorkerBatchNorm2d)]
        return sorted(norms, key=lambda norm: norm.layer_number)

    def _views(self, named: Iterator[tuple[str, Tensor]], slot: int) -> dict[str, Tensor]:
        return {name: slot_view(tensor, slot, self.num_slots) for name, tensor in named}


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """Say of every parameter what it is, by the type of the layer that owns it and never by its name.

    Weight decay and trust ratios treat weights, biases and the scales and shifts of batch normalisation differently
    (statement O3). Names mislead: in ResNet-50 the batch normalisations of the four projection shortcuts are called
    `downsample.1`.

    Returns
    -------
    Parameter name -> "weight", "bias" or "batchnorm", in module order.
    """
    roles: dict[str, Role] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            if isinstance(module, WorkerBatchNorm2d):
                roles[name] = "batchnorm"
            else:
                assert isinstance(module, StackedConv2d | StackedLinear), f"no role is known for {name}"
                roles[name] = "bias" if parameter is module.bias else "weight"
    return roles
