"""`widestep recipes`: what is shipped, where it comes from, one in sentences, and what every field means."""

import json

import pytest

from widestep.plan import recipes
from widestep.plan.execution import Execution
from widestep.plan.explain import explain
from widestep.plan.recipe import Recipe

ADDRESSES = [
    address
    for name in recipes.names()
    for address in (name, *(f"{name}:{variant}" for variant in recipes.load(name).variants[:2]))
]


def test_a_line_for_each(say):
    head, *lines = say("recipes list").lines
    assert head.split() == ["name", "images", "optimizer", "settings", "summary"]
    of_recipes = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[0] for line in of_recipes] == recipes.names()
    for line in of_recipes:
        name, images, optimizer, status, summary = line.split(None, 4)
        named = recipes.load(name)
        assert (images, optimizer) == (f"{named.recipe.grid.global_batch:,}", named.recipe.optimizer)
        assert (status, summary) == (named.about["status"], named.about["summary"])
        assert line.index(summary) == head.index("summary")
    assert max(map(len, lines)) <= 130


def test_variants_are_named_below(say):
    lines = say("recipes list").lines
    for name in recipes.names():
        (number,) = [number for number, line in enumerate(lines) if line.split()[0] == name]
        following = (lines[number + 1] if number + 1 < len(lines) else "").split()
        variants = [f":{variant}" for variant in recipes.load(name).variants]
        assert (following == ["variants", *variants]) == bool(variants)
    assert "    variants :1664 :2560 :3264" in lines


def test_the_list_for_machines(say):
    found = json.loads(say("recipes list --json").stdout)
    assert [entry["name"] for entry in found] == recipes.names()
    (entry,) = [entry for entry in found if entry["name"] == "mlperf-sgd"]
    assert entry == {
        "name": "mlperf-sgd",
        "global_batch": 3264,
        "optimizer": "sgd",
        "status": "sure",
        "summary": recipes.load("mlperf-sgd").about["summary"],
        "variants": ["1664", "2560", "3264"],
    }


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_shown_is_a_recipe_file(say, empty, address):
    found = say("recipes show", address)
    named = recipes.load(address)
    (empty / "again.toml").write_text(found.stdout)
    assert recipes.load("again.toml").recipe == named.recipe
    for key in ("summary", "source", "expected", "verified", "status"):
        assert f"# {key}: {named.about[key]}" in found.lines
    assert f"# fingerprint: {named.recipe.fingerprint}" in found.lines


def test_what_a_recipe_sets_comes_first(say):
    lines = say("recipes show torchvision-v1").lines
    first, then = lines.index("# set by this recipe"), lines.index("# as everywhere")
    assert [line.split()[0] for line in lines[first + 1 : then - 1]] == [
        *("data", "image_size", "augment", "model", "grid", "epochs", "weight_decay", "base_lr", "scaling", "warmup"),
        *("decay_at", "images_per_evaluation"),
    ]
    assert "weight_decay = 0.0001" in lines[first:then]
    assert "momentum = 0.9" in lines[then:]


def test_every_quirk_is_shown(say):
    lines = say("recipes show poster-as-run").lines
    quirks = recipes.load("poster-as-run").about["quirks"]
    assert len(quirks) == 6
    assert [line.removeprefix("#   ") for line in lines if line.removeprefix("#   ") in quirks] == quirks


def test_the_expected_results_are_a_table(say):
    lines = say("recipes show goyal2017:16384").lines
    assert "# expected results:" in lines
    assert "#   8,192 images: 76.26 +- 0.09 % n 5" in lines
    assert "#   16,384 images: 75.21 +- 0.27 % n 5 <- this recipe" in lines
    assert "#   65,536 images: 66.04 +- 0.80 % n 5" in lines
    assert "#   8,192 images: 58.33 +- 0.10 % n 5, with scaling = none" in lines
    assert "#   8,192 images: 75.89 +- 0.07 % n 5, with zero_gamma = false" in lines
    assert "# variants: :256 :512 :1024 :2048 :4096 :8192 :16384 :32768 :65536" in lines
    plain = say("recipes show goyal2017").lines
    assert [line for line in plain if "this recipe" in line and "images" in line] == [
        "#   8,192 images: 76.26 +- 0.09 % n 5 <- this recipe"
    ]
    logs = say("recipes show mlperf-lars").lines
    assert "#   3,264 images: 75.9 % steps 13,738, epochs 35, reached 393, runs 415 <- this recipe" in logs
    assert "#   1,024 images: 77.0 % note at least; not verified <- this recipe" in say("recipes show bag-of-tricks").lines


def test_for_machines(say):
    found = json.loads(say("recipes show legw-lars:16384 --json").stdout)
    named = recipes.load("legw-lars:16384")
    assert list(found) == ["name", "about", "fingerprint", "variants", "recipe", "set"]
    assert found["name"] == "legw-lars:16384"
    assert found["about"] == dict(named.about)
    assert found["about"]["status"] == "experimental"
    assert found["fingerprint"] == named.recipe.fingerprint
    assert found["recipe"] == named.recipe.values()
    assert found["variants"] == list(named.variants)
    defaults = Recipe().values()
    assert set(found["set"]) == {name for name, value in found["recipe"].items() if value != defaults[name]}


