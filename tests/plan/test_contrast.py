"""Differences in words, with the numbers that they come to."""

import pytest

from widestep.plan import recipes
from widestep.plan.contrast import contrast
from widestep.plan.recipe import Recipe

NUM_IMAGENET = (1_281_167, 1_281_167)


def between(changes, base="poster", num_train=NUM_IMAGENET):
    """The contrast of a recipe with some fields changed."""
    recipe = recipes.load(base).recipe
    return contrast(recipe, recipes.changed(recipe, changes), num_train)


def test_equal_recipes_differ_in_nothing():
    for name in recipes.names():
        recipe = recipes.load(name).recipe
        assert contrast(recipe, recipe) == []


@pytest.mark.parametrize("num_train", [None, NUM_IMAGENET])
def test_an_arm_that_changes_nothing(num_train):
    """The poster's claim e: in the program as it ran, leaving out the scaling left every rate as it was."""
    sentence = "scaling: per-worker against none-as-run: both peak at 3 (240 workers): no step's rate differs."
    assert between({"scaling": "none-as-run"}, num_train=num_train) == [sentence]


def test_an_arm_without_scaling_differs_at_every_step():  # L7
    assert between({"scaling": "none"}) == [
        "scaling: per-worker against none: peak rates 3 against 0.0125.",
        "rate: 3,690 of 3,690 steps differ, first step 0 with 0.0270732 against 0.0125; highest 3 against 0.0125, "
        "at the end 0.003 against 1.25e-05.",
    ]


def test_the_poster_and_the_poster_as_run():
    poster, as_run = (recipes.load(name).recipe for name in ("poster", "poster-as-run:none"))
    found = contrast(poster, as_run, NUM_IMAGENET)
    assert [line.partition(":")[0] for line in found] == [
        *("tail", "scaling", "warmup_overshoot", "batchnorm_running", "batchnorm_recompute", "evaluation", "rate"),
    ]
    assert found[0] == (  # D2: 41 x 30,720 = 1,259,520 of 1,281,167; 5,339 x 240 = 1,281,360
        "tail: drop against pad: drop loses 21,647 images an epoch, pad repeats 193, steps an epoch 41 against 42."
    )
    assert found[1].endswith("both peak at 3 (240 workers): this changes no step's rate.")
    assert found[2] == "warmup_overshoot: false against true: without effect, since the warmup ends where an epoch ends."
    assert found[-1] == "rate: steps 3,690 against 3,780, highest 3 in both, at the end 0.003 in both."


CASES = {
    "seed=1": "0 against 1: other initial weights, order and augmentation; results differ by chance alone.",
    "momentum=0.8": "0.9 against 0.8: share of the velocity kept at each step; of all optimizers but adamw and lamb.",
    "beta1=0.8": "0.9 against 0.8: without effect, since sgd averages gradients with momentum.",
    "clip_norm=1": (
        "none against 1: largest norm of the averaged gradient, before weight decay; longer ones are scaled to it."
    ),
    "zero_gamma=true": (
        "false against true: start the last batch-norm scale of each residual block at zero (Goyal et al. 2017, section "
        "5.1)."
    ),
    "grid=240x1x128": (
        "40x6x128 against 240x1x128: the same 240 workers of 128 images on other nodes, which changes no step."
    ),
    "optimizer=nesterov": (
        "sgd against nesterov: v = 0.9 v + d; w -= rate v, with d = g + 5e-05 w against v = 0.9 v + d; w -= rate (d + 0.9 "
        "v), with d = g + 5e-05 w."
    ),
    "decay_exempt=batchnorm": (
        "none against batchnorm: weight decay on every parameter against all but the scales and shifts of batch "
        "normalisation."
    ),
    "batchnorm=group:2": "local against group:2: images of batch normalisation 128 against 256.",
    "batchnorm_running=last": (
        "mean against last: the same trained weights; evaluation uses the mean of the workers' running statistics against "
        "the statistics of the last step."
    ),
    "batchnorm_recompute=never": (
        "auto against never: the same trained weights; only with auto the first evaluations compute statistics anew."
    ),
    "evaluation=batch-means": ("exact against batch-means: the same trained weights, another way to count their accuracy."),
    "evaluate_every=2ep": "1ep against 2ep: the same weights at the end, another choice of the best.",
    "threads=2": "1 against 2: the same up to rounding, not to the byte.",
    "warmup=6ep": "5ep against 6ep: steps 205 against 246.",
    "warmup=205st": "5ep against 205st: steps 205 in both: no step's rate differs.",
    "epochs=3690st": "90ep against 3690st: steps 3,690 in both.",
    "epochs=45ep": "90ep against 45ep: steps 3,690 against 1,845.",
    "tail=short": (
        "drop against short: drop loses 21,647 images an epoch, short takes 21,647 in a smaller last step, steps an epoch "
        "41 against 42."
    ),
    "grid=20x6x256": (
        "40x6x128 against 20x6x256: images a step 30,720 in both, workers 240 against 120, images of batch normalisation "
        "128 against 256, steps an epoch 41 in both."
    ),
    "grid=20x6x128": (
        "40x6x128 against 20x6x128: images a step 30,720 against 15,360, workers 240 against 120, steps an epoch 41 "
        "against 83."
    ),
}


