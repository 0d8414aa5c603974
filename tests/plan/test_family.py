"""Warnings: values outside the family of known recipes draw one each, shipped recipes none."""

import pytest

from widestep.plan import recipes
from widestep.plan.family import PEAKS, RANGES, warnings
from widestep.plan.recipe import Recipe

NUM_IMAGENET = 1_281_167
SHIPPED = [
    address for name in recipes.names() for address in (name, *(f"{name}:{item}" for item in recipes.load(name).variants))
]
ODD = {"goyal2017:65536": ["base_lr"]}  # a rate of 25.6, with which the paper lost ten points


def fields(found):
    return [sentence.partition(":")[0] for sentence in found]


@pytest.mark.parametrize("num_train", [None, 0], ids=["without", "with"])
@pytest.mark.parametrize("address", SHIPPED)
def test_a_shipped_recipe_draws_none(address, num_train):
    recipe = recipes.load(address).recipe
    known = None if num_train is None else recipe.train_images or NUM_IMAGENET
    assert fields(warnings(recipe, known)) == ODD.get(address, [])


@pytest.mark.parametrize("name", ["poster-digits"])
def test_the_embedded_study_draws_none(name):
    from widestep.study.study import parse, source_text

    study = parse(source_text(name))
    for arm in study.arms:
        for cell in study.cells(arm):
            assert warnings(cell.recipe, 960) == []


POSTER = {"data": "imagenet", "grid": "40x6x128", "epochs": "90ep", "base_lr": "0.0125", "warmup": "5ep"}
LAMB = {"optimizer": "lamb", "weight_decay": "0.1", "reference_batch": "512"}
FEW = {"grid": "240x16x4", "base_lr": "0.002"}
LARS = {"optimizer": "lars-tf", "scaling": "none", "base_lr": "29", "warmup": "10ep"}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, []),
        ({"momentum": "0.5"}, ["momentum"]),
        ({"momentum": "0"}, ["momentum"]),
        ({"momentum": "0.995"}, ["momentum"]),
        ({"weight_decay": "0"}, []),
        ({"weight_decay": "0.01"}, ["weight_decay"]),
        ({"weight_decay": "1e-6"}, ["weight_decay"]),
        ({"label_smoothing": "0.5"}, ["label_smoothing"]),
        ({"dropout": "0.6"}, ["dropout"]),
        ({"batchnorm_momentum": "0.9"}, ["batchnorm_momentum"]),
        ({"momentum": "0.5", "label_smoothing": "0.5"}, ["momentum", "label_smoothing"]),
        ({"scaling": "none"}, ["base_lr"]),
        ({"base_lr": "0.5"}, ["base_lr"]),  # 120 at 240 workers
        ({"scaling": "linear", "reference_batch": "256", "base_lr": "0.1"}, []),  # 12
        ({"scaling": "linear", "reference_batch": "256", "base_lr": "0.2"}, ["base_lr"]),  # 24
        ({"grid": "1x1x128", "scaling": "none", "base_lr": "2"}, ["base_lr"]),  # 4 for 256 images
        ({"warmup": "0"}, ["warmup"]),
        ({"warmup": "0", "grid": "10x6x128"}, []),
        ({"warmup": "0", "scaling": "adascale", "grid": "10x6x128"}, []),
        ({"warmup": "90ep"}, ["warmup"]),
        ({"warmup": "37ep"}, ["warmup"]),
        ({"warmup": "35ep"}, []),
        ({"warmup": "9000st"}, []),  # nothing to compare with
        (FEW, ["batchnorm"]),
        ({**FEW, "batchnorm": "group:4"}, []),
        ({"batchnorm": "sync"}, ["batchnorm"]),
        ({"lr_decay": "cosine", "final_lr": "4"}, ["final_lr"]),
        ({"final_lr": "4"}, []),
        ({"scaling": "adascale"}, []),
        ({"scaling": "adascale", "base_lr": "3"}, ["base_lr"]),
        (LARS, []),
        ({**LARS, "base_lr": "0.1"}, ["base_lr"]),
        ({**LARS, "base_lr": "60"}, ["base_lr"]),
        ({**LARS, "trust_coefficient": "1"}, ["trust_coefficient"]),
        ({**LARS, "trust_epsilon": "1"}, ["trust_epsilon"]),
        ({**LARS, "epsilon": "1"}, []),
        ({"optimizer": "lamb", "scaling": "none", "weight_decay": "0.01"}, []),
        ({"optimizer": "lamb", "scaling": "none", "weight_decay": "0.01", "epsilon": "1"}, ["epsilon"]),
        ({"optimizer": "lamb", "scaling": "none", "weight_decay": "0.01", "beta1": "0.5"}, ["beta1"]),
        ({"optimizer": "lamb", "scaling": "none", "weight_decay": "0.01", "beta2": "0.5"}, ["beta2"]),
        ({"optimizer": "lamb", "scaling": "none", "weight_decay": "0.01", "warmup": "0"}, []),
        ({"optimizer": "adamw", "scaling": "none", "weight_decay": "0.1", "base_lr": "1e-3", "momentum": "0"}, []),
        ({"optimizer": "adamw", "scaling": "none", "base_lr": "1e-3"}, ["weight_decay"]),
        ({"optimizer": "adamw", "weight_decay": "0.1", "base_lr": "1e-5"}, ["scaling"]),
        ({"optimizer": "adamw", "weight_decay": "0.1", "base_lr": "1e-5", "grid": "1x1x128"}, []),
        ({"optimizer": "adamw", "weight_decay": "0.1", "base_lr": "1e-3", "scaling": "adascale"}, ["scaling"]),
        ({**LAMB, "base_lr": "2e-5", "scaling": "linear"}, ["scaling"]),
        ({**LAMB, "base_lr": "2e-3", "scaling": "sqrt"}, []),
        ({"worker_ramp": "30ep:2400"}, ["base_lr"]),  # 30 with ten times the workers
    ],
)  # fmt: skip
def test_by_hand(settings, found):
    assert fields(warnings(recipes.changed(Recipe(), {**POSTER, **settings}))) == found


