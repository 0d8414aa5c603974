"""Sums in pieces are the sums of the rows that the pieces make, run by run."""

import pytest
import torch

from widestep.workers.sums import Sums


def pieces(seed: int) -> list[torch.Tensor]:
    """A convolution's weights, a bias and two numbers of two runs."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in ((6, 2, 3, 3), (4,), (2, 2))]


def row_of(parts: list[torch.Tensor]) -> torch.Tensor:
    """Every run's own numbers one after the other: 54, 2 and 2 of them."""
    return torch.stack([torch.cat([p.reshape(2, -1)[run] for p in parts]) for run in range(2)])


def test_a_row_holds_the_numbers_of_one_run() -> None:
    found = Sums([torch.tensor([[1.0, 2.0], [5.0, 6.0]]), torch.tensor([3.0, 7.0])], num_runs=2).row()
    assert found.tolist() == [[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]


def test_rows_add_up_number_by_number() -> None:
    first, second = pieces(1), pieces(2)
    expected = row_of(first) + row_of(second)
    apart = Sums(first, 2) + Sums(second, 2)
    assert apart.row().equal(expected)
    assert Sums(first, 2).row().equal(row_of(pieces(1)))  # as they were
    total = Sums(first, 2)
    assert total.add_(Sums(second, 2)) is total
    assert total.row().equal(expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_order_in_memory_does_not_matter(memory_format: torch.memory_format) -> None:
    parts = pieces(1)
    parts[0] = parts[0].to(memory_format=memory_format)
    assert Sums(parts, 2).row().equal(row_of(pieces(1)))
