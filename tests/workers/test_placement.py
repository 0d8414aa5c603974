"""Blocks of workers are dealt to processes so that every worker is computed once, and always in the same block."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.workers.placement import Placement

placements = st.builds(Placement, st.integers(1, 300), st.integers(1, 40), st.integers(1, 50))


def test_twelve_workers_by_hand() -> None:
    assert [list(Placement(12, 1, 5).blocks(process)) for process in range(5)] == [
        [0, 1],
        [2, 3],
        [4, 5, 6],
        [7, 8],
        [9, 10, 11],
    ]
    fused = Placement(num_workers=7, workers_per_block=3, num_processes=2)
    assert [fused.workers(block) for block in range(fused.num_blocks)] == [range(3), range(3, 6), range(6, 7)]
    assert [fused.blocks(process) for process in range(2)] == [range(1), range(1, 3)]


@given(placements)
def test_every_worker_is_computed_once_and_in_order(placement: Placement) -> None:  # W2
    blocks = [block for process in range(placement.num_processes) for block in placement.blocks(process)]
    assert blocks == list(range(placement.num_blocks))
    assert [worker for block in blocks for worker in placement.workers(block)] == list(range(placement.num_workers))


@given(placements)
def test_processes_share_the_blocks_evenly(placement: Placement) -> None:
    shares = [len(placement.blocks(process)) for process in range(placement.num_processes)]
    assert max(shares) - min(shares) <= 1


@given(placements, st.integers(1, 50))
def test_blocks_do_not_depend_on_the_number_of_processes(placement: Placement, num_processes: int) -> None:  # W8
    other = Placement(placement.num_workers, placement.workers_per_block, num_processes)
    assert other.num_blocks == placement.num_blocks
    assert all(other.workers(block) == placement.workers(block) for block in range(placement.num_blocks))


@pytest.mark.parametrize("num_processes", [4, 9, 100])
def test_more_processes_than_blocks_leave_some_idle(num_processes: int) -> None:
    placement = Placement(3, 1, num_processes)
    assert sorted(len(placement.blocks(process)) for process in range(num_processes)) == [0] * (num_processes - 3) + [1] * 3


@pytest.mark.parametrize(
    ("num_images", "workers_per_group", "expected"),
    [(60, 1, 12), (5, 1, 5), (60, 3, 4), (5, 3, 2), (6, 3, 2), (60, 12, 1), (1, 12, 1)],
)
def test_groups_that_have_images(num_images: int, workers_per_group: int, expected: int) -> None:
    """Image i goes to worker i mod 12."""
    placement = Placement(12, workers_per_group, 2, workers_per_group)
    assert placement.num_groups_with(num_images) == expected
    assert len({image % 12 // workers_per_group for image in range(num_images)}) == expected
