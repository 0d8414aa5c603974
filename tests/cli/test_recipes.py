"""`widestep recipes`: what is shipped, where it comes from, and what every field means."""

import json

from widestep.plan import recipes
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe


def test_a_line_for_each(say):
    lines = say("recipes list").lines
    assert [line.split()[0] for line in lines] == recipes.names()
    for line in lines:
        name, summary = line.split(None, 1)
        assert summary == recipes.load(name).about["summary"]


def test_what_is_shown_is_a_recipe_file(say, empty):
    found = say("recipes show poster")
    (empty / "again.toml").write_text(found.stdout)
    assert recipes.load("again.toml").recipe == recipes.load("poster").recipe
    for key in ("summary", "source", "expected", "verified"):
        assert f"# {key}: {recipes.load('poster').about[key]}" in found.lines
    assert f"# fingerprint: {recipes.load('poster').recipe.fingerprint}" in found.lines


def test_for_machines(say):
    found = json.loads(say("recipes show digits --json").stdout)
    named = recipes.load("digits")
    assert list(found) == ["name", "about", "fingerprint", "recipe"]
    assert found["name"] == "digits"
    assert found["about"] == dict(named.about)
    assert found["fingerprint"] == named.recipe.fingerprint
    assert found["recipe"] == named.recipe.values()


def test_every_field_is_explained(say):
    lines = say("recipes fields").lines
    named = {line.split()[0]: lines[number + 1].strip() for number, line in enumerate(lines) if line.startswith("  --")}
    expected = {f"--{name.replace('_', '-')}" for name in (*Recipe.model_fields, *Execution.model_fields)}
    assert set(named) == expected
    assert all(len(text) > 15 for text in named.values())
    assert "  --warmup [default: 2ep]" in lines
    assert "  --decay-at [default: 12ep,24ep,32ep]" in lines
    assert "  --reference-batch" in lines
    assert lines.index("Execution (must not):") < lines.index("  --processes [default: 1]")
