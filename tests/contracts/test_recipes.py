"""What every shipped recipe and variant keeps to: it says where it comes from, has a plan, and its data and model exist.

The rates themselves are compared with their sources in tests/plan/test_recipe_rates.py.
"""

import functools
import tomllib

import pytest

from widestep.data.facts import DataFacts, describe
from widestep.models.build import MODEL_NAMES, build_model
from widestep.models.stacked import parameter_roles
from widestep.optim.build import build_optimizer
from widestep.plan import recipes
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan

NAMES = recipes.names()
ADDRESSES = [address for name in NAMES for address in (name, *(f"{name}:{item}" for item in recipes.load(name).variants))]
ABOUT = ("summary", "source", "expected", "verified", "status", "assumed")


@pytest.fixture(params=ADDRESSES)
def named(request):
    return recipes.load(request.param)


CIFAR10 = DataFacts("parquet:cifar10-jpeg", 50_000, 10_000, 10, (3, 32, 32), "its files need not be here")


def facts_of(recipe):
    if recipe.data == CIFAR10.name:
        return CIFAR10
    return describe(recipe.data, train_images=recipe.train_images, image_size=recipe.image_size)


@functools.cache
def model_of(name, num_classes, image_shape):
    return build_model(name, num_classes=num_classes, image_shape=image_shape, num_slots=1)


def test_there_are_recipes():
    assert len(NAMES) == 17
    assert {"digits", "poster", "poster-as-run", "goyal2017", "mlperf-lars", "nado2021-lars"} <= set(NAMES)
    assert len(ADDRESSES) > 50


def test_it_says_what_it_is(named):
    assert list(named.about)[: len(ABOUT)] == list(ABOUT)
    for key in ABOUT[:-1]:
        text = named.about[key]
        assert text == " ".join(text.split())
        assert len(text) > 3
    assert isinstance(named.about["assumed"], list)
    assert len(named.about["summary"]) < 80


def test_it_says_that_nobody_trained_it_on_imagenet(named):
    assert ("Never trained by us on ImageNet." in named.about["verified"]) == (named.recipe.data == "imagenet")


def test_it_comes_back_from_toml(named, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipes.to_toml(named.recipe))
    again = recipes.load(str(path)).recipe
    assert again == named.recipe
    assert again.fingerprint == named.recipe.fingerprint
    assert Recipe.model_validate(tomllib.loads(path.read_text()), strict=True) == named.recipe


def test_it_has_a_plan_on_its_data(named):
    recipe = named.recipe
    plan = RunPlan(recipe, facts_of(recipe).num_train)
    assert plan.total_steps > 0
    assert plan.warmup_steps < plan.total_steps / 2
    steps = {0, plan.warmup_steps, plan.total_steps - 1, *range(1, plan.total_steps, -(-plan.total_steps // 500))}
    rates = {step: plan.lr(step) for step in steps}
    assert max(rates.values()) == plan.lr(plan.warmup_steps) == recipe.peak_lr
    assert all(rate > 0 or (step == 0 and recipe.warmup_first == "closed") for step, rate in rates.items())
    assert rates[plan.total_steps - 1] < recipe.peak_lr / 50


def test_its_model_fits_its_data(named):
    recipe, facts = named.recipe, facts_of(named.recipe)
    assert recipe.model in MODEL_NAMES
    model = model_of(recipe.model, facts.num_classes, facts.image_shape)
    assert build_optimizer(recipe, dict(model.named_parameters()), parameter_roles(model))


def test_forward_passes_hold_whole_workers(named):
    """A block of fewer workers at the end would be arithmetic of its own."""
    num_workers = named.recipe.grid.num_workers
    assert num_workers % min(named.recipe.workers_per_block(num_workers), num_workers) == 0