@pytest.mark.parametrize("change", CASES)
def test_by_hand(change):
    name, value = change.split("=")
    lines = between({name: value})
    assert [line for line in lines if not line.startswith("rate: ")] == [f"{name}: {CASES[change]}"]


def test_rates_that_meet_again():
    """Warmup 5 against 6 epochs: steps 0 to 244 differ, and the rest is the same."""
    line = between({"warmup": "6ep"})[-1]
    first = [0.0125 + (3 - 0.0125) / length for length in (205, 246)]
    assert line == (
        f"rate: 245 of 3,690 steps differ, first step 0 with {first[0]:.6g} against {first[1]:.6g}; highest 3 in both, "
        "at the end 0.003 in both."
    )


def test_without_the_number_of_images():
    assert between({"epochs": "45ep"}, num_train=None) == [
        "epochs: 90ep against 45ep: length of training.",
        "rate: both peak at 3 (240 workers), the rest depends on the number of training images.",
    ]
    assert between({"tail": "pad"}, num_train=None)[0] == (
        "tail: drop against pad: drop loses the rest of an epoch, pad repeats images."
    )
    assert between({"warmup": "6ep"}, num_train=None)[0] == "warmup: 5ep against 6ep: length of the gradual warmup."
    for changes in ({"momentum": "0.8"}, {"grid": "240x1x128"}, {"warmup_power": "3"}):
        assert between(changes, num_train=None) == between(changes)
        assert len(between(changes)) == 1


def test_another_way_to_the_same_peak():
    """0.0125 a worker is 3 for 30,720 images: as a rule by images at this grid it starts elsewhere, without a warmup not."""
    by_images = {"scaling": "linear", "base_lr": "3", "reference_batch": "30720"}
    assert between(by_images)[-1].startswith("rate: 204 of 3,690 steps differ, first step 0 with")
    flat = recipes.changed(recipes.load("poster").recipe, {"warmup": "0", "warmup_start": "zero"})
    found = contrast(flat, recipes.changed(flat, by_images), NUM_IMAGENET)
    assert found[1] == "scaling: per-worker against linear: both peak at 3 (240 workers): no step's rate differs."
    assert [line.partition(":")[0] for line in found] == ["base_lr", "scaling", "reference_batch"]


def test_a_field_without_effect_in_one_of_them():
    found = between({"optimizer": "adamw", "momentum": "0.8"})
    (line,) = [line for line in found if line.startswith("momentum: ")]
    assert line.endswith("but adamw and lamb; without effect in the second, since adamw averages gradients with beta1.")


def test_adascale_is_not_foreseen():
    assert between({"scaling": "adascale"})[-1] == (
        "rate: adascale multiplies the rate of a step by a gain that is known only while training."
    )
    recipe = Recipe(scaling="adascale")
    assert contrast(recipe, recipes.changed(recipe, {"momentum": "0.8"}), (960, 960)) == [
        "momentum: 0.9 against 0.8: share of the velocity kept at each step; of all optimizers but adamw and lamb."
    ]


LONG = ("algoperf-momentum", "bag-of-tricks", "torchvision-v1")  # hundreds of thousands of steps


@pytest.mark.parametrize("name", recipes.names())
def test_any_two_can_be_compared(name):
    a, b = recipes.load("poster").recipe, recipes.load(name).recipe
    for num_train in (None, (NUM_IMAGENET[0], b.train_images or NUM_IMAGENET[1])):
        if num_train is None or name not in LONG:
            found = contrast(a, b, num_train)
            assert len({line.partition(":")[0] for line in found}) == len(found)
            assert all(line.endswith(".") and not line.endswith("..") for line in found)


def test_every_field_can_be_told():
    """Whatever differs: other switches and names, as the command line would give them."""
    others = {"data": "imagenet", "train_images": "960", "augment": "shift-flip", "model": "resnet18", "mode": "fast"}
    switches = {name: "true" for name, field in Recipe.model_fields.items() if field.annotation is bool}
    for name, value in {**others, **switches}.items():
        (line,) = contrast(Recipe(), recipes.changed(Recipe(), {name: value}))
        assert line.startswith(f"{name}: ")
