"""What a search arm may say, and what its cells are before and after the search."""

import pytest

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.study.search import Dimension, dimension
from widestep.study.searched import Searched
from widestep.study.study import FoundArm, parse, to_toml

TEXT = """
name = "tuned"
title = "Which warmup and rate?"
recipe = "digits"
seeds = [0, 1, 2]
margin = 0.5
device = "cpu"

[arms.tune]
set = { stack = 1 }
axes = { grid = ["4x1x8", "40x1x8"] }
search = { over = { warmup = ["0ep", "20ep"], base_lr = [0.02, 2.0] }, num_trials = 6, seeds = [90, 91], at_a_time = 2 }

[arms.tuned]
from_search = "tune"
set = { stack = 3 }

[claims.falls]
text = "It falls."
test = "falls"
arms = ["tuned"]
axis = "grid"
"""


@pytest.fixture
def base():
    return recipes.load("digits").recipe


def test_ranges(base):
    assert dimension("warmup", ["0ep", "20ep"], base) == Dimension("warmup", "whole", 0, 20, "ep")
    assert dimension("warmup", ["10st", "100st"], base) == Dimension("warmup", "whole", 10, 100, "st", is_log=True)
    assert dimension("base_lr", [0.02, 0.2], base).is_log
    assert not dimension("base_lr", [0.02, 0.19], base).is_log
    assert not dimension("momentum", [0, 0.9], base).is_log
    assert dimension("base_lr", [1, 10], base) == Dimension("base_lr", "number", 1.0, 10.0, is_log=True)
    assert dimension("images_per_evaluation", [10, 50], base).kind == "whole"
    assert dimension("scaling", ["linear", "none"], base).choices == ("linear", "none")
    assert dimension("base_lr", [0.1, 0.2, 0.4], base).choices == (0.1, 0.2, 0.4)
    assert dimension("grid", ["4x1x8", "8x1x8"], base).kind == "choice"


def test_settings_are_written_and_read_back(base):
    warmup, rate = dimension("warmup", ["0ep", "20ep"], base), dimension("base_lr", [0.02, 2.0], base)
    assert (warmup.setting(7), warmup.drawn("7ep"), rate.setting(0.123456), rate.drawn(0.1235)) == ("7ep", 7, 0.1235, 0.1235)
    assert (rate.setting(0.0199999), rate.setting(2.00001)) == (0.02, 2.0)
    assert [warmup.end(value) for value in ("0ep", "3ep", "20ep")] == ["lowest", "", "highest"]
    assert (rate.end(0.02), rate.end(0.021)) == ("lowest", "")
    rule = dimension("scaling", ["linear", "none"], base)
    assert (rule.setting(1), rule.drawn("none"), rule.end("none")) == ("none", 1, "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('["0ep", "20ep"]', '["0ep", "200st"]', "in the same unit"),
        ('["0ep", "20ep"]', '["0.5ep", "2ep"]', "from one whole number to another"),
        ('["0ep", "20ep"]', '["20ep", "0ep"]', "from its low end to its high end"),
        ('["0ep", "20ep"]', '["3ep", "3ep"]', "two ends or different choices"),
        ('["0ep", "20ep"]', '["0ep"]', "two ends or different choices"),
        ('warmup = ["0ep"', 'warmupp = ["0ep"', "is not a field of the recipe"),
        ("[0.02, 2.0]", '[0.02, "fast"]', "base_lr"),
        ("seeds = [90, 91]", "seeds = [90, 2]", "Arm tune searches with seed 2, which is one of the study's"),
        ("seeds = [90, 91]", "seeds = [90, 90]", "different numbers"),
        ("num_trials = 6", "num_trials = 1", "num_trials"),
        ("{ stack = 1 }", '{ stack = 1, warmup = "1ep" }', "does not leave 'warmup' open"),
        ("[arms.tune]", '[arms."../x"]', "its name is letters"),
        ('from_search = "tune"', 'from_search = "tun"', "Perhaps you meant 'tune'"),
        ("{ stack = 3 }", "{ base_lr = 0.1 }", "'base_lr' of arm tuned is what arm tune decides"),
        ('from_search = "tune"', 'from_search = "tune"\nrecipe = "digits"', "has the recipe and axes of that arm"),
        ('arms = ["tuned"]', 'arms = ["tune"]', "arm 'tune', which searches"),
        ("at_a_time", "at_once", "at_once"),
    ],
)
def test_refusals(old, new, said):
    assert old in TEXT
    with pytest.raises(UsageError) as error:
        parse(TEXT.replace(old, new), is_new=True)
    assert said in str(error.value)


def test_a_warmup_longer_than_the_training_is_refused():
    with pytest.raises(UsageError, match="warmup"):
        parse(TEXT.replace('"20ep"', '"40ep"'), is_new=True)


def test_a_study_counts_its_searched_runs():
    with pytest.raises(UsageError, match=r"at most 10,000 runs\. Arms and seeds make 12006"):
        parse(TEXT.replace("num_trials = 6", "num_trials = 1000").replace("[90, 91]", "[90, 91, 92, 93, 94, 95]"))


def test_cells_wait_for_what_is_found():
    study = parse(TEXT)
    assert study.cells("tune") == []
    assert [(cell.settings, cell.is_open) for cell in study.cells("tuned")] == [
        ({"grid": "4x1x8"}, True),
        ({"grid": "40x1x8"}, True),
    ]
    assert study.trials() == []
    assert parse(to_toml(study)) == study


def test_what_is_found_makes_cells(tmp_path):
    study = parse(TEXT)
    searched = Searched(tmp_path, study)
    (arm,) = searched.arms
    one, two = arm.keys
    searched.write_best(arm, {one: {"warmup": "3ep", "base_lr": 0.1}, two: {"warmup": "9ep", "base_lr": 0.05}})
    found = Searched(tmp_path, study).study
    assert isinstance(found.arms["tuned"], FoundArm)
    cells = found.cells("tuned")
    assert [cell.settings for cell in cells] == [
        {"grid": "4x1x8", "warmup": "3ep", "base_lr": 0.1},
        {"grid": "40x1x8", "warmup": "9ep", "base_lr": 0.05},
    ]
    assert [(str(c.recipe.warmup), c.recipe.base_lr, c.recipe.stack, c.is_open) for c in cells] == [
        ("3ep", 0.1, 3, False),
        ("9ep", 0.05, 3, False),
    ]
    assert [(trial.arm, trial.seed) for trial in found.trials()] == [("tuned", seed) for _ in range(2) for seed in (0, 1, 2)]
