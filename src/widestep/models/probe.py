"""One small block twice through a model, to find what would keep its training from being exact, before training."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from widestep.errors import UsageError
from widestep.models.adapted import AdaptedModel, named_tensors
from widestep.models.block import BlockContext
from widestep.models.global_draws import global_generator, global_generators
from widestep.models.stacked import StackedModel
from widestep.plan.randomness import Stream

_SEED = 1


@dataclass(frozen=True)
class Findings:
    """What `probe` found; `Findings()` is a model without fault."""

    refusal: str | None = None
    """Why the model could not be run, in a sentence: its code raises, its output has a wrong shape ..."""
    nondeterministic: tuple[str, ...] = ()
    """Operations for which torch has no deterministic form on this kind of device, each once."""
    changed_buffers: tuple[str, ...] = ()
    """Buffers that a training pass changes. Processes would not share them; running statistics of batch normalisation,
    which are ours, do not change within a pass."""
    unrepeated_weight: str | None = None
    """First tensor that differs when the model is built twice with one seed."""
    unrepeated_gradient: str | None = None
    """First parameter whose gradient differs between two passes over the same images."""
    without_gradient: tuple[str, ...] = ()
    """Parameters that the loss does not depend on."""
    mixes_groups: bool = False
    """Whether the logits of images depend on other groups of the forward pass."""
    draws_globally: bool = False
    """Whether a training pass draws from torch's global generator, which is legitimate but makes the bytes depend on
    workers_per_forward beyond rounding."""

    def objections(self) -> list[str]:
        """Return one sentence for everything that keeps training from being exact; `draws_globally` does not."""
        said = [self.refusal] if self.refusal else []
        if self.nondeterministic:
            said.append(f"Every operation must have a deterministic form; not so {', '.join(self.nondeterministic)}.")
        if self.changed_buffers:
            said.append(f"A forward pass must leave buffers as they are; {_some(self.changed_buffers)} changed.")
        if self.unrepeated_weight:
            said.append(f"Two builds with one seed must give equal weights; {self.unrepeated_weight} differed.")
        if self.unrepeated_gradient:
            said.append(f"Equal images must give equal gradients; that of {self.unrepeated_gradient} differed.")
        if self.without_gradient:
            said.append(f"Every parameter needs a gradient or requires_grad=False; {_some(self.without_gradient)} had none.")
        if self.mixes_groups:
            said.append("Images of one worker must not influence another's logits; they do. Set workers_per_forward to 1.")
        return said


def probe(model: StackedModel, images: Tensor, labels: Tensor, *, num_groups: int = 1) -> Findings:
    """Run a training forward and backward pass of one block twice and compare; the model stays as it was.

    Parameters
    ----------
    model
        Initialised, on the device to be probed. Its modes and buffers are put back; only what a user's module keeps in
        plain attributes cannot be. The next pass begins with `context.begin`, as always.
    images
        Shape (N, T*C, H, W), group-fastest; a few for every group of workers are enough.
    labels
        Shape (N, T), int64.
    num_groups
        k of the block.

    Notes
    -----
    Operations are found by torch's own list: `torch.set_deterministic_debug_mode("warn")` warns of each where it runs.
    """
    block = _Block(model, images, labels, num_groups)
    with _left_as_it_was(model), _listening() as heard:
        model.train()
        try:
            return block.findings(heard)
        except UsageError as error:
            return Findings(refusal=str(error), nondeterministic=_operations(heard))


class _Pass(NamedTuple):
    gradients: dict[str, Tensor]
    """By name, without those that do not exist."""
    changed_buffers: tuple[str, ...]
    draws_globally: bool


@dataclass(frozen=True)
class _Block:
    model: StackedModel
    images: Tensor
    labels: Tensor
    num_groups: int

    def findings(self, heard: list[warnings.WarningMessage]) -> Findings:
        first, second = self._pass(), self._pass()
        return Findings(
            nondeterministic=_operations(heard),
            changed_buffers=first.changed_buffers,
            unrepeated_weight=next(iter(_different(*self._built_twice())), None),
            unrepeated_gradient=next(iter(_different(first.gradients, second.gradients)), None),
            without_gradient=tuple(name for name in self.model.trained_names() if name not in first.gradients),
            mixes_groups=self._mixes(),
            draws_globally=first.draws_globally,
        )

    def _pass(self) -> _Pass:
        """Run one pass from the same buffers and the same global generators as any other."""
        device = self.images.device
        with _left_as_it_was(self.model), global_generator(_SEED, device):
            before, state = _copies(self.model), _global_state(device)
            logits = self._logits(self.images.clone())
            draws = not torch.equal(state, _global_state(device))
            changed = _different(before, _copies(self.model))
            return _Pass(self._gradients(logits), changed, draws)

    def _logits(self, images: Tensor) -> Tensor:
        """Run one forward pass of the block; the model may write into the images."""
        streams = [Stream(_SEED, f"probe slot {slot}") for slot in range(self.model.num_slots)]

        def keys(draw_number: int) -> NDArray[np.uint64]:
            return np.array(
                [[stream.key(group, draw_number) for stream in streams] for group in range(self.num_groups)], dtype=np.uint64
            )

        self.model.context.begin(self.num_groups, keys)
        logits: Tensor = self.model(images)
        return logits

    def _gradients(self, logits: Tensor) -> dict[str, Tensor]:
        parameters = {name: self.model.network.get_parameter(name) for name in self.model.trained_names()}
        if not logits.requires_grad:
            return {}
        loss = F.cross_entropy(logits.flatten(0, 1).float(), self.labels.flatten(), reduction="sum")
        with self.model.explaining("be differentiated"):
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {name: gradient for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}

    def _mixes(self) -> bool:
        """Whether logits of some group depend on images of another: then their derivative by these is not exactly 0."""
        if self.num_groups == 1:
            return False
        explaining = self.model.explaining("be differentiated")
        with _left_as_it_was(self.model), global_generator(_SEED, self.images.device), explaining:
            images = self.images.clone().requires_grad_()
            logits = self._logits(images.clone())
            # Equal weights would cancel in a batch normalisation, whose outputs sum to a constant.
            weights = torch.rand(logits.shape, generator=torch.Generator().manual_seed(_SEED)).to(logits)
            for group in range(self.num_groups):
                mine = slice(group, None, self.num_groups)
                asked = (logits[mine] * weights[mine]).sum()
                (found,) = torch.autograd.grad(asked, [images], retain_graph=True, allow_unused=True)
                if found is not None:
                    found[mine] = 0
                    if found.any():
                        return True
        return False

    def _built_twice(self) -> list[dict[str, Tensor]]:
        if not isinstance(self.model, AdaptedModel):
            return [{}, {}]
        return [named_tensors(self.model.built(_SEED, BlockContext())) for _ in range(2)]


def _global_state(device: torch.device) -> Tensor:
    """Return the states of the global generators, one after the other."""
    return torch.cat([generator.get_state() for generator in global_generators(device)])


def _copies(model: StackedModel) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.network.named_buffers()}


def _different(first: dict[str, Tensor], second: dict[str, Tensor]) -> tuple[str, ...]:
    """Return the names whose tensors differ by a bit or are missing in one of the two; NaN equals NaN."""

    def equal(a: Tensor | None, b: Tensor | None) -> bool:
        if a is None or b is None or a.shape != b.shape:
            return False
        return bool(((a == b) | (a.isnan() & b.isnan())).all())

    return tuple(name for name in {**first, **second} if not equal(first.get(name), second.get(name)))


@contextmanager
def _left_as_it_was(model: StackedModel) -> Iterator[None]:
    """Put back the modes and the buffers of a model: the same tensors with the same values."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    values = [(tensor, tensor.clone()) for tensor in model.buffers()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, held in buffers:
            module._buffers.clear()
            module._buffers.update(held)
        for tensor, value in values:
            tensor.copy_(value)
        model.context.begin()


@contextmanager
def _listening() -> Iterator[list[warnings.WarningMessage]]:
    """Collect all warnings while torch warns of every operation without a deterministic form."""
    mode = torch.get_deterministic_debug_mode()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.set_deterministic_debug_mode("warn")
        try:
            yield heard
        finally:
            torch.set_deterministic_debug_mode(mode)


def _operations(heard: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Return the names of the operations that torch warned of, each once, in order."""
    found: dict[str, None] = {}
    for warning in heard:
        text = str(warning.message)
        if operation := re.match(r"(.+?) does not have a deterministic implementation", text):
            found[operation[1]] = None
        elif "not deterministic because it uses CuBLAS" in text:
            found["CuBLAS without CUBLAS_WORKSPACE_CONFIG=:4096:8"] = None
    return tuple(found)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
