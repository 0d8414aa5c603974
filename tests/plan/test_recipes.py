import itertools
from pathlib import Path

import pytest

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.explain import explain
from widestep.plan.recipe import Recipe, differences
from widestep.plan.settings_file import SettingsFile, read_text


@pytest.fixture
def loaded(tmp_path):
    """Read a text as a recipe file."""

    def load(text: str | bytes) -> recipes.NamedRecipe:
        path = tmp_path / "mine.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return recipes.load(str(path))

    return load


NAMES = [
    "akiba2017",
    "algoperf-momentum",
    "bag-of-tricks",
    "cifar10",
    "cifar10-cpu",
    "digits",
    "digits-iter",
    "goyal2017",
    "legw-lars",
    "mlperf-lars",
    "mlperf-sgd",
    "nado2021-lars",
    "nado2021-nesterov",
    "nvidia-dle",
    "poster",
    "poster-as-run",
    "torchvision-v1",
]
ADDRESSES = [
    address for name in NAMES for address in (name, *(f"{name}:{variant}" for variant in recipes.load(name).variants))
]


def fields_of(entry: str) -> list[str]:
    """The fields before the colon of `FIELD, FIELD: why`."""
    return entry.partition(": ")[0].split(", ")


def test_names():
    assert recipes.names() == NAMES


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_shipped_recipe_says_where_it_comes_from(address):
    shipped = recipes.load(address)
    about = shipped.about
    assert shipped.name == address
    required = {"summary", "source", "expected", "verified", "status", "assumed"}
    assert required <= set(about) <= required | {"second_hand", "quirks", "expected_results", "why", "num_train"}
    for key in ("summary", "source", "expected", "verified"):
        assert len(about[key]) > 10
        assert about[key] == " ".join(about[key].split())
    assert about["status"] in ("sure", "experimental")
    if shipped.recipe.data == "imagenet":
        assert about["verified"].endswith(" Never trained by us on ImageNet.")
        assert "ates" in about["verified"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_assumed_is_a_field(address):
    shipped = recipes.load(address)
    for entry in (*shipped.about["assumed"], *shipped.about.get("quirks", [])):
        assert set(fields_of(entry)) <= set(Recipe.model_fields), entry
        assert len(entry.partition(": ")[2]) > 5
    assumed = {field for entry in shipped.about["assumed"] for field in fields_of(entry)}
    assert set(shipped.about.get("second_hand", [])) <= assumed
    assert set(shipped.about.get("why", {})) <= set(explain(Recipe(), 960))


def test_second_hand_and_untried_settings_are_experimental():
    about = {name: recipes.load(name).about for name in NAMES}
    experimental = {name for name in NAMES if about[name]["status"] == "experimental"}
    second_hand = {name for name in NAMES if "second_hand" in about[name]}
    assert second_hand == {"akiba2017", "nado2021-nesterov"}
    assert experimental == second_hand | {"cifar10"}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_expected_has_a_batch_and_an_accuracy(name):
    shipped = recipes.load(name)
    for row in shipped.about.get("expected_results", []):
        assert set(row) <= {"batch", "accuracy", "sd", "n", "settings", "steps", "epochs", "reached", "runs", "note"}
        assert isinstance(row["batch"], int)
        assert 50 < row["accuracy"] < 80
        assert set(row.get("settings", {})) <= set(Recipe.model_fields)
        assert recipes.changed(shipped.recipe, row.get("settings", {}), typed=True)
        if name != "goyal2017" or row["batch"] != 128:  # the paper has one more batch than the table of its recipe
            assert row["batch"] == shipped.recipe.grid.global_batch or str(row["batch"]) in shipped.variants


def test_the_results_of_the_first_table():
    """Top-1 errors and standard deviations of Goyal et al. 2017 as the paper prints them."""
    errors = {
        128: (23.49, 0.12), 256: (23.60, 0.12), 512: (23.48, 0.09), 1024: (23.53, 0.08), 2048: (23.49, 0.11),
        4096: (23.56, 0.12), 8192: (23.74, 0.09), 16384: (24.79, 0.27), 32768: (27.55, 0.28), 65536: (33.96, 0.80),
    }  # fmt: skip
    rows = recipes.load("goyal2017").about["expected_results"]
    plain = {row["batch"]: (round(100 - row["accuracy"], 2), row["sd"]) for row in rows if "settings" not in row}
    assert plain == errors
    changed = [(row["settings"], round(100 - row["accuracy"], 2), row["sd"]) for row in rows if "settings" in row]
    assert changed == [
        ({"warmup": "0ep"}, 24.84, 0.37),
        ({"warmup_shape": "constant"}, 25.88, 0.56),
        ({"scaling": "sqrt"}, 26.22, 0.03),
        ({"scaling": "none"}, 41.67, 0.10),
        ({"zero_gamma": False}, 24.11, 0.07),
    ]
    assert all((row["batch"] == 8192 or "settings" not in row) and row["n"] == 5 for row in rows)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_shipped_recipe_comes_back_from_toml(address, loaded):
    shipped = recipes.load(address).recipe
    again = loaded(recipes.to_toml(shipped))
    assert again.recipe == shipped
    assert again.recipe.fingerprint == shipped.fingerprint
    assert (again.name, again.about, again.variants) == ("mine.toml", {}, ())


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_order_of_the_fields_does_not_matter(address, loaded):
    shipped = recipes.load(address).recipe
    backwards = "".join(reversed(recipes.to_toml(shipped).splitlines(keepends=True)))
    assert loaded(backwards).recipe.fingerprint == shipped.fingerprint


@pytest.mark.parametrize("address", [address for address in ADDRESSES if ":" in address and not address.endswith(":none")])
def test_a_variant_is_named_by_its_images_a_step(address):
    assert str(recipes.load(address).recipe.grid.global_batch) == address.partition(":")[2]


@pytest.mark.parametrize("name", [name for name in NAMES if recipes.load(name).variants])
def test_variants_are_different_recipes_and_the_recipe_is_one_of_them(name):
    shipped = recipes.load(name)
    each = [recipes.load(f"{name}:{variant}").recipe.fingerprint for variant in shipped.variants]
    assert len(set(each)) == len(each)
    assert shipped.recipe.fingerprint in each


def test_the_poster():
    """Every setting that the table of recipes gives for it."""
    recipe = recipes.load("poster").recipe
    assert (recipe.model, recipe.data, str(recipe.grid), str(recipe.epochs)) == ("resnet50", "imagenet", "40x6x128", "90ep")
    assert (recipe.base_lr, recipe.scaling, recipe.peak_lr) == (0.0125, "per-worker", 3.0)
    assert (recipe.warmup_shape, recipe.warmup_start, recipe.warmup_first) == ("linear", "base", "open")
    assert (recipe.lr_decay, recipe.decay_factor) == ("step", (0.1,))
    assert [str(at) for at in recipe.decay_at] == ["30ep", "60ep", "80ep"]
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay, recipe.decay_exempt) == ("sgd", 0.9, 5e-5, "none")
    assert (recipe.batchnorm_momentum, recipe.tail, recipe.label_smoothing, recipe.zero_gamma) == (0.1, "drop", 0.0, False)
    assert (recipe.batchnorm, recipe.batchnorm_running, recipe.evaluation) == ("local", "mean", "exact")


