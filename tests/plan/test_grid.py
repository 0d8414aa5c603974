import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.plan.grid import WorkerGrid


@pytest.mark.parametrize(
    ("text", "num_workers", "global_batch"),
    [
        ("4x6x128", 24, 3_072),
        ("10x6x128", 60, 7_680),
        ("20x6x128", 120, 15_360),
        ("30x6x128", 180, 23_040),
        ("40x6x128", 240, 30_720),
        ("1x1x1", 1, 1),
    ],
)
def test_the_posters_grids(text, num_workers, global_batch):
    grid = WorkerGrid.parse(text)
    assert (grid.num_workers, grid.global_batch, str(grid)) == (num_workers, global_batch, text)


@given(*[st.integers(1, 9_999_999)] * 3)
def test_text_and_grid_say_the_same(nodes, workers, images):
    grid = WorkerGrid(nodes, workers, images)
    assert WorkerGrid.parse(str(grid)) == grid
    assert grid.global_batch == nodes * workers * images


def test_spaces_and_capitals_do_not_matter():
    assert WorkerGrid.parse(" 40X6X128\n") == WorkerGrid(40, 6, 128)


WORDS = ("40x6", "40x6x128x1", "0x6x128", "4x06x8", "-4x6x8", "4x6x8.0", "4*6*8", "4 x 6 x 8", "x6x8", "", "12345678x1x1")


@pytest.mark.parametrize("text", [*WORDS, 40, None, True])
def test_what_is_no_grid_is_refused(text):
    with pytest.raises(UsageError) as caught:
        WorkerGrid.parse(text)
    assert str(caught.value) == f"A grid reads NODESxWORKERSxIMAGES, for example 40x6x128. Got {text!r}."
