import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.fields import build
from widestep.plan.grid import WorkerGrid
from widestep.plan.order import EpochShape
from widestep.plan.recipe import PER_SLOT_FIELDS, Recipe, differences
from widestep.plan.settings_file import SettingsFile

BASE = Recipe(scaling="linear", reference_batch=256)
ALTERNATIVES = {
    "data": "imagenet",
    "train_images": 960,
    "image_size": 8,
    "evaluation_resize": 256,
    "augment": "shift-flip",
    "bad_images": "skip",
    "model": "resnet50",
    "dropout": 0.1,
    "zero_gamma": True,
    "classifier_std": 0.01,
    "worker_ramp": "30ep:8",
    "grid": "8x1x4",  # as many images as the default: the workers count
    "epochs": "1080st",
    "tail": "pad",
    "seed": 1,
    "optimizer": "nesterov",
    "momentum": 0.5,
    "beta1": 0.5,
    "beta2": 0.5,
    "epsilon": 1e-6,
    "weight_decay": 1e-4,
    "decay_exempt": "batchnorm",
    "trust_coefficient": 0.002,
    "trust_epsilon": 1e-6,
    "trust_exempt": "none",
    "rmsprop_lr": 1e-4,
    "blend_centre": "9ep",
    "blend_period": "150st",
    "clip_norm": 1.0,
    "label_smoothing": 0.1,
    "base_lr": 0.1,
    "scaling": "sqrt",
    "reference_batch": 255,
    "adascale_smoothing": 0.0,
    "warmup": "60st",
    "warmup_shape": "exponential",
    "warmup_power": 3.0,
    "warmup_start": 0.045,  # the value of base_lr
    "warmup_first": "closed",
    "warmup_overshoot": True,
    "lr_decay": "cosine",
    "decay_at": ["12ep", "24ep"],
    "decay_factor": [0.1, 0.1, 0.2],
    "decay_power": 1.0,
    "decay_end": "36ep",  # the value of epochs
    "final_lr": 1e-9,
    "batchnorm": "group:1",  # as local, in other words
    "batchnorm_momentum": 0.01,
    "batchnorm_running": "worker0",
    "batchnorm_recompute": "never",
    "batchnorm_images": 8191,
    "workers_per_forward": 2,
    "worker_norms": True,
    "images_per_forward": 8,  # all images of a worker, in other words
    "precision": "bf16",
    "tf32": True,
    "memory_format": "contiguous",  # what auto is here, in other words
    "compile": "default",
    "mode": "fast",
    "compression": "fp16",
    "stack": 2,
    "evaluate_every": "2ep",
    "images_per_evaluation": 255,
    "val_images": 50,
    "evaluation": "batch-means",
    "threads": 2,
}
NEEDED = {"compression": {"mode": "fast"}}
"""What a field needs others to be, so that it can have its other value."""


def base_of(name: str) -> Recipe:
    return recipes.changed(BASE, NEEDED.get(name, {}), typed=True)


def altered(name: str) -> Recipe:
    return recipes.changed(base_of(name), {name: ALTERNATIVES[name]}, typed=True)


@pytest.mark.parametrize("name", list(Recipe.model_fields))
def test_every_field_changes_the_fingerprint(name):
    """A new field fails here until it has an alternative above."""
    base, other = base_of(name), altered(name)
    assert other != base
    assert list(differences(base, other)) == [name]
    assert other.fingerprint != base.fingerprint


def test_all_fingerprints_differ():
    assert len({altered(name).fingerprint for name in ALTERNATIVES} | {BASE.fingerprint}) == len(ALTERNATIVES) + 1
    assert set(ALTERNATIVES) == set(Recipe.model_fields)


def test_a_fingerprint_is_16_hexadecimal_digits():
    assert len(BASE.fingerprint) == len(BASE.stack_key) == 16
    int(BASE.fingerprint, 16)


@pytest.mark.parametrize("name", list(Recipe.model_fields))
def test_the_stack_ignores_exactly_the_fields_of_a_slot(name):
    assert (altered(name).stack_key == base_of(name).stack_key) == (name in PER_SLOT_FIELDS)


