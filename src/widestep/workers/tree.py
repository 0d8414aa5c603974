"""The fixed binary tree in which gradients are summed, so that the sum does not depend on who computes what.

Floating-point addition is not associative: the order decides the last bits. The order here is a binary tree over the
blocks (the leaves, in worker order), and it depends on their number alone::

    level 2            (0-3)                       (4-6)
                     /       \\                   /       \\
    level 1      (0-1)       (2-3)            (4-5)        |       a node without a right
                 /   \\       /   \\            /   \\        |       half passes its left
    level 0     0     1     2     3          4     5       6       half on unchanged
                |----- process 0 -----|      |- process 1 -----|

A process adds up the complete subtrees within its own leaves (here 0-3, and 4-5 and 6) and hands over only those partial
sums (`reduce` has how); whoever has all of them finishes the same tree. With any other split of the leaves the partial sums
differ, but every addition of the tree is still done once, with the same two operands.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar


class Addend(Protocol):
    """What is summed: a tensor, or several."""

    def add_(self, other: Self, /) -> Self:
        """Add in place."""

    def __add__(self, other: Self, /) -> Self:
        """Return the sum."""


Value = TypeVar("Value", bound=Addend)


@dataclass(frozen=True)
class Node:
    """The subtree over leaves index * 2**level up to (index + 1) * 2**level - 1."""

    level: int
    index: int


def complete_subtrees(leaves: range) -> list[Node]:
    """Return the largest aligned subtrees that make up a contiguous range of leaves, in order.

    Examples
    --------
    >>> complete_subtrees(range(3, 8))
    [Node(level=0, index=3), Node(level=2, index=1)]
    """
    nodes: list[Node] = []
    for leaf in leaves:
        nodes.append(Node(0, leaf))
        while _mergeable(nodes):
            right = nodes.pop()
            nodes[-1] = Node(right.level + 1, right.index // 2)
    return nodes


def sum_leaves(leaves: Iterable[tuple[int, Value]]) -> dict[Node, Value]:
    """Sum contiguous leaves, given in order, into the partial sums of `complete_subtrees`.

    Leaves are taken one at a time and added in place as a binary counter carries, so that only about log2 of their number
    are in memory. The tensors are consumed.
    """
    nodes: list[Node] = []
    sums: list[Value] = []
    for leaf, value in leaves:
        nodes.append(Node(0, leaf))
        sums.append(value)
        while _mergeable(nodes):
            right, addend = nodes.pop(), sums.pop()
            nodes[-1] = Node(right.level + 1, right.index // 2)
            sums[-1].add_(addend)
    return dict(zip(nodes, sums, strict=True))


def finish(partial_sums: Mapping[Node, Value], num_leaves: int) -> Value:
    """Sum partial sums that cover all leaves 0..num_leaves-1 up to the root."""
    assert num_leaves > 0

    def value(node: Node) -> Value:
        if node in partial_sums:
            return partial_sums[node]
        left, right = Node(node.level - 1, 2 * node.index), Node(node.level - 1, 2 * node.index + 1)
        if right.index << right.level >= num_leaves:
            return value(left)
        return value(left) + value(right)

    return value(Node((num_leaves - 1).bit_length(), 0))


def _mergeable(nodes: list[Node]) -> bool:
    """Say whether the last two nodes are the halves of one subtree."""
    if len(nodes) < 2:
        return False
    left, right = nodes[-2], nodes[-1]
    return left.level == right.level and left.index % 2 == 0 and right.index == left.index + 1
