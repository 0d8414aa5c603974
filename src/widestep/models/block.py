"""What a forward pass must know beyond its images: whose they are, where dropout's numbers come from, what it measured.

A *block* is the images of k neighbouring workers computed in one forward pass. They lie worker-fastest: image n of the
block belongs to worker n % k, so that activations (N, C, H, W) seen as (N/k, k*C, H, W) have one channel a worker.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

DropoutUniforms = Callable[[int, int], Tensor]
"""(layer_number, width) -> uniforms in [0, 1), shape (N, T, width), in the order and on the device of the images."""


class BatchStatistics(NamedTuple):
    """Moments that one batch normalisation measured in training mode, each of shape (k, T*C): a row a worker."""

    mean: Tensor
    variance: Tensor
    """Unbiased: divided by n - 1, with n = images_per_worker * H * W values a channel (statement B4)."""


@dataclass(eq=False)
class BlockContext:
    """Shared by all layers of one model; the engine calls `begin` before every forward pass.

    The layers of a network only hand each other activations. What concerns the block as a whole travels through this
    object instead, so that a model is an ordinary module called with images.
    """

    num_workers: int = 1
    """k: the workers whose images are interleaved in the batch."""
    dropout_uniforms: DropoutUniforms | None = None
    """Where dropout gets its numbers; may stay empty when nothing drops out."""
    num_batch_norms: int = 0
    """Batch normalisations that have registered; they are numbered from 0 in the order of construction."""
    _recorded: dict[int, BatchStatistics] = field(default_factory=dict, repr=False)

    def begin(self, num_workers: int = 1, dropout_uniforms: DropoutUniforms | None = None) -> None:
        """Announce the block that comes next and forget what was recorded of the one before."""
        assert num_workers >= 1
        self.num_workers = num_workers
        self.dropout_uniforms = dropout_uniforms
        self._recorded.clear()

    def register_batch_norm(self) -> int:
        """Return the number under which one more batch normalisation will record its statistics."""
        self.num_batch_norms += 1
        return self.num_batch_norms - 1

    def record(self, layer_number: int, statistics: BatchStatistics) -> None:
        """Keep what batch normalisation `layer_number` measured; the order of the calls does not matter."""
        self._recorded[layer_number] = statistics

    def batch_statistics(self) -> list[BatchStatistics]:
        """Return what the training pass since `begin` measured, in layer order: that of `StackedModel.batch_norms()`."""
        assert len(self._recorded) == self.num_batch_norms, "a whole forward pass in training mode comes first"
        return [self._recorded[number] for number in range(self.num_batch_norms)]
