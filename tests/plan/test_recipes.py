import itertools
from pathlib import Path

import pytest

from widestep.data.facts import describe
from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan


@pytest.fixture
def loaded(tmp_path):
    """Read a text as a recipe file."""

    def load(text: str | bytes) -> recipes.NamedRecipe:
        path = tmp_path / "mine.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return recipes.load(str(path))

    return load


def test_names():
    assert set(recipes.names()) >= {"digits", "digits-iter", "poster"}
    assert recipes.names() == sorted(recipes.names())


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_says_where_it_comes_from(name):
    shipped = recipes.load(name)
    assert shipped.name == name
    assert set(shipped.about) == {"summary", "source", "expected", "verified"}
    assert all(shipped.about.values())


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_comes_back_from_toml(name, loaded):
    shipped = recipes.load(name).recipe
    again = loaded(recipes.to_toml(shipped))
    assert again.recipe == shipped
    assert again.recipe.fingerprint == shipped.fingerprint
    assert again.name == "mine.toml"
    assert again.about == {}


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_has_a_plan(name):
    recipe = recipes.load(name).recipe
    facts = describe(recipe.data, train_images=recipe.train_images, image_size=recipe.image_size)
    plan = RunPlan(recipe, facts.num_train)
    assert 0 < plan.schedule.warmup_steps < plan.total_steps
    assert max(plan.schedule.trace(0, plan.schedule.warmup_steps)) == recipe.peak_lr


def test_the_poster():
    """Every setting that the table of recipes gives for it."""
    recipe = recipes.load("poster").recipe
    assert (recipe.model, recipe.data, str(recipe.grid), str(recipe.epochs)) == ("resnet50", "imagenet", "40x6x128", "90ep")
    assert (recipe.base_lr, recipe.scaling, recipe.peak_lr) == (0.0125, "per-worker", 3.0)
    assert (recipe.warmup_shape, recipe.warmup_start, recipe.warmup_first) == ("linear", "base", "open")
    assert (recipe.lr_decay, recipe.decay_factor) == ("step", 0.1)
    assert [str(at) for at in recipe.decay_at] == ["30ep", "60ep", "80ep"]
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay, recipe.decay_exempt) == ("sgd", 0.9, 5e-5, "none")
    assert (recipe.batchnorm_momentum, recipe.tail, recipe.label_smoothing, recipe.zero_gamma) == (0.1, "drop", 0.0, False)


def test_digits_is_the_poster_scaled_down():
    """36 epochs for 90, decay at 12, 24 and 32 for 30, 60 and 80: two fifths of each."""
    poster, digits = recipes.load("poster").recipe, recipes.load("digits").recipe
    shares = [small.amount / large.amount for small, large in zip(digits.decay_at, poster.decay_at, strict=True)]
    assert {digits.epochs.amount / poster.epochs.amount, *shares} == {recipes.Recipe(epochs="0.4").epochs.amount}
    assert (digits.momentum, digits.weight_decay, digits.lr_decay) == (poster.momentum, poster.weight_decay, "step")


def test_all_fields_are_written_but_the_empty_ones():
    written = recipes.parse_toml(recipes.to_toml(Recipe()), "text")
    assert set(Recipe.model_fields) - set(written) == {"train_images", "image_size", "reference_batch"}
    assert recipes.to_toml(Recipe()).splitlines()[0] == 'data = "digits"'


def test_an_empty_field_is_empty_by_default():
    """What makes leaving it out right: no field with another default can be empty."""
    for name, field in Recipe.model_fields.items():
        if field.default is not None:
            with pytest.raises(UsageError):
                recipes.changed(Recipe(), {name: None})


ODD = (
    'folder:/a "b"',
    "folder:C:\\new\\table",
    "folder:/é/数据/\U0001f40d",
    "a\tb\nc\rd\x00e\x1f\x7f\x85\u2028",
    "'",
    "#",
    "",
)


@pytest.mark.parametrize("data", ODD)
def test_any_text_comes_back(data, loaded):
    recipe = Recipe(data=data)
    assert loaded(recipes.to_toml(recipe)).recipe == recipe


