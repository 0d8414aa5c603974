"""Initial weights of one slot, drawn in an order that neither the other slots nor the device can change."""

import math

import torch
from torch import Tensor, nn

from widestep.models.batchnorm import WorkerBatchNorm
from widestep.models.layers import StackedConv2d, StackedLinear, slot_view
from widestep.models.stacked import StackedModel


def initialise(model: StackedModel, slot: int, generator: torch.Generator, classifier_std: float | None = None) -> None:
    """Draw the initial weights of all layers of one slot, and reset its statistics; the other slots keep theirs.

    Numbers are drawn on the CPU in float32, in module order, for tensors of the shape of one slot: the initial weights
    depend on the generator only, not on T, the slot, the device or the type of the model.

    Parameters
    ----------
    model
        One made of the stacked layers, changed in place.
    slot
        Which of its trials, from 0.
    generator
        A CPU generator; its state moves on.
    classifier_std
        See `StackedModel.initialise`.

    Notes
    -----
    Convolutions: normal with standard deviation sqrt(2 / fan_out), fan_out = out_channels * kernel_size**2 of one slot
    (He et al. 2015, section 2.2, the backward case). Batch normalisation: scale 1, shift 0, running mean 0, running
    variance 1. Classifier: weight and bias uniform in +-1/sqrt(in_features), the default of `torch.nn.Linear`; with
    `classifier_std` weight normal with that standard deviation, bias 0.
    """
    for module in model.modules():
        if isinstance(module, StackedConv2d):
            _initialise_convolution(module, slot, generator)
        elif isinstance(module, StackedLinear):
            _initialise_linear(module, slot, generator, classifier_std)
        elif isinstance(module, WorkerBatchNorm):
            _initialise_norm(module, slot, model.num_slots)


def _initialise_convolution(module: StackedConv2d, slot: int, generator: torch.Generator) -> None:
    weight = slot_view(module.weight, slot, module.num_slots)
    weight.copy_(nn.init.kaiming_normal_(_drawn_like(weight), mode="fan_out", nonlinearity="relu", generator=generator))
    if module.bias is not None:
        slot_view(module.bias, slot, module.num_slots).zero_()


def _initialise_linear(module: StackedLinear, slot: int, generator: torch.Generator, std: float | None) -> None:
    weight = slot_view(module.weight, slot, module.num_slots)
    bias = slot_view(module.bias, slot, module.num_slots)
    if std is not None:
        weight.copy_(_drawn_like(weight).normal_(0.0, std, generator=generator))
        bias.zero_()
        return
    bound = 1 / math.sqrt(weight.shape[1])
    weight.copy_(_drawn_like(weight).uniform_(-bound, bound, generator=generator))
    bias.copy_(_drawn_like(bias).uniform_(-bound, bound, generator=generator))


def _initialise_norm(module: WorkerBatchNorm, slot: int, num_slots: int) -> None:
    for tensor, value in ((module.weight, 1), (module.bias, 0), (module.running_mean, 0), (module.running_var, 1)):
        assert tensor is not None
        slot_view(tensor, slot, num_slots).fill_(value)


def _drawn_like(view: Tensor) -> Tensor:
    """Return room for draws of the shape of `view`: contiguous, on the CPU, float32, whatever the model has."""
    return torch.empty(view.shape, dtype=torch.float32, device="cpu")
