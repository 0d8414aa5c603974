"""What a step changes: the state of one run, held in its slot of the stacked model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from widestep.models.initialise import initialise
from widestep.models.stacked import StackedModel, parameter_roles
from widestep.optim.build import build_optimizer, update
from widestep.plan.randomness import Stream
from widestep.plan.runplan import RunPlan


@dataclass
class Tally:
    """The numbers a run carries from step to step, as they go into a checkpoint."""

    step: int = 0
    epoch_loss: float = 0.0
    """Sum of the losses of the images of the epoch so far."""
    epoch_images: int = 0
    images_seen: int = 0
    accuracies: list[float] = field(default_factory=list)
    """Validation accuracy of every evaluation so far."""
    gradient_norms: list[float] = field(default_factory=list)
    """Of the last few steps."""
    train_seconds: float = 0.0


class TrainState:
    """One run in training.

    Parameters
    ----------
    model
        The stacked model that holds the run's weights.
    slot
        Which slot of it.
    plan
        The run's recipe on its data set.
    """

    def __init__(self, model: StackedModel, slot: int, plan: RunPlan) -> None:
        self.plan = plan
        self.slot = slot
        self.tally = Tally()
        self.failure: str | None = None
        self.best: dict[str, Tensor] | None = None
        self._model = model
        generator = torch.Generator().manual_seed(Stream(plan.recipe.seed, "init").key())
        initialise(model, slot, generator, plan.recipe.zero_gamma)
        self.parameters: Mapping[str, Tensor] = model.slot_parameters(slot)
        self.statistics: Mapping[str, Tensor] = model.slot_statistics(slot)
        first = next(iter(self.parameters.values()))
        self.gradient = torch.zeros(sum(p.numel() for p in self.parameters.values()), device=first.device)
        self._attach_gradient()
        self.optimizer = build_optimizer(plan.recipe, self.parameters, parameter_roles(model))

    def _attach_gradient(self) -> None:
        """Make every parameter's gradient a view of the flat one."""
        sizes = [p.numel() for p in self.parameters.values()]
        for parameter, piece in zip(self.parameters.values(), self.gradient.split(sizes), strict=True):
            parameter.requires_grad_()
            parameter.grad = piece.view(parameter.shape)

    @property
    def finished(self) -> bool:
        """Whether no step is left to take."""
        return self.failure is not None or self.tally.step >= self.plan.total_steps

    def apply(self, gradient: Tensor, lr: float) -> None:
        """Take one optimizer step with the averaged gradient, shape (P,), at a learning rate."""
        self.gradient.copy_(gradient)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        update(self.optimizer)

    def weights(self) -> dict[str, Tensor]:
        """Return parameters and running statistics by name, sharing memory with the run."""
        return {name: tensor.detach() for name, tensor in (*self.parameters.items(), *self.statistics.items())}

    def keep_best(self) -> None:
        """Remember a copy of the weights as the best so far."""
        self.best = {name: tensor.clone() for name, tensor in self.weights().items()}

    def freeze(self, reason: str) -> None:
        """End the run as diverged: keep a copy of its last good weights and leave the slot empty."""
        self.failure = reason
        self.parameters = {name: tensor.detach().clone() for name, tensor in self.parameters.items()}
        self.statistics = {name: tensor.clone() for name, tensor in self.statistics.items()}
        for view in self._model.slot_parameters(self.slot).values():
            view.zero_()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's tensors as `parameter name:key`; empty before the first step."""
        return {
            f"{name}:{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `optimizer_tensors` returned."""
        for label, value in tensors.items():
            name, _, key = label.rpartition(":")
            self.optimizer.state[self.parameters[name]][key] = value.to(self.gradient.device)


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hash parameters and running statistics in name order, as little-endian float32.

    Two runs have the same digest exactly when they have the same weights to the bit.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].detach().cpu().contiguous().float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def update_running_statistics(model: StackedModel, batch_statistics: Tensor, momentum: float, slots: Sequence[int]) -> None:
    """Move the running statistics of some slots towards a step's batch statistics, once a step (statements B2, B3).

    running = (1 - momentum) * running + momentum * batch, where `batch` is already the mean over workers (the mean of the
    workers' running averages is the running average of their means) or worker 0's alone.

    Parameters
    ----------
    batch_statistics
        Shape (T, S): for every batch normalisation, in layer order, its C means and C unbiased variances.
    slots
        Those that took the step.
    """
    rows = torch.tensor(slots, dtype=torch.int64, device=batch_statistics.device)
    offset = 0
    for norm in model.batch_norms():
        for running in (norm.running_mean, norm.running_var):
            per_slot = running.view(model.num_slots, -1)
            width = per_slot.shape[1]
            batch = batch_statistics[:, offset : offset + width]
            if len(slots) == model.num_slots:
                per_slot.mul_(1.0 - momentum).add_(batch, alpha=momentum)
            else:
                per_slot[rows] = (per_slot[rows] * (1.0 - momentum)).add_(batch[rows], alpha=momentum)
            offset += width