def test_digits_may_have_other_rates_and_groups():
    assert warnings(Recipe(grid="10x1x2", base_lr=0.3, scaling="per-worker")) == []
    assert warnings(recipes.changed(Recipe(), {"scaling": "adascale", "base_lr": "0.05"})) == []
    assert fields(warnings(recipes.changed(Recipe(), {"scaling": "adascale", "base_lr": "2"}))) == ["base_lr"]


def test_lengths_in_different_units_are_compared_when_the_images_are_known():
    recipe = recipes.changed(Recipe(), {**POSTER, "warmup": "1500st"})  # 1,500 of 3,690 steps
    assert warnings(recipe) == []
    assert warnings(recipe, NUM_IMAGENET) == [
        "warmup: 1500st is 41 % of the training of 90ep; up to 35 % is usual (MLPerf)."
    ]
    never = warnings(recipes.changed(recipe, {"warmup": "3691st"}), NUM_IMAGENET)
    assert never == ["warmup: 3691st is longer than the training of 90ep: the peak rate is never reached."]


def test_a_legw_warmup_is_as_long_as_it_gets():
    recipe = recipes.load("legw-lars:32768").recipe
    assert fields(warnings(recipes.changed(recipe, {"warmup": "1ep"}))) == ["warmup"]  # 64 of 90 epochs


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"momentum": "0.5"},
            "momentum: 0.5 is outside the usual 0.8 to 0.99 of sgd (0.875 to 0.98 in the shipped recipes).",
        ),
        (
            {**LARS, "base_lr": "0.1"},
            "base_lr: the peak rate 0.1 is outside the usual 0.5 to 40 of lars-tf (3 at 408 images, MLPerf, to 32 at "
            "32,768, LEGW). Rates that small are used with sgd.",
        ),
        (
            {"base_lr": "0.1", "grid": "400x6x64"},
            "base_lr: the peak rate 240 is outside the usual 0.01 to 15 of sgd (0.1 at 256 images to 12.8 at 32,768: "
            "Goyal et al. 2017). Rates that large are used with LARS.",
        ),
        (
            {"optimizer": "adamw", "weight_decay": "0.1", "base_lr": "1e-5"},
            "scaling: per-worker multiplies the rate of adamw by 240; with adaptive optimizers sqrt is usual "
            "(You et al. 2020).",
        ),
        (
            FEW,
            "batchnorm: local normalises over 4 images; 8 to 1,024 are usual (32 in Goyal et al. 2017, 40 to 408 in "
            "MLPerf).",
        ),
        (
            {"scaling": "adascale", "base_lr": "3"},
            "base_lr: adascale takes the rate of one worker and multiplies it by up to 240; 3 for 128 images looks like a "
            "rate that is scaled already.",
        ),
    ],
)
def test_a_sentence_names_the_range_and_its_source(settings, sentence):
    assert warnings(recipes.changed(Recipe(), {**POSTER, **settings}))[0] == sentence


def test_every_optimizer_has_one_range_of_rates():
    names = Recipe.model_fields["optimizer"].annotation.__args__
    assert sorted(name for usual in PEAKS for name in usual.optimizers) == sorted(names)
    assert all(usual.low < usual.high and usual.field in Recipe.model_fields for usual in (*PEAKS, *RANGES))
