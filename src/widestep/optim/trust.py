"""Trust ratios: how far LARS and LAMB let each tensor move, from its norm and that of its gradient or its step."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]


@dataclass(frozen=True)
class TrustRatios:
    """The ratios of n tensors, each as a fraction, left on the tensors' device until somebody asks.

    Parameters
    ----------
    numerators, denominators
        Shape (n,), float64; both 1 where the ratio is 1 by definition.
    """

    numerators: Tensor
    denominators: Tensor

    @classmethod
    def where(cls, defined: Tensor, numerators: Tensor, denominators: Tensor) -> "TrustRatios":
        """Make ratios that are 1 where `defined`, shape (n,), is false (statement O4)."""
        return cls(torch.where(defined, numerators, 1.0), torch.where(defined, denominators, 1.0))

    def values(self) -> Tensor:
        """Return the ratios, shape (n,), float64."""
        return self.numerators / self.denominators


def summary(ratios: Sequence[float]) -> dict[str, float]:
    """Return the smallest, the median and the largest of some ratios."""
    return {"smallest": min(ratios), "median": statistics.median(ratios), "largest": max(ratios)}


def norms(tensors: Tensors) -> Tensor:
    """Return the Euclidean norm of every tensor, shape (n,).

    They are computed in float64: the squares of float32 numbers neither overflow nor vanish, and the number of values in a
    tensor costs no accuracy.
    """
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float64))


def scaled(tensors: Tensors, ratios: TrustRatios | None, rate: float) -> tuple[Tensor, ...]:
    """Return every tensor multiplied by its ratio, if there are any, and by `rate`.

    A tensor is divided and then multiplied, so that a ratio too large for float32, as a tiny gradient has, does no harm.
    """
    if ratios is None:
        return torch._foreach_mul(tensors, rate)
    divided = torch._foreach_div(tensors, ratios.denominators.unbind())
    torch._foreach_mul_(divided, (ratios.numerators * rate).unbind())
    return divided
