"""What a forward pass must know beyond its images: whose they are, where dropout's keys come from, what it measured.

A *block* is the images of k groups of workers computed in one forward pass; a group is what batch normalisation treats
together (statement B1), mostly one worker. Images lie group-fastest: image n of the block belongs to group n % k, so that
activations (N, C, H, W) seen as (N/k, k*C, H, W) have one channel a group.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from widestep.errors import UsageError

DropoutKeys = Callable[[int], NDArray[np.uint64]]
"""draw_number -> a key for every group of the block and every slot, shape (k, T). The first use of a dropout layer in a pass
draws with the number of the layer; further uses have numbers of their own."""


class BatchStatistics(NamedTuple):
    """Moments that one batch normalisation measured in training mode."""

    mean: Tensor
    """Shape (k, T*C): a row a group."""
    variance: Tensor
    """Shape (k, T*C), unbiased: divided by num_values - 1 (statement B4)."""
    num_values: int
    """Values a channel in each group: its images * H * W."""


@dataclass(eq=False)
class BlockContext:
    """Shared by all layers of one model; the engine calls `begin` before every forward pass.

    The layers of a network only hand each other activations. What concerns the block as a whole travels through this
    object instead, so that a model is an ordinary module called with images.
    """

    num_groups: int = 1
    """k: the groups of workers whose images are interleaved in the block."""
    num_copies: int = 1
    """Of every weight: k while the workers' own gradients are wanted, otherwise 1."""
    num_batch_norms: int = 0
    """Batch normalisations that record; they are numbered from 0 in the order of registration."""
    num_dropouts: int = 0
    """Dropout layers, numbered likewise."""
    num_images: int | None = None
    """N, for models whose layers may see tensors that do not have the images along the first dimension."""
    ended: bool = False
    """Whether the forward pass is over, for models whose layers the backward pass might call again."""
    _dropout_keys: DropoutKeys | None = None
    _recorded: dict[int, BatchStatistics] = field(default_factory=dict, repr=False)
    _leaves: dict[Tensor, Tensor] = field(default_factory=dict, repr=False)
    _num_draws: dict[int, int] = field(default_factory=dict, repr=False)

    def begin(self, num_groups: int = 1, dropout_keys: DropoutKeys | None = None, *, per_worker: bool = False) -> None:
        """Announce the block that comes next and forget what was recorded of the one before.

        Parameters
        ----------
        num_groups
            k; the block has a multiple of k images.
        dropout_keys
            Where dropout gets its keys; may stay empty when nothing drops out.
        per_worker
            Give every group, which is then one worker, a copy of the weights: see `worker_leaves`.
        """
        assert num_groups >= 1
        self.num_groups = num_groups
        self.num_copies = num_groups if per_worker else 1
        self.num_images, self.ended, self._dropout_keys = None, False, dropout_keys
        self._recorded.clear()
        self._leaves.clear()
        self._num_draws.clear()

    def register_batch_norm(self) -> int:
        """Return the number under which one more batch normalisation will record its statistics."""
        self.num_batch_norms += 1
        return self.num_batch_norms - 1

    def register_dropout(self) -> int:
        """Return the number under which one more dropout layer will ask for its keys."""
        self.num_dropouts += 1
        return self.num_dropouts - 1

    def check_images_first(self, x: Tensor) -> None:
        """Refuse activations whose first dimension does not count the images, where groups must be told apart by it."""
        if self.num_groups > 1 and self.num_images not in (None, x.shape[0]):
            raise UsageError(
                "With several workers in a forward pass, batch normalisation and dropout need the images along the first "
                f"dimension, here {self.num_images}; got activations of shape {tuple(x.shape)}. Set workers_per_forward "
                "to 1."
            )

    def next_keys(self, layer_number: int) -> NDArray[np.uint64]:
        """Return the keys, shape (k, T), of the next use of a dropout layer."""
        if self.ended:
            raise UsageError(
                "Dropout must draw within the forward pass; it was called again in the backward pass. Leave it outside of "
                "what torch.utils.checkpoint computes twice."
            )
        assert self._dropout_keys is not None, "dropout needs keys in training: see BlockContext.begin"
        use = self._num_draws.get(layer_number, 0)
        self._num_draws[layer_number] = use + 1
        return self._dropout_keys(layer_number + use * self.num_dropouts)

    def weight(self, parameter: Tensor) -> Tensor:
        """Return what a layer computes with for its parameter (T*C, ...): itself, or the workers' copies (k*T*C, ...)."""
        if self.num_copies == 1:
            return parameter
        leaf = self._leaves.get(parameter)
        if leaf is None:
            leaf = parameter.detach().expand(self.num_copies, *parameter.shape).requires_grad_()
            self._leaves[parameter] = leaf
        return leaf.flatten(0, 1)

    def worker_leaves(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """Return what to differentiate the loss by for every worker's own gradient, after a pass with `per_worker`.

        Returns
        -------
        A leaf of shape (k, *parameter.shape) for every parameter, in order. In a block of one worker, whose own gradient
        is the gradient, the parameters themselves: no copies were made.
        """
        if self.num_copies == 1:
            assert self.num_groups == 1, "the forward pass was begun without per_worker"
            return list(parameters)
        return [self._leaves[parameter] for parameter in parameters]

    def record(self, layer_number: int, statistics: BatchStatistics) -> None:
        """Keep what batch normalisation `layer_number` measured; the order of the calls does not matter."""
        if self.ended:  # computed again in the backward pass: the same numbers
            return
        if layer_number in self._recorded:
            raise UsageError(
                "A batch normalisation must be used at one place of the network, because its running statistics are those "
                "of one place; one was used twice. Give every place its own."
            )
        self._recorded[layer_number] = statistics

    def unrecorded(self) -> list[int]:
        """Return the numbers of the batch normalisations that have recorded nothing since `begin`."""
        return [number for number in range(self.num_batch_norms) if number not in self._recorded]

    def batch_statistics(self) -> list[BatchStatistics]:
        """Return what the training pass since `begin` measured, in layer order: that of `StackedModel.batch_norms()`."""
        assert not self.unrecorded(), "a whole forward pass in training mode comes first"
        return [self._recorded[number] for number in range(self.num_batch_norms)]
