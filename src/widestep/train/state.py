"""What a step changes: the state of one run, held in its slot of the stacked model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from widestep.models.stacked import StackedModel, parameter_roles
from widestep.optim.build import build_optimizer, set_rate, update
from widestep.plan.randomness import Stream
from widestep.plan.runplan import RunPlan
from widestep.records.gradients import GradientStatistics
from widestep.train.adascale import GainEstimate, usual_smoothing

POLICIES = ("mean", "pooled", "worker0", "last")
"""Policies of running batch-norm statistics that every run keeps side by side (statement B3), in the order of their rows."""


@dataclass
class Tally:
    """The numbers a run carries from step to step, as they go into a checkpoint."""

    step: int = 0
    progress: float = 0.0
    """Steps of the schedule: with AdaScale the gains so far, otherwise the steps."""
    gain: dict[str, float] = field(default_factory=lambda: vars(GainEstimate()))
    """AdaScale's estimates."""
    epoch_loss: float = 0.0
    """Sum of the losses of the images of the epoch so far."""
    epoch_images: int = 0
    images_seen: int = 0
    accuracies: list[float] = field(default_factory=list)
    """Validation accuracy of every evaluation so far."""
    gradient_norms: list[float] = field(default_factory=list)
    """Of the last few steps."""
    train_seconds: float = 0.0
    damaged: list[int] = field(default_factory=list)
    """Ids of the damaged images met so far, where these are skipped."""


