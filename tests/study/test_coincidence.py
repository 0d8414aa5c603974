"""Pairs of settings that did the same, put into words: one statement a field where it never did anything."""

import time

import pytest

from widestep.plan.recipe import Recipe
from widestep.study.coincidence import Judged, Variant, listed, statements, texts

SAME = Judged("same", num_seeds=3, num_steps=10, num_taken=10)
OTHER = Judged(None)


def variants(*changes):
    return [Variant((("", f"s{number}"),), f"{number}", texts(Recipe(**change))) for number, change in enumerate(changes)]


def said(changes, judge):
    found, num_pairs = statements(variants(*changes), judge)
    return [(one.kind, one.fields, one.num_pairs) for one in found], num_pairs


def square(**axes):
    (a, first), (b, second) = axes.items()
    return [{a: x, b: y} for x in first for y in second]


def test_a_difference_made_up_of_idle_ones_is_not_stated_again():
    """Of the 15 pairs of a 3 x 2 grid, 6 differ in the first alone, 3 in the second alone and 6 in both."""
    grid = square(beta1=(0.7, 0.8, 0.9), beta2=(0.9, 0.99))
    assert said(grid, lambda i, j: SAME) == ([("same", ["beta2"], 3), ("same", ["beta1"], 6)], 15)


def test_a_difference_in_two_fields_is_stated_when_one_of_them_is_not():
    grid = [{"scaling": "per-worker"}, {"scaling": "none-as-run"}, {"scaling": "linear", "reference_batch": 8}]
    found, _ = said(grid, lambda i, j: SAME)
    assert found == [("same", ["scaling"], 1), ("same", ["scaling", "reference_batch"], 2)]


def test_a_note_on_two_fields_follows_from_a_finding_on_one():
    grid = square(beta2=(0.9, 0.99), label_smoothing=(0.0, 0.1))
    acts = Judged("elsewhere", 3, 10, 10)
    found, _ = said(grid, lambda i, j: SAME if i % 2 == j % 2 else acts)
    assert found == [("elsewhere", ["label_smoothing"], 2), ("same", ["beta2"], 2)]


def test_pairs_that_cannot_be_compared_are_no_uses():
    grid = [{"beta2": value} for value in (0.9, 0.99, 0.999)]
    found, num_pairs = statements(variants(*grid), lambda i, j: SAME if (i, j) == (0, 2) else None)
    assert (len(found), num_pairs) == (1, 1)
    assert (found[0].num_uses, found[0].settings, found[0].recipes) == (1, ["s0", "s2"], ["0", "2"])


def test_some_of_the_uses():
    grid = [{"beta2": value} for value in (0.9, 0.99, 0.999)]
    found, _ = said(grid, lambda i, j: OTHER if (i, j) == (0, 1) else SAME)
    assert found == [("same", ["beta2"], 1)] * 2
    note = Judged("elsewhere", 3, 10, 40)
    ((one,), _) = statements(variants(*grid), lambda i, j: OTHER if (i, j) == (0, 1) else note)
    assert "in 2 of 3 pairs of settings that differ in nothing else" in one.text


def test_what_differs_between_pairs_is_given_as_a_range():
    grid = [{"beta2": value} for value in (0.9, 0.99, 0.999)]
    seen = {(0, 1): Judged("same", 1, 10, 10), (0, 2): Judged("same", 12, 1000, 1000, num_unread=2), (1, 2): SAME}
    ((one,), _) = statements(variants(*grid), lambda i, j: seen[i, j])
    assert (one.num_seeds, one.num_steps) == (1, 10)
    assert "at any of the 10 to 1,000 recorded steps in 1 to 12 seeds, in all 3 pairs" in one.text
    assert "2 seeds more without two usable ledgers" in one.text


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([("a", "a"), ("b", "b: 1")], [("c", "c")], ["a", "c"]),
        ([("a", "a"), ("b", "b: 1"), ("c", "c: 1")], [("d", "d"), ("c", "c: 2"), ("b", "b: 2")], ["b: 1", "b: 2"]),
    ],
)
def test_a_pair_is_named_as_in_the_arm_that_has_both(first, second, expected):
    one, other = (texts(Recipe(beta2=value)) for value in (0.9, 0.99))
    pair = [Variant(tuple(first), "1", one), Variant(tuple(second), "2", other)]
    ((said,), _) = statements(pair, lambda i, j: SAME)
    assert said.settings == expected


@pytest.mark.parametrize(
    ("number", "words"), [(0, ""), (1, "0"), (2, "0 and 1"), (3, "0, 1 and 2"), (6, "0, 1, 2, 3, 4 and 5")]
)
def test_lists(number, words):
    assert listed([str(value) for value in range(number)]) == words


def test_long_lists_stay_short():
    assert listed([str(value) for value in range(50)]) == "0, 1, 2, 3, 4, 5 and 44 more"


def test_many_settings_take_no_time():
    """300 settings are 44,850 pairs; one statement of fifty idle values among them."""
    grid = [{"base_lr": 0.01 + 0.001 * number} for number in range(250)]
    grid += [{"beta2": 0.9 + 0.001 * number} for number in range(50)]
    start = time.process_time()
    found, num_pairs = said(grid, lambda i, j: SAME if i >= 250 else OTHER)
    assert time.process_time() - start < 3
    assert (found, num_pairs) == ([("same", ["beta2"], 1225)], 44_850)
