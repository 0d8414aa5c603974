"""The sum over the leaves: one fixed tree, whoever holds which leaves (statement W2)."""

import math
import weakref
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from widestep.workers.tree import Node, complete_subtrees, finish, sum_leaves


def reference(leaves: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sum by halves: the left half is the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    return reference(leaves[:half]) + reference(leaves[half:])


def leaf_values(num_leaves: int, seed: int) -> NDArray[np.float32]:
    """Five numbers a leaf, of magnitudes that make every order of summation round differently."""
    rng = np.random.default_rng(seed)
    magnitudes = 10.0 ** rng.integers(-4, 5, (num_leaves, 5))
    return (rng.standard_normal((num_leaves, 5)) * magnitudes).astype(np.float32)


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, list[range]]:
    """Leaves dealt out in contiguous ranges, some of them empty."""
    num_leaves = draw(st.integers(1, 70))
    cuts = sorted(draw(st.lists(st.integers(0, num_leaves), max_size=6)))
    bounds = [0, *cuts, num_leaves]
    return num_leaves, [range(a, b) for a, b in pairwise(bounds)]


@given(splits(), st.integers(0, 2**32 - 1))
def test_any_split_gives_the_bytes_of_the_sum_by_halves(split: tuple[int, list[range]], seed: int) -> None:  # W2
    num_leaves, parts = split
    values = leaf_values(num_leaves, seed)
    partial_sums: dict[Node, Tensor] = {}
    for part in parts:
        partial_sums |= sum_leaves((leaf, torch.from_numpy(values[leaf].copy())) for leaf in part)
    assert finish(partial_sums, num_leaves).numpy().tobytes() == reference(values).tobytes()


def test_the_order_matters_for_these_numbers() -> None:
    """Were the sum of such leaves the same in every order, the test above would prove nothing."""
    values = leaf_values(12, seed=1)
    in_order = values[0].copy()
    for value in values[1:]:
        in_order += value
    assert in_order.tobytes() != reference(values).tobytes()


class Term:
    """A leaf that remembers which leaves were added to it, and how many additions there were in all."""

    additions = 0

    def __init__(self, text: str) -> None:
        self.text = text

    def __add__(self, other: "Term") -> "Term":
        Term.additions += 1
        return Term(f"({self.text}+{other.text})")

    def add_(self, other: "Term") -> "Term":
        self.text = (self + other).text
        return self


@given(splits())
def test_every_addition_is_done_once(split: tuple[int, list[range]]) -> None:
    num_leaves, parts = split
    Term.additions = 0
    partial_sums: dict[Node, Tensor] = {}
    for part in parts:
        partial_sums |= sum_leaves((leaf, Term(str(leaf))) for leaf in part)  # type: ignore[misc]
    finish(partial_sums, num_leaves)
    assert Term.additions == num_leaves - 1


def test_the_tree_of_seven_leaves() -> None:
    partial_sums: dict[Node, Tensor] = {}
    for part in (range(4), range(4, 7)):
        partial_sums |= sum_leaves((leaf, Term(str(leaf))) for leaf in part)  # type: ignore[misc]
    assert list(partial_sums) == [Node(2, 0), Node(1, 2), Node(0, 6)]
    assert finish(partial_sums, 7).text == "(((0+1)+(2+3))+((4+5)+6))"  # type: ignore[attr-defined]


def test_few_leaves_are_in_memory_at_once() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def leaves() -> Iterator[tuple[int, Tensor]]:
        nonlocal most
        for leaf in range(256):
            value = torch.ones(3)
            alive.append(weakref.ref(value))
            most = max(most, sum(reference() is not None for reference in alive))
            yield leaf, value
            del value

    (total,) = sum_leaves(leaves()).values()
    assert total.tolist() == [256.0] * 3
    assert most <= math.log2(256) + 2


def test_complete_subtrees_by_hand() -> None:
    assert complete_subtrees(range(3, 8)) == [Node(0, 3), Node(2, 1)]
    assert complete_subtrees(range(7)) == [Node(2, 0), Node(1, 2), Node(0, 6)]
    assert complete_subtrees(range(1, 7)) == [Node(0, 1), Node(1, 1), Node(1, 2), Node(0, 6)]
    assert complete_subtrees(range(16)) == [Node(4, 0)]
    assert complete_subtrees(range(5, 5)) == []


@given(st.integers(0, 200), st.integers(0, 200))
def test_complete_subtrees_cover_their_leaves_and_are_as_large_as_can_be(start: int, length: int) -> None:
    nodes = complete_subtrees(range(start, start + length))
    covered = [leaf for node in nodes for leaf in range(node.index << node.level, (node.index + 1) << node.level)]
    assert covered == list(range(start, start + length))
    parents = [Node(node.level + 1, node.index // 2) for node in nodes]
    assert len(set(parents)) == len(parents)  # two with one parent would be that parent
    assert len(nodes) <= 2 * length.bit_length()


@given(st.integers(0, 60), st.integers(0, 60))
def test_sum_leaves_returns_the_complete_subtrees(start: int, length: int) -> None:
    leaves = range(start, start + length)
    assert list(sum_leaves((leaf, torch.ones(1)) for leaf in leaves)) == complete_subtrees(leaves)
