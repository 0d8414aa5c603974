"""`widestep diff`: runs to the byte, recipes in words."""

import json

import pytest


@pytest.fixture
def runs(command, empty):
    """Three short runs: `a` and `b` of one recipe, `c` of another seed."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        found = command(
            "train", "--grid", "1x2x5", "--train-images", 100, "--epochs", "3st", "--scaling", "none", "--reference-batch",
            "none", "--seed", seed, "--digests", "true", "--out", empty / name,
        )  # fmt: skip
        assert found.code == 0, found.stderr
    return empty


def test_runs(say, runs):
    assert say("diff a b").lines == [
        "identical  to step 2 (all 3 steps that both recorded)",
        "weights    the final weights are the same bytes",
    ]
    lines = say("diff a c").lines
    assert lines[0].startswith("recipe     seed: 0 against 1")
    assert lines[1] == "weights    the final weights differ"
    assert lines[2].startswith(
        "differ     first difference at step 0: the images, loss, the gradient's norm; first tensor: "
    )
    record = json.loads(say("diff a c --json").stdout)
    assert (record["equal"], record["last_equal_step"], record["difference"]["kind"]) == (False, None, "gradient")
    assert record["difference"]["tensors"][0] == "conv1.weight"
    assert json.loads(say("diff a b --json").stdout)["equal"] is True


def test_recipes(say, empty):
    found = say("diff poster poster-as-run")
    assert found.code == 0
    assert any(line.startswith("tail: drop against pad") for line in found.lines)
    record = json.loads(say("diff poster poster-as-run --json").stdout)
    assert record["fields"]["tail"] == ["drop", "pad"]
    assert record["words"] == found.lines
    assert say("diff poster poster").lines == ["The recipes are the same in every field."]


def test_recipes_of_data_that_are_not_here(say, empty):
    (empty / "mine.toml").write_text('data = "folder:nowhere"\nmodel = "resnet18"\n')
    assert say("diff mine.toml poster").code == 0


def test_a_run_and_a_recipe_cannot_be_compared(say, empty):
    (empty / "run").mkdir()
    for words in ("diff run poster", "diff poster run"):
        found = say(words)
        assert found.code == 2
        assert "'poster' is no directory" in found.stderr


def test_a_directory_that_holds_no_run(say, empty):
    (empty / "run").mkdir()
    found = say("diff run run")
    assert found.code == 2
    assert "recipe.toml" in found.stderr