def test_fields_in_a_table_or_at_top_level(loaded):
    flat, table = loaded("seed = 3\n"), loaded("[recipe]\nseed = 3\n")
    beside = loaded('seed = 3\n[about]\nsummary = "mine"\n')
    assert flat.recipe == table.recipe == beside.recipe == Recipe(seed=3)
    assert beside.about == {"summary": "mine"}
    assert loaded("").recipe == Recipe()
    assert loaded(b"\xef\xbb\xbfseed = 3\r\n").recipe == Recipe(seed=3)  # as some editors write it


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('base_lr = "1e-3"', "base_lr (in the recipe mine.toml): Input should be a valid number. Got '1e-3'."),
        ("base_lr = true", "base_lr (in the recipe mine.toml): Input should be a valid number. Got True."),
        ("base_lr = inf", "base_lr (in the recipe mine.toml): Input should be a finite number. Got inf."),
        ("base_lr = nan", "base_lr (in the recipe mine.toml): Input should be a finite number. Got nan."),
        ("seed = 1.0", "seed (in the recipe mine.toml): Input should be a valid integer. Got 1.0."),
        ("seed = 012", "The recipe mine.toml must be TOML. Expected newline or end of document after a statement"),
        ("seed = yes", "The recipe mine.toml must be TOML. Invalid value (at line 1, "),
        ("seed = 1\nseed = 2", "The recipe mine.toml must be TOML. Cannot overwrite a value"),
        ("seed = ", "The recipe mine.toml must be TOML. Invalid value"),
        ("seed = " + "9" * 5_000, "The recipe mine.toml must be TOML. Exceeds the limit"),
        ("a = " + "[" * 100_000, "The recipe mine.toml must be TOML. "),
        ("sed = 1", "'sed' is not a field of the recipe mine.toml. Perhaps you meant 'seed'."),
        ("minibatch = 32", "'minibatch' is not a field of the recipe mine.toml."),
        ("[recipes]\nseed = 1", "'recipes' is not a field of the recipe mine.toml."),
        ("[recipe]\nwarmpu = 1", "'warmpu' is not a field of the recipe mine.toml. Perhaps you meant 'warmup'."),
        ("seed = 1\n[recipe]\n", "mine.toml has a table [recipe], so its fields belong there. Got also ['seed']."),
        ("recipe = 3", "In a recipe, [about] and [recipe] are tables. mine.toml has a single value there."),
        ("about = 3", "In a recipe, [about] and [recipe] are tables. mine.toml has a single value there."),
        (b"seed = 1 # \xff", "A settings file is readable UTF-8 text. "),
        ("#" * 1_000_001, "A settings file is at most 1 MB. "),
    ],
    ids=itertools.count(),
)
def test_what_is_no_recipe_is_refused(text, sentence, loaded):
    with pytest.raises(UsageError) as caught:
        loaded(text)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("postr", " Perhaps you meant 'poster'.", id="typo"),
        pytest.param("digts", " Perhaps you meant 'digits'.", id="another"),
        pytest.param("x" * 5_000, "", id="long"),
        pytest.param("a\0b", "", id="zero"),
        pytest.param(".", "", id="directory"),
    ],
)
def test_there_is_no_such_recipe(name, hint):
    with pytest.raises(UsageError) as caught:
        recipes.load(name)
    listed = ", ".join(recipes.names())
    assert str(caught.value) == f"A recipe is one of {listed}, or a TOML file. Got {name!r}.{hint}"


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="A settings file is readable UTF-8 text"):
        recipes.read_text(tmp_path / "missing.toml")
    with pytest.raises(UsageError, match="A settings file is readable UTF-8 text"):
        recipes.read_text(Path(tmp_path))


def test_changes_are_checked_together():
    changed = recipes.changed(Recipe(), {"scaling": "linear", "reference_batch": "256", "warmup": "5ep"})
    assert changed == Recipe(scaling="linear", reference_batch=256, warmup="5ep")
    with pytest.raises(UsageError, match="needs the global batch"):
        recipes.changed(changed, {"reference_batch": "none"})
    assert recipes.changed(changed, {"scaling": "per-worker", "reference_batch": "none"}) == Recipe(warmup="5ep")