ODD = """
seed = 5
[about]
summary = 3
expected_results = [1, { batch = 32, accuracy = 98.8 }, { batch = "x" }, { batch = 64, settings = 7 }]
assumed = { a = "b\\nc" }
quirks = []
why = "none"
when = 2024-01-01
[variants.wide]
grid = "8x1x8"
"""


def test_a_file_of_ones_own_says_what_it_likes(say, empty):
    (empty / "mine.toml").write_text(ODD)
    lines = say("recipes show mine.toml").lines
    assert lines[: lines.index("# set by this recipe") - 1] == [
        "# summary:",
        "#   3",
        "# assumed:",
        "#   a: b c",
        "# why: none",
        "# when:",
        "#   2024-01-01",
        "# expected results:",
        "#   1",
        "#   32 images: 98.8 % <- this recipe",
        "#   {'batch': 'x'}",
        "#   {'batch': 64, 'settings': 7}",
        "# variants: :wide",
        f"# fingerprint: {Recipe(seed=5).fingerprint}",
    ]
    assert json.loads(say("recipes show mine.toml:wide --json").stdout)["recipe"]["grid"] == "8x1x8"
    assert say("recipes explain mine.toml:wide").lines[0] == "mine.toml:wide"


@pytest.mark.parametrize("name", recipes.names())
def test_explained(say, name):
    found = say("recipes explain", name)
    assert (found.code, found.stderr) == (0, "")
    assert found.lines[0] == name
    assert max(map(len, found.lines)) <= 100
    recipe = recipes.load(name).recipe
    sentences = explain(recipe, recipe.train_images or recipes.load(name).about.get("num_train") or 1_281_167)
    told = " ".join(found.stdout.split())
    for topic, text in sentences.items():
        assert any(line.startswith(f"{topic} ") for line in found.lines)
        assert text in told
    about = recipes.load(name).about
    for reason in about.get("why", {}).values():
        assert f"Why: {reason}" in told
    assert about["source"] in told


def test_other_data_than_the_recipe_knows_must_be_there(say):
    found = say("recipes explain cifar10-cpu --data parquet:elsewhere")
    assert found.code == 3
    assert "nothing at 'elsewhere'" in found.stderr


def test_explained_with_other_fields(say):
    found = say("recipes explain digits --grid 40x1x8 --base-lr 0.1 --warmup 4ep")
    assert found.lines[0] == "digits, with other values of grid, base_lr, warmup"
    told = " ".join(found.stdout.split())
    assert "The peak rate is 4: 0.1 @ 8 images x 320/8 -> 4." in told
    assert "12 step(s) = 4 epochs" in told


def test_a_reason_is_not_given_for_what_the_user_chose(say):
    plain = say("recipes explain mlperf-lars:32768").stdout
    reasons = recipes.load("mlperf-lars:32768").about["why"]
    assert plain.count("Why: ") == len(reasons) == 5
    other = say("recipes explain mlperf-lars:32768 --optimizer lamb").stdout
    assert other.count("Why: ") == 4
    assert "form of LARS" not in other
    assert say("recipes explain mlperf-lars:32768 --optimizer lars-tf --seed 3").stdout.count("Why: ") == 5
    found = json.loads(say("recipes explain mlperf-lars:32768 --json --decay-power 1 --base-lr 2 --batchnorm sync").stdout)
    assert set(found["why"]) == {"warmup", "optimizer"}
    grid = json.loads(say("recipes explain mlperf-lars:32768 --json --grid 1x1x8").stdout)
    assert set(grid["why"]) == {"optimizer", "decay"}  # what was tuned for a batch was not tuned for another


def test_explained_for_machines(say):
    found = json.loads(say("recipes explain goyal2017:512 --warmup 3ep --json").stdout)
    assert list(found) == ["name", "fingerprint", "changed", "sentences", "why", "source"]
    recipe = recipes.changed(recipes.load("goyal2017:512").recipe, {"warmup": "3ep"})
    assert (found["name"], found["fingerprint"], found["changed"]) == ("goyal2017:512", recipe.fingerprint, ["warmup"])
    assert found["sentences"] == explain(recipe, 1_281_167)
    assert found["why"] == {
        topic: reason for topic, reason in recipes.load("goyal2017").about["why"].items() if topic != "warmup"
    }
    assert found["source"] == recipes.load("goyal2017").about["source"]


@pytest.mark.parametrize("command", ["show", "explain"])
@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("postr", "Got 'postr'. Perhaps you meant 'poster'."),
        ("poster:3270", "The recipe poster has the variants 3072, 7680, 15360, 23040, 30720. Got '3270'."),
        ("digits:wide", "The recipe digits has no variants. Got 'wide'; leave the colon and it out."),
    ],
)
def test_there_is_no_such_recipe(say, command, address, sentence):
    found = say(f"recipes {command}", address)
    assert (found.code, found.stdout) == (2, "")
    assert sentence in found.stderr


def test_a_field_that_is_none(say):
    found = say("recipes explain digits --wramup 3ep")
    assert (found.code, found.stdout) == (2, "")
    assert "--wramup is no option. Perhaps you meant 'warmup'." in found.stderr


def test_a_variant_is_taken_wherever_a_recipe_is(say):
    found = json.loads(say("lr --recipe mlperf-lars:32768 --json --steps 0:1").stdout)
    assert (found["steps"], found["steps_per_epoch"], found["lr"]) == (2346, 39, [0.0])


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