def test_the_poster_as_run_has_every_quirk_in_a_field():
    """Each is told, and is a field in which the recipe or its arm without scaling differs from the poster."""
    poster, as_run = recipes.load("poster").recipe, recipes.load("poster-as-run")
    changed = set(differences(poster, as_run.recipe))
    assert changed == {"tail", "warmup_overshoot", "batchnorm_running", "batchnorm_recompute", "evaluation"}
    assert (as_run.recipe.tail, as_run.recipe.batchnorm_running, as_run.recipe.evaluation) == (
        "pad",
        "worker0",
        "batch-means",
    )
    arm = recipes.load("poster-as-run:none").recipe
    assert differences(as_run.recipe, arm) == {"scaling": ("per-worker", "none-as-run")}
    assert [fields_of(quirk)[0] for quirk in as_run.about["quirks"]] == [
        "tail",
        "warmup_overshoot",
        "batchnorm_running",
        "batchnorm_recompute",
        "evaluation",
        "scaling",
    ]
    assert {quirk.partition(":")[0] for quirk in as_run.about["quirks"]} == changed | {"scaling"}


SETTINGS = {  # of the table of recipes, beside batch, rates and lengths, which test_recipe_rates.py has
    "goyal2017": {
        "optimizer": "nesterov", "momentum": 0.9, "weight_decay": 1e-4, "decay_exempt": "batchnorm", "classifier_std": 0.01,
        "zero_gamma": True, "batchnorm_momentum": 0.1, "scaling": "linear", "base_lr": 0.1, "reference_batch": 256,
    },
    "akiba2017": {
        "optimizer": "rmsprop-sgd", "momentum": 0.9, "weight_decay": 1e-4, "batchnorm_running": "last",
    },
    "legw-lars": {
        "optimizer": "lars-nus", "momentum": 0.9, "weight_decay": 1e-4, "decay_exempt": "batchnorm+bias",
        "label_smoothing": 0.1, "scaling": "legw", "base_lr": 4.0, "reference_batch": 512, "final_lr": 0.0,
    },
    "mlperf-sgd": {
        "optimizer": "sgd", "momentum": 0.9, "weight_decay": 2.5e-5, "label_smoothing": 0.1, "final_lr": 1e-4,
    },
    "nado2021-lars": {
        "optimizer": "lars-tf", "momentum": 0.929, "weight_decay": 1e-4, "decay_exempt": "batchnorm+bias",
        "label_smoothing": 0.1, "batchnorm_momentum": 0.1, "zero_gamma": True, "final_lr": 1e-4,
    },
    "nado2021-nesterov": {
        "optimizer": "nesterov", "momentum": 0.98, "weight_decay": 6e-5, "label_smoothing": 0.15,
        "warmup_shape": "polynomial", "warmup_power": 2.0,
    },
    "bag-of-tricks": {
        "optimizer": "nesterov", "momentum": 0.9, "weight_decay": 1e-4, "decay_exempt": "batchnorm+bias",
        "label_smoothing": 0.1, "zero_gamma": True, "lr_decay": "cosine",
    },
    "nvidia-dle": {"optimizer": "sgd", "momentum": 0.875, "weight_decay": 3.05e-5, "label_smoothing": 0.1},
    "nvidia-dle:4096": {"weight_decay": 3.05e-5},
    "nvidia-dle:1024": {"weight_decay": 6.1e-5},
    "nvidia-dle:256": {"weight_decay": 6.1e-5},
    "torchvision-v1": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "decay_exempt": "none"},
    "algoperf-momentum": {
        "optimizer": "sgd", "momentum": 0.92748, "weight_decay": 5.6688e-6, "label_smoothing": 0.2, "zero_gamma": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("address", SETTINGS)
def test_the_settings_of_the_table(address):
    recipe = recipes.load(address).recipe
    assert {name: getattr(recipe, name) for name in SETTINGS[address]} == SETTINGS[address]


IMAGES_NORMALISED = {
    "goyal2017:65536": 32,
    "poster": 128,
    "nado2021-lars": 64,
    "nado2021-nesterov": 64,
    "bag-of-tricks": 128,
}


@pytest.mark.parametrize("address", IMAGES_NORMALISED)
def test_the_images_that_batch_normalisation_sees(address):
    recipe = recipes.load(address).recipe
    together = recipe.batchnorm_group(recipe.grid.num_workers) * recipe.grid.images_per_worker
    assert together == IMAGES_NORMALISED[address]


def test_digits_is_the_poster_scaled_down():
    """36 epochs for 90, decay at 12, 24 and 32 for 30, 60 and 80: two fifths of each."""
    poster, digits = recipes.load("poster").recipe, recipes.load("digits").recipe
    shares = [small.amount / large.amount for small, large in zip(digits.decay_at, poster.decay_at, strict=True)]
    assert {digits.epochs.amount / poster.epochs.amount, *shares} == {recipes.Recipe(epochs="0.4").epochs.amount}
    assert (digits.momentum, digits.weight_decay, digits.lr_decay) == (poster.momentum, poster.weight_decay, "step")


def test_all_fields_are_written_but_the_empty_ones():
    written = SettingsFile.parse(recipes.to_toml(Recipe()), "text").values
    empty = {name for name, field in Recipe.model_fields.items() if field.default is None}
    assert {"train_images", "image_size", "reference_batch", "clip_norm", "decay_end"} <= empty
    assert set(Recipe.model_fields) - set(written) == empty
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
        ('base_lr = "1e-3"', "base_lr (in the recipe mine.toml, line 1): Input should be a valid number. Got '1e-3'."),
        ("base_lr = true", "base_lr (in the recipe mine.toml, line 1): Input should be a valid number. Got True."),
        ("base_lr = inf", "base_lr (in the recipe mine.toml, line 1): Input should be a finite number. Got inf."),
        ("base_lr = nan", "base_lr (in the recipe mine.toml, line 1): Input should be a finite number. Got nan."),
        ("seed = 1.0", "seed (in the recipe mine.toml, line 1): Input should be a valid integer. Got 1.0."),
        ("seed = 012", "The recipe mine.toml must be TOML. Expected newline or end of document after a statement"),
        ("seed = yes", "The recipe mine.toml must be TOML. Invalid value (at line 1, "),
        ("seed = 1\nseed = 2", "The recipe mine.toml must be TOML. Cannot overwrite a value"),
        ("seed = ", "The recipe mine.toml must be TOML. Invalid value"),
        ("seed = " + "9" * 5_000, "The recipe mine.toml must be TOML. A number in it has thousands of digits."),
        ("a = " + "[" * 90_000, "The recipe mine.toml must be a few settings in TOML. Its values are nested too deeply."),
        ("sed = 1", "'sed' is not a field of the recipe mine.toml, line 1. Perhaps you meant 'seed'."),
        ("minibatch = 32", "'minibatch' is not a field of the recipe mine.toml, line 1."),
        (
            "[recipes]\nseed = 1",
            "'recipes' is not a field of the recipe mine.toml, line 1. What is in it is known outside",
        ),
        ("[recipe]\nwarmpu = 1", "'warmpu' is not a field of the recipe mine.toml, line 2. Perhaps you meant 'warmup'."),
        ("seed = 1\n[recipe]\n", "mine.toml has a table [recipe], so its fields belong there. Got also ['seed']."),
        ("recipe = 3", "In a recipe, [about], [recipe] and [variants.NAME] are tables. mine.toml has a single value"),
        ("about = 3", "In a recipe, [about], [recipe] and [variants.NAME] are tables. mine.toml has a single value"),
        ("variants = 3", "In a recipe, [about], [recipe] and [variants.NAME] are tables. mine.toml has a single value"),
        ("[variants]\na = 3", "In a recipe, [about], [recipe] and [variants.NAME] are tables. mine.toml has a single value"),
        (b"seed = 1 # \xff", "A settings file is readable UTF-8 text. "),
        ("#" * 100_001, "A settings file is at most 100 kB of text. "),
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
    assert str(caught.value) == (
        f"A recipe is one of {listed}, or a TOML file; NAME:VARIANT is a variant of it. Got {name!r}.{hint}"
    )


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("mlperf-lars:32678", ", 32768, 65536. Got '32678'. Perhaps you meant '32768'."),
        (
            "poster:30,720",
            "The recipe poster has the variants 3072, 7680, 15360, 23040, 30720. Got '30,720'. Perhaps you meant",
        ),
        ("poster:", "The recipe poster has the variants 3072, 7680, 15360, 23040, 30720. Got ''."),
        ("poster:recipe", "The recipe poster has the variants 3072, 7680, 15360, 23040, 30720. Got 'recipe'."),
        ("digits:wide", "The recipe digits has no variants. Got 'wide'; leave the colon and it out."),
        ("poster:3072:3072", "Got 'poster:3072:3072'."),
        (":3072", "Got ':3072'."),
        (":", "Got ':'."),
    ],
)
def test_there_is_no_such_variant(address, sentence):
    with pytest.raises(UsageError) as caught:
        recipes.load(address)
    assert sentence in str(caught.value)


