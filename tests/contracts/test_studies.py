"""What every shipped study keeps to: recipes that are valid on their data, and claims and figures about its arms."""

import pytest

from widestep.data.facts import describe
from widestep.plan import recipes
from widestep.plan.runplan import RunPlan
from widestep.study.study import names, parse, source_text


@pytest.fixture(params=names(), scope="module")
def study(request):
    return parse(source_text(request.param))


def test_there_are_studies():
    assert names() == ["poster", "poster-cifar10", "poster-cifar10-cpu", "poster-digits"]


def test_its_file_bears_its_name(study):
    assert study.name in names()
    assert parse(source_text(study.name)) == study


def test_every_recipe_of_it_is_one(study):
    cells = [cell for arm in study.arms for cell in study.cells(arm)]
    for cell in cells:
        recipe = cell.recipe
        assert recipes.changed(recipe, {}) == recipe
        known = recipes.load(study.recipe).about.get("num_train")  # of data whose files may not be here
        num_train = known or describe(recipe.data, train_images=recipe.train_images).num_train
        plan = RunPlan(recipe, num_train)
        assert plan.total_steps > plan.schedule.warmup_steps
        assert max(plan.schedule.trace(0, plan.schedule.warmup_steps + 1)) == recipe.peak_lr


def test_every_recipe_comes_back_from_toml(study, tmp_path):
    path = tmp_path / "recipe.toml"
    for trial in study.trials()[:: len(study.seeds)]:
        path.write_text(recipes.to_toml(trial.recipe))
        assert recipes.load(str(path)).recipe.fingerprint == trial.fingerprint


def test_claims_and_figures_are_about_its_arms(study):
    assert study.claims
    assert study.figures
    for claim in study.claims.values():
        for arm in claim.arms:
            assert list(study.arms[arm].axes) == [claim.axis]
        assert claim.text.endswith(".")
    assert [figure.number for figure in study.figures] == list(range(1, len(study.figures) + 1))
    assert all(figure.arm in study.arms for figure in study.figures)


def test_no_arm_is_for_nothing(study):
    used = {arm for claim in study.claims.values() for arm in claim.arms} | {figure.arm for figure in study.figures}
    controls = {"scaling-10", "adascale-1200"}  # of scaling-40, and of one setting, which no figure compares
    assert set(study.arms) - used <= controls
    assert all(arm.label for arm in study.arms.values())


def test_a_rank_test_can_reach_its_level(study):
    """With n pairs the smallest two-sided p of Wilcoxon's test is 2 / 2**n, times the claims; up to 5 pairs t is used."""
    assert len(study.seeds) <= 5 or len(study.claims) * 2 / 2 ** len(study.seeds) < 1 - study.level


def test_seeds_fill_the_stacks(study):
    for cell in (cell for arm in study.arms for cell in study.cells(arm)):
        slots = {seed % cell.recipe.stack for seed in study.seeds}
        assert len(slots) == min(cell.recipe.stack, len(study.seeds))
