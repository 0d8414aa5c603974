"""Users' own modules as stacked models of one slot: their batch normalisations and dropouts become ours, the rest stays."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from widestep.errors import UsageError
from widestep.models.batchnorm import WorkerBatchNorm
from widestep.models.block import BlockContext
from widestep.models.dropout import NUM_SPATIAL, KeyedDropout
from widestep.models.global_draws import global_generator
from widestep.models.source import ModelSource, is_our_bug
from widestep.models.stacked import StackedModel

_DROPOUTS = (nn.Dropout, *NUM_SPATIAL)


class AdaptedModel(StackedModel):
    """A user's own module, which maps images (N, C, H, W) to logits (N, num_classes), with T = 1.

    Its BatchNorm1d/2d/3d layers become `WorkerBatchNorm` and its Dropout, Dropout1d/2d/3d layers `KeyedDropout`, in place:
    names, parameters and whoever refers to them stay. Of a batch normalisation momentum and counter are not used: the
    recipe's `batchnorm_momentum` is. Whatever else is random draws from torch's global generators, which the caller seeds.

    Parameters
    ----------
    source
        Where the class or function comes from. It is called with those of `num_classes` and `image_shape` that it accepts.
    num_classes
        Logits.
    image_shape
        (C, H, W).

    Raises
    ------
    UsageError
        When the source does not return such a module, or one with layers that cannot be exact.
    """

    draws_globally = True

    def __init__(self, source: ModelSource, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(BlockContext(), num_slots=1)
        self.source, self.num_classes, self.image_shape = source, num_classes, image_shape
        self.module = self.built(0, self.context)

    @property
    def network(self) -> nn.Module:
        """The user's module."""
        return self.module

    def built(self, key: int, context: BlockContext) -> nn.Module:
        """Build the user's module anew, with torch's global generator seeded by `key`, and adapt it to a context."""
        offered: dict[str, Any] = {"num_classes": self.num_classes, "image_shape": self.image_shape}
        with global_generator(key, torch.device("cpu")):
            module = self.source.make(offered)
        if not isinstance(module, nn.Module):
            raise UsageError(f"{self.source.name} must return a torch.nn.Module; it returned a {type(module).__name__}.")
        try:
            _check(module)
            _lay_out(module)
            _adapt(module, context)
        except UsageError as error:
            raise UsageError(f"The model {self.source.name} cannot be trained as it is. {error}") from error
        return module.train()

    def initialise(self, slot: int, key: int, zero_gamma: bool = False, classifier_std: float | None = None) -> None:
        """Take over parameters and buffers of a module built anew with `key`: the initialisation is the user's."""
        assert slot == 0
        for name, wanted in (("zero_gamma", zero_gamma), ("classifier_std", classifier_std is not None)):
            if wanted:
                raise UsageError(
                    f"{name} needs a model whose layers widestep knows; the model is {self.source.name}. Leave {name} out "
                    "and initialise in your own code."
                )
        fresh = self.built(key, BlockContext())
        mine, new = named_tensors(self.module), named_tensors(fresh)
        if {name: tensor.shape for name, tensor in mine.items()} != {name: tensor.shape for name, tensor in new.items()}:
            raise UsageError(f"{self.source.name} must return the same network at every call; names or shapes differed.")
        if set(self.module.parameters()) & set(fresh.parameters()):
            raise UsageError(f"{self.source.name} must return a new module at every call; it returned the same weights.")
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(new[name])

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (N, C, H, W): logits (N, 1, num_classes)."""
        context = self.context
        if context.num_copies > 1:
            raise UsageError(
                f"The workers' own gradients (AdaScale, worker_norms) of the model {self.source.name} need one worker a "
                "forward pass. Set workers_per_forward to 1."
            )
        context.num_images = images.shape[0]
        with self.explaining("classify images"):
            logits = super().forward(images)
        expected = (images.shape[0], self.num_classes)
        if not isinstance(logits, Tensor) or logits.shape != expected:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise UsageError(f"The model {self.source.name} must return logits of shape {expected}; it returned {got}.")
        if self.training:
            self._check_recorded()
            context.ended = True
        return logits.unsqueeze(1)

    def compute(self, images: Tensor) -> Tensor:
        """Call the user's module: what it returns."""
        returned: Tensor = self.module(images)
        return returned

    @contextmanager
    def explaining(self, doing: str) -> Iterator[None]:
        """Turn errors of the user's code into one sentence with file and line.

        Raises
        ------
        UsageError
            Says that the model must do `doing` without an error. What the machine lacks is passed on as it is.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (Exception, SystemExit) as error:
            if is_our_bug(error) or "does not have a deterministic implementation" in str(error):
                raise
            raise self.source.told(error, doing) from error

    def _check_recorded(self) -> None:
        for number in self.context.unrecorded():
            missing = self.batch_norms()[number]
            name = next(name for name, module in self.module.named_modules() if module is missing)
            raise UsageError(
                f"Every batch normalisation must see every training image, in training mode. {name} of the model "
                f"{self.source.name} was left out; remove it, or use it in every pass."
            )


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _check(network: nn.Module) -> None:
    """Refuse layers that cannot be exact, or cannot be known."""
    for path, module in network.named_modules():
        layer = f"{path or 'It'} is a {type(module).__name__}"
        if isinstance(module, LazyModuleMixin):
            raise UsageError(f"{layer}, which has no weights before the first image: give its numbers of features.")
        if isinstance(module, nn.SyncBatchNorm):
            raise UsageError(f"{layer}: use nn.BatchNorm2d, and batchnorm = sync in the recipe.")
        changed = type(module).forward is not _BatchNorm.forward or is_parametrized(module)
        if isinstance(module, _BatchNorm) and changed:
            raise UsageError(f"{layer}, a batch normalisation with its own arithmetic: use torch's, which can be replaced.")
        if isinstance(module, _NormBase) and not isinstance(module, _BatchNorm) and module.track_running_stats:
            raise UsageError(f"{layer} that keeps averages, which workers would not share: set track_running_stats=False.")
    for name, parameter in network.named_parameters():
        if parameter.dtype != torch.float32:
            raise UsageError(f"Its parameters must be float32, in bf16 training too: {name} is {parameter.dtype}.")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UsageError("It has no parameters to train.")


def _lay_out(network: nn.Module) -> None:
    """Let all weights lie in memory as their shapes say: sums, optimizers and checkpoints go through them in that order.

    A module may be made with others, by `.to(memory_format=torch.channels_last)` or from a transposed matrix.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.stride() != torch.empty(tensor.shape, device="meta").stride():
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def _adapt(network: nn.Module, context: BlockContext) -> None:
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            WorkerBatchNorm.adopt(module, context)
        elif isinstance(module, _DROPOUTS) and type(module).forward in [kind.forward for kind in _DROPOUTS]:
            KeyedDropout.adopt(module, context)
