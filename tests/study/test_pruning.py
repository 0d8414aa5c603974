"""When a searched run is given up, by curves worked out by hand."""

import pytest

from widestep.study.pruning import Pruned, hopeless, read_pruned

OTHERS = [{1.0: 0.1 * rank, 2.0: 0.2 * rank} for rank in (1, 2, 3, 4)]  # medians 0.25 and 0.5


@pytest.mark.parametrize(
    ("own", "first", "epoch"),
    [
        ({1.0: 0.24, 2.0: 0.9}, 0.0, 1.0),
        ({1.0: 0.25, 2.0: 0.5}, 0.0, None),
        ({1.0: 0.24, 2.0: 0.9}, 1.5, None),
        ({1.0: 0.24, 2.0: 0.49}, 1.5, 2.0),
        ({1.0: 0.3, 2.0: 0.49, 3.0: 0.0}, 1.0, 2.0),
        ({3.0: 0.0}, 0.0, None),
        ({}, 0.0, None),
    ],
)
def test_the_first_evaluation_below_the_median(own, first, epoch):
    found = hopeless(own, OTHERS, first)
    assert (found.epoch if found else None) == epoch


def test_three_runs_are_too_few():
    assert hopeless({1.0: 0.0}, OTHERS[:3], 0.0) is None
    assert hopeless({1.0: 0.0}, [*OTHERS[:3], {2.0: 0.5}], 0.0) is None
    assert hopeless({1.0: 0.0}, OTHERS, 0.0) == Pruned(1.0, 0.0, 0.25, 4)


@pytest.mark.parametrize("text", ["", "{}", '{"epoch": "x", "accuracy": 0.1, "median": 0.2, "num_runs": 4}', "[1]"])
def test_a_damaged_record_is_none(tmp_path, text):
    (tmp_path / "pruned.json").write_text(text)
    assert read_pruned(tmp_path) is None
