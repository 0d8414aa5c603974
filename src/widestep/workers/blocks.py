"""One forward pass: the images of neighbouring workers, and what it says about each run's loss and statistics."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from widestep.errors import EnvironmentFault
from widestep.models.block import DropoutKeys
from widestep.models.global_draws import global_generator
from widestep.models.stacked import StackedModel
from widestep.workers.moments import MomentSums


@dataclass(frozen=True)
class Block:
    """Images of neighbouring workers that pass through the model together: a block of the placement.

    In a short last step, where some of its workers have one image more than others, a part of one; where a worker's images
    do not fit into memory, one of its passes.

    Parameters
    ----------
    images
        Shape (N, T*C, H, W); image n belongs to group `groups[n % k]` and slot t owns channels t*C to (t+1)*C.
    labels
        Shape (N, T), int64.
    groups
        The k groups of workers that batch normalisation treats together, each with N / k images. A group is one worker
        unless the recipe says otherwise.
    dropout_keys
        Where dropout gets its random numbers.
    seed
        For whatever else draws random numbers within a user's own model, from torch's global generator.
    share
        Part of each group's images that is in this pass: less than 1 where they are cut into several.
    """

    images: Tensor
    labels: Tensor
    groups: range
    dropout_keys: DropoutKeys | None = None
    seed: int = 0
    share: float = 1.0

    @property
    def images_per_group(self) -> int:
        """Images of each of the k groups in this pass."""
        return len(self.labels) // len(self.groups)


BatchOf = Callable[[range], Iterable[Block]]
"""The images of some neighbouring workers at the current step: one block, or several where a short last step gives some of
them fewer images than others, or where one worker's are cut into several passes, one after the other; or none."""


class ForwardPass:
    """Computes the losses of one block, the same way in every mode.

    Parameters
    ----------
    model
        In training mode; its parameters are read, never written.
    label_smoothing
        Share of the target spread over all classes.
    precision
        `fp32`, or `bf16` for torch's autocast.
    per_worker
        Whether every worker's own gradient is wanted: the model then keeps them apart.
    """

    def __init__(self, model: StackedModel, *, label_smoothing: float, precision: str, per_worker: bool = False) -> None:
        self.model = model
        self.moments = MomentSums(model)
        self._label_smoothing = label_smoothing
        self._autocast = precision == "bf16"
        self._device_type = next(model.parameters()).device.type
        self._per_worker = per_worker

    @contextmanager
    def of_one_step(self) -> Iterator[None]:
        """Within this context weights stay as they are, so that bf16 passes round them once and not in every block."""
        with torch.autocast(self._device_type, enabled=False) if self._autocast else nullcontext():
            yield  # autocast keeps what it rounded until the outermost of its contexts ends

    def losses(self, block: Block) -> Tensor:
        """Return the loss of every image, shape (N, T), after a pass through the model."""
        per_worker = self._per_worker and len(block.groups) > 1
        self.model.context.begin(len(block.groups), block.dropout_keys, per_worker=per_worker)
        device = block.images.device
        precision = torch.autocast(device.type, torch.bfloat16) if self._autocast else nullcontext()
        randomness = global_generator(block.seed, device) if self.model.draws_globally else nullcontext()
        with explained(device), randomness, precision:
            logits = self.model(block.images)
        return F.cross_entropy(
            logits.flatten(0, 1).to(block.images.dtype),  # whatever a user's model returns: sums are of one kind
            block.labels.flatten(),
            reduction="none",
            label_smoothing=self._label_smoothing,
        ).view(block.labels.shape)

    def measured(self, block: Block, centre: Tensor) -> Iterator[Tensor]:
        """Yield what batch normalisation measured in the last pass, as `MomentSums.pack`."""
        measured = self.model.context.batch_statistics()
        return self.moments.pack(measured, block.groups, block.images_per_group, centre, block.share)


@contextmanager
def explained(device: torch.device) -> Iterator[None]:
    """Say in words that an operation has no deterministic form.

    Raises
    ------
    EnvironmentFault
        Names the operation.
    """
    try:
        yield
    except RuntimeError as error:
        operation, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not found:
            raise
        raise EnvironmentFault(
            f"Reproducible training needs operations that give the same bytes every time. {operation} has no such form "
            f"on {device.type}; use another layer, another device, or mode = fast."
        ) from None
