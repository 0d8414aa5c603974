"""Dropout whose masks are functions of a key for every group of workers and slot, so that no generator has a state."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from widestep.errors import UsageError
from widestep.models.block import BlockContext

NUM_SPATIAL = {nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}
"""Dimensions of a channel in torch's layers that drop whole channels."""


class KeyedDropout(nn.Module):
    """Dropout with masks from (seed, step, group of workers, layer): the context hands out the keys (statement D4).

    In training mode a value is kept where its uniform number in [0, 1) is at least `rate`, and multiplied by 1 / (1 - rate);
    otherwise it becomes 0. With rate 0 no keys are asked for. In evaluation mode nothing happens.

    Parameters
    ----------
    rate
        Probability of dropping a value, in [0, 1].
    context
        Provides the keys of this forward pass.
    num_slots
        T: activations are (N, T*C, ...), image n belonging to group n % k.

    Notes
    -----
    The uniforms of one group and slot, over its images and the features of each, come from one `torch.Generator` on the
    device of the activations, seeded with the key. Those of the CPU use 32 of the 64 bits of a key: among a hundred thousand
    masks about one pair is equal.
    """

    inplace = False
    num_spatial: int | None = None
    """Dimensions of the channels that are dropped as a whole; None where every value is dropped by itself."""

    def __init__(self, rate: float, context: BlockContext, num_slots: int = 1) -> None:
        super().__init__()
        assert 0 <= rate <= 1
        self.rate, self.context, self.num_slots = rate, context, num_slots
        self.layer_number = context.register_dropout()

    @classmethod
    def adopt(cls, dropout: _DropoutNd, context: BlockContext) -> None:
        """Turn one of torch's layers into this one where it is, so that all who refer to it keep it."""
        num_spatial = next((number for kind, number in NUM_SPATIAL.items() if isinstance(dropout, kind)), None)
        dropout.__class__ = cls  # type: ignore[assignment]
        adopted = cast(KeyedDropout, dropout)
        adopted.rate, adopted.context, adopted.num_slots = dropout.p, context, 1
        adopted.num_spatial = num_spatial
        adopted.layer_number = context.register_dropout()

    def forward(self, x: Tensor) -> Tensor:
        """Drop values, or whole channels, in training mode."""
        if not self.training or self.rate == 0:
            return x
        scale = 1 / (1 - self.rate) if self.rate < 1 else 0.0
        y = torch.where(self._uniforms(x) >= self.rate, x * scale, 0.0)
        return x.copy_(y) if self.inplace else y

    def _uniforms(self, x: Tensor) -> Tensor:
        """Draw uniforms in the shape of the activations, or (N, C, 1, ...) where channels are dropped as a whole."""
        shape = x.shape
        if self.num_spatial is not None:
            if x.dim() != self.num_spatial + 2:
                raise UsageError(
                    f"Dropout{self.num_spatial}d needs activations of {self.num_spatial + 2} dimensions (images, channels, "
                    f"positions); got shape {tuple(x.shape)}. Use the dropout of that many dimensions, or nn.Dropout."
                )
            shape = torch.Size((*x.shape[:2], *([1] * self.num_spatial)))
        self.context.check_images_first(x)
        keys = self.context.next_keys(self.layer_number).tolist()
        num_each, num_values = shape[0] // len(keys), math.prod(shape[1:]) // self.num_slots
        drawn = torch.empty((len(keys), self.num_slots, num_each * num_values), dtype=torch.float32, device=x.device)
        generator = torch.Generator(x.device)
        for of_group, keys_of_group in zip(drawn, keys, strict=True):
            for of_slot, key in zip(of_group, keys_of_group, strict=True):
                of_slot.uniform_(generator=generator.manual_seed(key))
        by_image: Tensor = drawn.view(len(keys), self.num_slots, num_each, num_values).permute(2, 0, 1, 3)
        return by_image.reshape(shape)
