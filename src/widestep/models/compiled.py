"""Training passes compiled by torch: the same bytes on every process, and words for what keeps a machine from compiling."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from widestep.errors import EnvironmentFault, WidestepError
from widestep.models.dropout import KeyedDropout
from widestep.models.stacked import StackedModel

_MANY = 1 << 20


class CompiledPass:
    """The training pass of a model, compiled at its first use (which takes a minute and imports torch's compiler).

    It gives logits as `StackedModel.compute` to rounding; what batch normalisation measures reaches the context as ever.
    Every shape of a block is compiled for itself, and no shape is computed by code made for another: the bytes of a block do
    not depend on the blocks before it, and so neither on processes nor on interruptions. Random numbers are drawn as without
    compilation; dropout draws outside of what is compiled. Between processes torch keeps what it compiled in
    TORCHINDUCTOR_CACHE_DIR, by default torchinductor_USER in the folder for temporary files.

    Parameters
    ----------
    model
        Its layers are prepared at the first use; no more than one compiled pass a model.
    level
        What torch.compile calls mode: `default`, `reduce-overhead` or `max-autotune`.
    num_threads
        Of the processor; code is made for so many.
    reproducible
        Whether kernels are chosen by rule and never by timing.

    Notes
    -----
    With CUDA graphs (from `reduce-overhead` on) what a pass returns and measures is overwritten by the next: copy before.
    """

    def __init__(self, model: StackedModel, level: str, *, num_threads: int, reproducible: bool) -> None:
        self._model, self._level = model, level
        self._num_threads, self._reproducible = num_threads, reproducible
        self._has_graphs = level != "default"
        self._compute: Callable[[Tensor], Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Compute logits, and their derivative when it is asked for.

        Raises
        ------
        EnvironmentFault
            When torch's compiler fails, as without a C++ compiler or, on a GPU, Triton.
        """
        if self._compute is None:
            self._compute = self._compiled()
        if self._has_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return self._compute(images)
        except WidestepError:
            raise
        except torch._dynamo.exc.TorchDynamoException as error:
            raise EnvironmentFault(
                f"compile = {self._level} needs a compiler that can work for this model: for processors a C++ compiler, for "
                f"GPUs Triton. torch reported {_reported(error)} Install what is missing, or set compile to none."
            ) from error

    def _compiled(self) -> Callable[[Tensor], Tensor]:
        import torch._dynamo
        import torch._inductor

        # Beyond its limits torch would go on without compiling, which would make bytes depend on the shapes seen before.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _MANY
        for module in self._model.modules():
            if isinstance(module, KeyedDropout):
                module._uniforms = torch.compiler.disable(module._uniforms)  # type: ignore[method-assign]
        options: dict[str, Any] = {
            **torch._inductor.list_mode_options(self._level),
            "fallback_random": True,
            "cpp.threads": self._num_threads,
        }
        if hasattr(torch._inductor.config, "deterministic"):  # from torch 2.11 on
            options["deterministic"] = self._reproducible
        found: Callable[[Tensor], Tensor] = torch.compile(self._model.compute, dynamic=False, options=options)
        return found


def _reported(error: Exception) -> str:
    """Return the first line of what a compiler said, as a sentence."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[0].split())[:300].rstrip(".:") if lines else ""
    return f"{type(error).__name__}: {said}." if said else f"{type(error).__name__}."