def test_runs_of_a_stack_compute_the_workers_norms_or_none_does():
    """AdaScale has them always; a run with another rule may share its stack when it has them too."""
    adascale, plain, with_norms = Recipe(scaling="adascale"), Recipe(), Recipe(worker_norms=True)
    assert adascale.stack_key != plain.stack_key
    assert with_norms.stack_key != plain.stack_key
    assert Recipe(scaling="adascale", worker_norms=True).stack_key == with_norms.stack_key
    assert (adascale.has_worker_norms, plain.has_worker_norms, with_norms.has_worker_norms) == (True, False, True)


SHARED_BY_A_STACK = {  # data and images, the network's computation, the length and the rhythm of training
    *(
        "data",
        "train_images",
        "image_size",
        "evaluation_resize",
        "augment",
        "bad_images",
        "tail",
        "grid",
        "worker_ramp",
        "epochs",
    ),
    *("evaluate_every", "images_per_evaluation", "val_images", "evaluation"),
    *("model", "dropout", "label_smoothing", "workers_per_forward", "worker_norms"),
    *("batchnorm", "batchnorm_momentum", "batchnorm_running", "batchnorm_recompute", "batchnorm_images"),
    *("images_per_forward", "precision", "tf32", "memory_format", "compile", "mode", "compression", "stack", "threads"),
}


def test_what_the_runs_of_a_stack_share_and_what_is_their_own():
    assert set(Recipe.model_fields) == SHARED_BY_A_STACK | PER_SLOT_FIELDS
    assert not SHARED_BY_A_STACK & PER_SLOT_FIELDS


@pytest.mark.parametrize(("seed", "stack", "slot"), [(0, 1, 0), (7, 1, 0), (7, 12, 7), (12, 12, 0), (25, 12, 1)])
def test_the_slot(seed, stack, slot):
    assert Recipe(seed=seed, stack=stack).slot == slot


@pytest.mark.parametrize("name", list(Recipe.model_fields))
def test_every_field_is_explained(name):
    said = Recipe.model_fields[name].description
    assert said
    assert said.rstrip().endswith(".")
    assert said[0].isupper() or said[0] == "`"


def test_a_recipe_stays_as_it_is():
    with pytest.raises(ValidationError, match="frozen"):
        BASE.seed = 1
    assert hash(BASE) == hash(Recipe(scaling="linear", reference_batch=256))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"epochs": "36"}, {"epochs": "36.0ep"}),
        ({"warmup": 2.5}, {"warmup": "2.50ep"}),
        ({"grid": "4x1x8"}, {"grid": WorkerGrid(4, 1, 8)}),
        ({"decay_at": "12, 24"}, {"decay_at": ["12ep", 24.0]}),
        ({"base_lr": 1}, {"base_lr": 1.0}),
        ({"warmup_start": 1}, {"warmup_start": "1.0"}),
        ({"train_images": None}, {}),
    ],
)
def test_what_is_equal_has_one_fingerprint(one, other):
    first, second = Recipe(**one), Recipe(**other)
    assert first == second
    assert first.fingerprint == second.fingerprint
    assert differences(first, second) == {}


def test_the_same_length_in_another_unit_is_another_recipe():
    assert Recipe(epochs="36ep").fingerprint != Recipe(epochs="1080st").fingerprint