@dataclass(frozen=True)
class Applied:
    """What a step applies to one run, besides its gradient.

    Parameters
    ----------
    lr
        The rate given to the optimizer.
    gain
        AdaScale's gain; None for other rules.
    estimate
        AdaScale's estimates after the step.
    """

    lr: float
    gain: float | None = None
    estimate: GainEstimate | None = None


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
        recipe = plan.recipe
        model.initialise(slot, Stream(recipe.seed, "init").key(), recipe.zero_gamma, recipe.classifier_std)
        self.parameters: Mapping[str, Tensor] = model.slot_parameters(slot)
        self.statistics: Mapping[str, Tensor] = model.slot_statistics(slot)
        self.trained = {name: self.parameters[name] for name in model.trained_names()}
        first = next(iter(self.trained.values()))
        self.gradient = torch.zeros(sum(p.numel() for p in self.trained.values()), device=first.device)
        self._attach_gradient()
        self.optimizer = build_optimizer(recipe, self.trained, parameter_roles(model), plan.epochs_in)
        self.running = self._initial_statistics(first.device)
        self._before: dict[str, Tensor] = {}

    def _attach_gradient(self) -> None:
        """Make every trained parameter's gradient a view of the flat one."""
        sizes = [p.numel() for p in self.trained.values()]
        for parameter, piece in zip(self.trained.values(), self.gradient.split(sizes), strict=True):
            parameter.requires_grad_()
            parameter.grad = piece.view(parameter.shape)

    def _initial_statistics(self, device: torch.device) -> Tensor:
        """Return statistics before the first step, mean 0 and variance 1: shape (4, 2, M), a row a policy."""
        num_channels = sum(norm.num_channels for norm in self._model.batch_norms()) // self._model.num_slots
        return torch.tensor([0.0, 1.0], device=device)[None, :, None].repeat(len(POLICIES), 1, num_channels)

    @property
    def finished(self) -> bool:
        """Whether no step is left to take."""
        return self.failure is not None or self.ended

    @property
    def ended(self) -> bool:
        """Whether training has come to its end."""
        return self.tally.step >= self.plan.total_steps or self.tally.progress >= self.plan.length

    def decide(self, statistics: GradientStatistics | None, step: int) -> Applied:
        """Return what the step would apply, which AdaScale alone makes depend on the gradient; nothing changes yet."""
        recipe = self.plan.recipe
        if recipe.scaling != "adascale":
            return Applied(self.plan.lr(step, self.tally.progress))
        assert statistics is not None
        if not statistics.finite:
            return Applied(self.plan.lr(step, self.tally.progress))
        assert statistics.mean_square_of_workers is not None
        num_workers = min(self.plan.grid_at(step).num_workers, statistics.num_images)
        smoothing = recipe.adascale_smoothing
        estimate = GainEstimate(**self.tally.gain).updated(
            statistics.mean_square_of_workers,
            statistics.gradient_norm**2,
            num_workers=num_workers,
            smoothing=usual_smoothing(num_workers) if smoothing is None else smoothing,
        )
        gain = estimate.gain(num_workers)
        return Applied(self.plan.lr(step, self.tally.progress, gain), gain, estimate)

    @torch.no_grad()
    def keep(self) -> None:
        """Remember what a step changes, so that `step_back` can undo one that turns out not to be finite."""
        held = self._moving()
        if _places(self._before) == _places(held):
            _copy(list(self._before.values()), list(held.values()))
        else:
            self._before = {name: tensor.clone() for name, tensor in held.items()}

    @torch.no_grad()
    def step_back(self) -> None:
        """Put everything back that has changed since `keep`, to the bit."""
        self.optimizer.state.clear()
        held, prefix = self._moving(), "optimizer/"
        _copy(list(held.values()), [self._before[name] for name in held])
        kept = {name.removeprefix(prefix): t.clone() for name, t in self._before.items() if name.startswith(prefix)}
        self.restore_optimizer(kept)

    def _moving(self) -> dict[str, Tensor]:
        """Return the tensors that a step changes by name."""
        optimizer = {f"optimizer/{name}": tensor for name, tensor in self.optimizer_tensors().items()}
        weights = {f"weights/{name}": tensor for name, tensor in self.trained.items()}
        return {**weights, "running": self.running, **optimizer}

    def apply(self, gradient: Tensor, applied: Applied, clip: Tensor | None = None) -> None:
        """Take one optimizer step with the averaged gradient, shape (P,), multiplied by `clip`, a float64 scalar."""
        self.gradient.copy_(gradient)
        if clip is not None:
            self.gradient.mul_(clip)
        set_rate(self.optimizer, applied.lr, self.plan.epochs_after(self.tally.step))
        update(self.optimizer)

    def move_statistics(self, step: Tensor) -> None:
        """Move the running statistics towards those of a step, shape (4, 2, M), once a step (statement B2).

        running = (1 - m) * running + m * step with m = batchnorm_momentum; of `last`, the step's own (Akiba et al. 2017).
        """
        momentum = self.plan.recipe.batchnorm_momentum
        self.running[:3].mul_(1.0 - momentum).add_(step[:3], alpha=momentum)
        self.running[3] = step[3]

    def advance(self, statistics: GradientStatistics, applied: Applied) -> None:
        """Count a step that was taken."""
        tally = self.tally
        tally.step += 1
        tally.progress = float(tally.step) if applied.gain is None else tally.progress + applied.gain
        if applied.estimate is not None:
            tally.gain = vars(applied.estimate)
        tally.images_seen += statistics.num_images
        tally.epoch_images += statistics.num_images
        tally.epoch_loss += statistics.loss * statistics.num_images

    def show(self, statistics: Tensor) -> None:
        """Evaluate with these batch-norm statistics from now on, shape (2, M): the weights include them."""
        offset = 0
        for norm in self._model.batch_norms():
            width = norm.num_channels // self._model.num_slots
            for held, row in ((norm.running_mean, statistics[0]), (norm.running_var, statistics[1])):
                if held is not None:
                    held.view(self._model.num_slots, -1)[self.slot].copy_(row[offset : offset + width])
            offset += width

    def weights(self) -> dict[str, Tensor]:
        """Return parameters and the statistics of evaluation by name, sharing memory with the run."""
        return {name: tensor.detach() for name, tensor in (*self.parameters.items(), *self.statistics.items())}

    def replicated(self) -> dict[str, Tensor]:
        """Return by name, in words, what every process of a job holds a copy of."""
        optimizer = {}
        for label, tensor in self.optimizer_tensors().items():
            name, _, key = label.rpartition(":")
            optimizer[f"{key} of {name}"] = tensor
        return {**self.parameters, **optimizer, "running batch-norm statistics": self.running}

    def keep_best(self) -> None:
        """Remember a copy of the weights as the best so far."""
        self.best = {name: tensor.clone() for name, tensor in self.weights().items()}

    def freeze(self) -> None:
        """Take the run out of the stack before its companions end: keep a copy of its weights and leave the slot empty."""
        self.parameters = {name: tensor.detach().clone() for name, tensor in self.parameters.items()}
        self.statistics = {name: tensor.clone() for name, tensor in self.statistics.items()}
        for view in self._model.slot_parameters(self.slot).values():
            view.zero_()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's tensors as `parameter name:key`; empty before the first step."""
        return {
            f"{name}:{key}": value
            for name, parameter in self.trained.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `optimizer_tensors` returned."""
        for label, value in tensors.items():
            name, _, key = label.rpartition(":")
            parameter = self.trained[name]
            self.optimizer.state[parameter][key] = value.to(parameter.device)


def _places(tensors: Mapping[str, Tensor]) -> dict[str, torch.device]:
    """Return where each tensor lies: between devices the host would wait for a copy."""
    return {name: tensor.device for name, tensor in tensors.items()}


def _copy(into: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors with others, those of one device together."""
    for device in {tensor.device for tensor in into}:
        places = [number for number, tensor in enumerate(into) if tensor.device == device]
        torch._foreach_copy_([into[place] for place in places], [tensors[place] for place in places])


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hash parameters and running statistics in name order, as little-endian float32.

    Two runs have the same digest exactly when they have the same weights to the bit.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].detach().cpu().contiguous().float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()