VARIED = """
seed = 1
warmup = "3ep"
scaling = "linear"
reference_batch = 8

[about]
summary = "mine"
source = "me"

[variants.wide]
grid = "8x1x8"
about = { summary = "mine, wide" }

[variants."no warmup"]
warmup = 0

[variants.unscaled]
scaling = "none"
reference_batch = "none"

[variants.same]

[variants.wrong]
sed = 2
"""


def test_a_file_has_variants(loaded, tmp_path):
    plain = loaded(VARIED)
    assert plain.variants == ("wide", "no warmup", "unscaled", "same", "wrong")
    assert plain.recipe == Recipe(seed=1, warmup="3ep", scaling="linear", reference_batch=8)
    path = tmp_path / "mine.toml"
    wide = recipes.load(f"{path}:wide")
    assert (wide.name, wide.variants) == ("mine.toml:wide", plain.variants)
    assert wide.recipe == recipes.changed(plain.recipe, {"grid": "8x1x8"})
    assert wide.about == {"summary": "mine, wide", "source": "me"}
    assert plain.about == {"summary": "mine", "source": "me"}
    assert recipes.load(f"{path}:no warmup").recipe == recipes.changed(plain.recipe, {"warmup": "0"})
    assert recipes.load(f"{path}:unscaled").recipe == Recipe(seed=1, warmup="3ep", scaling="none")
    assert recipes.load(f"{path}:same").recipe == plain.recipe
    with pytest.raises(
        UsageError, match=r"'sed' is not a field of the recipe mine.toml:wrong, line 25. Perhaps you meant 'seed'"
    ):
        recipes.load(f"{path}:wrong")
    with pytest.raises(UsageError, match=r"The recipe mine.toml has the variants .* Got 'wid'. Perhaps you meant 'wide'."):
        recipes.load(f"{path}:wid")


def test_a_file_with_a_colon_in_its_name_is_that_file(tmp_path):
    (tmp_path / "mine.toml:wide").write_text("seed = 5\n")
    (tmp_path / "mine.toml").write_text(VARIED)
    assert recipes.load(str(tmp_path / "mine.toml:wide")).recipe == Recipe(seed=5)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="A settings file is readable UTF-8 text"):
        read_text(tmp_path / "missing.toml")
    with pytest.raises(UsageError, match="A settings file is readable UTF-8 text"):
        read_text(Path(tmp_path))


def test_changes_are_checked_together():
    changed = recipes.changed(Recipe(), {"scaling": "linear", "reference_batch": "256", "warmup": "5ep"})
    assert changed == Recipe(scaling="linear", reference_batch=256, warmup="5ep")
    with pytest.raises(UsageError, match="needs the global batch"):
        recipes.changed(changed, {"reference_batch": "none"})
    assert recipes.changed(changed, {"scaling": "per-worker", "reference_batch": "none"}) == Recipe(warmup="5ep")