def test_differences_name_both_values():
    new = Recipe(seed=2, epochs="600st", train_images=960)
    assert differences(Recipe(seed=1), new) == {
        "train_images": (None, 960),
        "epochs": ("36ep", "600st"),
        "seed": (1, 2),
    }


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"scaling": "linear"},
            "The scaling rule 'linear' needs the global batch that base_lr was tuned for. None was given",
        ),
        ({"scaling": "sqrt"}, "The scaling rule 'sqrt' needs the global batch that base_lr was tuned for. None was given"),
        ({"reference_batch": 256}, "reference_batch must be left out. Got 256; use 'linear' to scale by images."),
        ({"lr_decay": "exponential"}, "An exponential decay ends at a rate above 0. final_lr is 0; set it"),
        ({"warmup_shape": "exponential", "warmup_start": "zero"}, "An exponential warmup starts above 0."),
        ({"warmup_shape": "exponential", "warmup_start": "0.0"}, "An exponential warmup starts above 0."),
        ({"epochs": "0"}, "at least one step. epochs is 0; give for example"),
        ({"epochs": "0st"}, "at least one step. epochs is 0; give for example"),
        ({"evaluate_every": "0"}, "at least one step. evaluate_every is 0; give for example"),
        ({"scaling": "legw"}, "The scaling rule 'legw' needs the global batch that base_lr was tuned for. None was given"),
        (
            {"scaling": "none-as-run", "reference_batch": "8"},
            "'none-as-run' has one worker as its reference, so reference_b",
        ),
        ({"scaling": "adascale", "reference_batch": "32"}, "AdaScale's reference is one worker, so reference_batch is left"),
        ({"decay_factor": "0.1,0.2"}, "Got 2 factors for 3 points of decay_at."),
        ({"decay_factor": "0.1,0.2", "decay_at": ""}, "Got 2 factors for 0 points of decay_at."),
        ({"batchnorm": "group:3"}, "must divide the workers. Got batchnorm = group:3 for 4 workers; choose"),
        (
            {"batchnorm": "group:4", "worker_ramp": "2ep:6"},
            "must divide the workers. Got batchnorm = group:4 for 6 workers;",
        ),
        ({"scaling": "adascale", "batchnorm": "sync"}, "batchnorm must be local. Got sync."),
        ({"worker_norms": "true", "batchnorm": "group:2"}, "batchnorm must be local. Got group:2."),
        ({"mode": "fast", "scaling": "adascale"}, "AdaScale and worker_norms need mode = reproducible."),
        ({"mode": "fast", "worker_norms": "true"}, "AdaScale and worker_norms need mode = reproducible."),
        ({"mode": "fast", "batchnorm": "sync"}, "batchnorm = sync needs mode = reproducible."),
        (
            {"images_per_forward": "4", "workers_per_forward": "2"},
            "it needs workers_per_forward = 1 and batchnorm = local. Got 2 and local; leave images_per_forward out",
        ),
        ({"images_per_forward": "4", "batchnorm": "group:2"}, "and batchnorm = local. Got 1 and group:2; leave images_per"),
        ({"compile": "max-autotune"}, "use compile = default or reduce-overhead, or mode = fast."),
        (
            {"compile": "reduce-overhead", "worker_norms": "true", "workers_per_forward": "2"},
            "set workers_per_forward to 1, or compile to none. Got 2 and reduce-overhead.",
        ),
        ({"compression": "fp16"}, "only fast mode may. Got compression = fp16 with mode = reproducible."),
        (
            {"base_lr": "1e308", "grid": "1x1x1", "worker_ramp": "1ep:10"},
            "The peak rate must be a positive number. It is inf;",
        ),
        ({"base_lr": "1e308", "grid": "10x1x1"}, "The peak rate must be a positive number. It is inf; change base_lr"),
        (
            {"base_lr": "1e-320", "scaling": "linear", "reference_batch": f"{10**12}"},
            "The peak rate must be a positive number. It is 0.0; change base_lr or scaling.",
        ),
        (
            {"data": "folder:/pictures\udcff"},
            "A recipe is kept as UTF-8 text. Got 'folder:/pictures\\udcff' as data; rename",
        ),
        ({"tail": "pad", "lr_decay": "cosin"}, "lr_decay (in the recipe): Input should be 'step', 'cosine', "),
    ],
)
def test_fields_that_do_not_fit_together(fields, sentence):
    with pytest.raises(UsageError) as caught:
        build(Recipe, fields, what="recipe", typed=False)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_is_refused_when_built_directly():
    with pytest.raises(UsageError, match="final_lr is 0"):
        Recipe(lr_decay="exponential")


def test_what_may_be_compiled():
    Recipe(compile="max-autotune", mode="fast")
    Recipe(compile="reduce-overhead", workers_per_forward=4, stack=3)
    Recipe(compile="default", scaling="adascale")


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_passes_are_consecutive_and_as_equal_as_can_be(num_images, most):
    passes = Recipe(images_per_forward=most).passes_of(num_images)
    assert [image for one in passes for image in one] == list(range(num_images))
    sizes = [len(one) for one in passes]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(passes) == math.ceil(num_images / most)  # not one more than there must be


