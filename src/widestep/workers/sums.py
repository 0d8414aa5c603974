"""What blocks of workers found, added up in the pieces that it came in."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Sums:
    """A row of numbers for each of T runs, in pieces: gradients stay the tensors that torch made until all are added up.

    To copy every block's gradients into one row would cost as much memory traffic again as adding them does.

    Parameters
    ----------
    pieces
        T*... entries in the first dimension of each, those of run t one after the other. They are consumed: nothing else may
        hold their memory.
    num_runs
        T.
    """

    def __init__(self, pieces: Sequence[Tensor], num_runs: int) -> None:
        self.pieces = list(pieces)
        self._num_runs = num_runs

    def add_(self, other: "Sums") -> "Sums":
        """Add another row in place, entry by entry."""
        torch._foreach_add_(self.pieces, other.pieces)
        return self

    def __add__(self, other: "Sums") -> "Sums":
        """Return the sum of two rows, which both stay as they are."""
        return Sums(torch._foreach_add(self.pieces, other.pieces), self._num_runs)

    def row(self) -> Tensor:
        """Return the pieces side by side, shape (T, ...)."""
        return torch.cat([piece.reshape(self._num_runs, -1) for piece in self.pieces], dim=1)
