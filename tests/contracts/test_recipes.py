"""What every shipped recipe keeps to: it says where it comes from, it is a recipe, and its data and model exist and fit."""

import tomllib

import pytest

from widestep.data.facts import describe
from widestep.models.build import MODEL_NAMES, build_model
from widestep.optim.build import build_optimizer
from widestep.plan import recipes
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan

NAMES = recipes.names()


@pytest.fixture(params=NAMES)
def named(request):
    return recipes.load(request.param)


def test_there_are_recipes():
    assert NAMES == ["digits", "digits-iter", "poster"]


def test_it_says_what_it_is(named):
    assert list(named.about) == ["summary", "source", "expected", "verified"]
    for text in named.about.values():
        assert len(text) > 10
        assert text == text.strip()
        assert "\n" not in text


def test_it_comes_back_from_toml(named, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipes.to_toml(named.recipe))
    again = recipes.load(str(path)).recipe
    assert again == named.recipe
    assert again.fingerprint == named.recipe.fingerprint
    assert Recipe.model_validate(tomllib.loads(path.read_text()), strict=True) == named.recipe


def test_it_has_a_plan_on_its_data(named):
    recipe = named.recipe
    facts = describe(recipe.data, train_images=recipe.train_images, image_size=recipe.image_size)
    plan = RunPlan(recipe, facts.num_train)
    assert plan.total_steps == plan.recipe.epochs.steps(plan.steps_per_epoch, recipe.grid.global_batch) > 0
    rates = plan.schedule.trace()
    assert len(rates) == plan.total_steps
    assert max(rates) == recipe.peak_lr
    assert min(rates) > 0
    assert plan.schedule.warmup_steps < plan.total_steps / 2


def test_its_model_fits_its_data(named):
    recipe = named.recipe
    assert recipe.model in MODEL_NAMES
    facts = describe(recipe.data, train_images=recipe.train_images, image_size=recipe.image_size)
    model = build_model(recipe.model, num_classes=facts.num_classes, image_shape=facts.image_shape, num_slots=recipe.stack)
    assert build_optimizer(recipe, dict(model.named_parameters()), dict.fromkeys(dict(model.named_parameters()), "weight"))


def test_forward_passes_hold_whole_workers(named):
    """A block of fewer workers at the end would be arithmetic of its own."""
    assert named.recipe.grid.num_workers % min(named.recipe.workers_per_forward, named.recipe.grid.num_workers) == 0