def test_without_a_limit_there_is_one_pass():
    assert Recipe().passes_of(4096) == [range(4096)]


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ("model=resnet50", True),
        ("model=resnet18 precision=bf16", True),
        ("model=cifar-resnet20", True),
        ("model=digits-resnet", False),
        ("model=resnet50.py:Net", False),  # a model of one's own may rely on planes
        ("model=resnet50 stack=2", False),
        ("model=resnet50 workers_per_forward=2", False),
        ("model=resnet50 workers_per_forward=2 grid=1x1x8", True),  # there is but one worker
        ("model=resnet50 workers_per_forward=2 grid=1x1x8 worker_ramp=2ep:4", False),
        ("model=resnet50 batchnorm=group:2", True),  # one group a pass
        ("model=resnet50 batchnorm=group:2 workers_per_forward=3", False),
        ("model=resnet50 batchnorm=sync workers_per_forward=3", True),
        ("model=resnet50 memory_format=contiguous", False),
        ("model=digits-resnet stack=2 memory_format=channels_last", True),
    ],
)
def test_where_channels_are_last(settings, last):
    assert recipes.changed(Recipe(), dict(setting.split("=") for setting in settings.split())).channels_last == last


def durations(positive: bool) -> st.SearchStrategy[str]:
    whole = st.builds("{}{}".format, st.integers(int(positive), 10**6), st.sampled_from(["ep", "st", "im", ""]))
    return st.one_of(whole, st.builds("{}.{:06d}ep".format, st.integers(int(positive), 999), st.integers(0, 999_999)))


