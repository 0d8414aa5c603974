import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.plan.grid import RampPoint, WorkerGrid


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


def test_other_numbers_of_workers():
    grid = WorkerGrid.parse("40x6x128")
    more = grid.with_workers(480)
    assert (more.num_workers, more.images_per_worker, more.global_batch) == (480, 128, 61_440)
    assert grid.with_workers(240) is grid
    assert grid.with_workers(1).global_batch == 128


@pytest.mark.parametrize(("text", "point"), [("30ep:8", (30, 8)), ("30:8", (30, 8)), (" 1ep:240\n", (1, 240))])
def test_points_of_a_ramp(text, point):
    found = RampPoint.parse(text)
    assert (found.epoch, found.num_workers) == point
    assert RampPoint.parse(str(found)) == found
    assert RampPoint.parse(found) is found


@given(st.integers(1, 999_999_999), st.integers(1, 9_999_999))
def test_text_and_point_say_the_same(epoch, workers):
    assert RampPoint.parse(str(RampPoint(epoch, workers))) == RampPoint(epoch, workers)


POINTS = ("30", "30ep", "0ep:8", "30ep:0", "2.5ep:8", "30st:8", "30im:8", "-1:8", "30ep:8x2", "30 ep:8", "")


@pytest.mark.parametrize("text", [*POINTS, 30, None, True, (30, 8)])
def test_what_is_no_point_of_a_ramp_is_refused(text):
    with pytest.raises(UsageError) as caught:
        RampPoint.parse(text)
    assert str(caught.value) == (f"A ramp point reads EPOCH:WORKERS, for example 30ep:8, with a whole epoch. Got {text!r}.")