def choice(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from(Recipe.model_fields[name].annotation.__args__)


def floats(low: float, high: float, **bounds: bool) -> st.SearchStrategy[float]:
    return st.floats(low, high, **bounds).map(abs)  # no -0.0


def ramps(epochs: set[int]) -> st.SearchStrategy[list[str]]:
    return st.tuples(*[st.builds(f"{epoch}ep:{{}}".format, st.integers(1, 9_999_999)) for epoch in sorted(epochs)]).map(list)


STRATEGIES = {
    "data": st.one_of(st.text(), st.text(st.characters(categories=["Cc", "Zs", "Po"]))),
    "train_images": st.none() | st.integers(1, 10**12),
    "image_size": st.none() | st.integers(1, 10**9),
    "evaluation_resize": st.none() | st.integers(1, 10**9),
    "augment": choice("augment"),
    "bad_images": choice("bad_images"),
    "model": st.text(),
    "dropout": floats(0, 1, exclude_max=True),
    "zero_gamma": st.booleans(),
    "classifier_std": st.none() | floats(0, 1e300, exclude_min=True),
    "worker_ramp": st.sets(st.integers(1, 999_999_999), max_size=3).flatmap(ramps),
    "grid": st.builds("{}x{}x{}".format, *[st.integers(1, 9_999)] * 3),
    "epochs": durations(positive=True),
    "tail": choice("tail"),
    "seed": st.integers(0, 2**63 - 1),
    "optimizer": choice("optimizer"),
    "momentum": floats(0, 1, exclude_max=True),
    "beta1": floats(0, 1, exclude_max=True),
    "beta2": floats(0, 1, exclude_max=True),
    "epsilon": floats(1e-300, 1e300),
    "weight_decay": floats(0, 1e300),
    "decay_exempt": choice("decay_exempt"),
    "trust_coefficient": floats(0, 1e300, exclude_min=True),
    "trust_epsilon": floats(0, 1e300),
    "trust_exempt": choice("trust_exempt"),
    "rmsprop_lr": floats(0, 1e300, exclude_min=True),
    "blend_centre": durations(positive=False),
    "blend_period": durations(positive=False),
    "clip_norm": st.none() | floats(0, 1e300, exclude_min=True),
    "label_smoothing": floats(0, 1, exclude_max=True),
    "base_lr": floats(1e-200, 1e200),
    "scaling": choice("scaling"),
    "reference_batch": st.none() | st.integers(1, 10**9),
    "adascale_smoothing": st.none() | floats(0, 1, exclude_max=True),
    "warmup": durations(positive=False),
    "warmup_shape": choice("warmup_shape"),
    "warmup_power": floats(0, 1e300, exclude_min=True),
    "warmup_start": st.sampled_from(["base", "zero"]) | floats(0, 1e300),
    "warmup_first": choice("warmup_first"),
    "warmup_overshoot": st.booleans(),
    "lr_decay": choice("lr_decay"),
    "decay_at": st.lists(durations(positive=False), max_size=4),
    "decay_factor": st.lists(floats(0, 1, exclude_min=True), min_size=1, max_size=4),
    "decay_power": floats(0, 1e300, exclude_min=True),
    "decay_end": st.none() | durations(positive=True),
    "final_lr": floats(0, 1e300),
    "batchnorm": st.sampled_from(["local", "sync", "group:1"]),
    "batchnorm_momentum": floats(0, 1, exclude_min=True),
    "batchnorm_running": choice("batchnorm_running"),
    "batchnorm_recompute": choice("batchnorm_recompute"),
    "batchnorm_images": st.integers(1, 10**9),
    "workers_per_forward": st.integers(1, 10**9),
    "worker_norms": st.booleans(),
    "images_per_forward": st.none() | st.integers(1, 10**9),
    "precision": choice("precision"),
    "tf32": st.booleans(),
    "memory_format": choice("memory_format"),
    "compile": choice("compile"),
    "mode": choice("mode"),
    "compression": choice("compression"),
    "stack": st.integers(1, 1024),
    "evaluate_every": durations(positive=True),
    "images_per_evaluation": st.integers(1, 10**9),
    "val_images": st.none() | st.integers(1, 10**9),
    "evaluation": choice("evaluation"),
    "threads": st.integers(1, 1024),
}


@st.composite
def random_recipes(draw: st.DrawFn) -> Recipe:
    """A recipe with any values that fit together."""
    values = draw(st.fixed_dictionaries({}, optional=STRATEGIES))
    if values.get("scaling") in ("linear", "sqrt", "legw"):
        values["reference_batch"] = values.get("reference_batch") or 256
    elif values.get("scaling") != "none":
        values.pop("reference_batch", None)
    if values.get("lr_decay") == "exponential":
        values["final_lr"] = values.get("final_lr") or 1e-4
    needs_a_start = values.get("warmup_shape") == "exponential" or values.get("optimizer") == "rmsprop-sgd"
    if needs_a_start and values.get("warmup_start") in ("zero", 0.0):
        del values["warmup_start"]
    if len(values.get("decay_factor", [0.1])) != len(values.get("decay_at", "123")):
        values["decay_factor"] = values.get("decay_factor", [0.1])[:1]
    if values.get("scaling") == "adascale" or values.get("worker_norms"):
        values["mode"] = "reproducible"
        values.pop("batchnorm", None)
        if ":" in values.get("model", ""):
            values.pop("workers_per_forward", None)
    if values.get("batchnorm") == "sync":
        values["mode"] = "reproducible"
    if values.get("mode") != "fast":
        values.pop("compression", None)
    if values.get("images_per_forward") is not None:
        values["workers_per_forward"], values["batchnorm"] = 1, "local"
    has_norms = values.get("scaling") == "adascale" or values.get("worker_norms")
    if values.get("compile", "none") != "none" and has_norms:
        values["workers_per_forward"] = 1
    if values.get("compile") == "max-autotune" and values.get("mode") != "fast":
        values["compile"] = "default"
    return Recipe(**values)


def test_the_rate_that_rmsprop_divides_by_is_not_zero():
    with pytest.raises(UsageError, match="must not be 0"):
        Recipe(optimizer="rmsprop-sgd", warmup_start="zero", warmup_first="closed")
    Recipe(optimizer="rmsprop-sgd", warmup_start="zero", warmup_first="open")


def test_every_field_is_drawn():
    assert set(STRATEGIES) == set(Recipe.model_fields)


@given(random_recipes())
def test_toml_says_all_of_a_recipe(recipe):
    again = build(Recipe, SettingsFile.parse(recipes.to_toml(recipe), "text").values, what="recipe", typed=True)
    assert again == recipe
    assert again.fingerprint == recipe.fingerprint


def as_option(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@given(random_recipes())
def test_options_say_all_of_a_recipe(recipe):
    """Every field by its name on the command line gives the recipe that TOML gives."""
    options = {name: as_option(value) for name, value in recipe.values().items()}
    again = recipes.changed(Recipe(), options)
    assert again == recipe
    assert again.fingerprint == recipe.fingerprint


@given(random_recipes(), random_recipes())
def test_fingerprints_are_equal_exactly_when_recipes_are(one, other):
    assert (one == other) == (one.fingerprint == other.fingerprint) == (not differences(one, other))
    assert one.model_copy().fingerprint == one.fingerprint


@given(random_recipes())
def test_a_recipe_has_a_peak_and_an_epoch(recipe):
    assert 0 < recipe.peak_lr < math.inf
    assert EpochShape(recipe.grid.global_batch, recipe.grid, recipe.tail).steps == 1
