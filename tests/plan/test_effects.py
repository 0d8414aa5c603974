"""Fields without effect: what is named changes nothing, and what matters is not named."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.effects import idle, without_effect
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ("", ""),
        ("seed=3 base_lr=0.1 momentum=0.8 warmup=3ep", ""),
        ("optimizer=adamw momentum=0.8 beta1=0.8 beta2=0.99 epsilon=1e-6", "momentum"),
        ("optimizer=lamb momentum=0.8 trust_exempt=none trust_coefficient=0.1", "momentum trust_coefficient"),
        ("optimizer=lamb trust_epsilon=0.1", "trust_epsilon"),
        ("beta1=0.8 beta2=0.99 epsilon=1e-6", "beta1 beta2 epsilon"),
        ("optimizer=rmsprop-sgd beta1=0.8 beta2=0.99 rmsprop_lr=1e-3 blend_period=4ep epsilon=1e-6", "beta1"),
        ("rmsprop_lr=1e-3 blend_centre=3ep blend_period=4ep", "rmsprop_lr blend_centre blend_period"),
        ("trust_coefficient=0.1 trust_epsilon=0.1 trust_exempt=none", "trust_coefficient trust_epsilon trust_exempt"),
        ("optimizer=lars-nus trust_coefficient=0.1 trust_epsilon=0.1 trust_exempt=none momentum=0.8", ""),
        ("weight_decay=0 decay_exempt=batchnorm", "decay_exempt"),
        ("decay_exempt=batchnorm", ""),
        ("optimizer=nesterov momentum=0", "optimizer"),
        ("optimizer=nesterov", ""),
        ("lr_decay=cosine decay_at=3ep decay_factor=0.5 decay_end=30ep final_lr=0.01", "decay_at decay_factor"),
        ("lr_decay=linear decay_power=3", "decay_power"),
        ("lr_decay=polynomial decay_power=3", ""),
        ("decay_power=3 decay_end=30ep final_lr=0.01", "decay_power decay_end final_lr"),
        ("lr_decay=constant final_lr=0.01", "final_lr"),
        ("decay_at=40ep,36ep decay_factor=0.5", "decay_factor"),
        ("decay_at= decay_factor=0.5", "decay_factor"),
        ("decay_at=40ep,35ep decay_factor=0.5", ""),
        ("epochs=9st decay_factor=0.5", ""),
        ("decay_at=3ep decay_factor=1", "decay_at"),
        ("scaling=none reference_batch=32", "reference_batch"),
        ("scaling=adascale reference_batch=8 worker_norms=true adascale_smoothing=0.5", "reference_batch worker_norms"),
        ("adascale_smoothing=0.5 worker_norms=true", "adascale_smoothing"),
        ("scaling=none-as-run", "scaling"),
        ("scaling=none warmup=0", ""),
        ("scaling=none warmup=0 grid=1x1x8", "scaling"),
        ("warmup=0 warmup_shape=constant warmup_start=zero", "warmup_shape warmup_start"),
        ("warmup=0 warmup_power=3 warmup_first=closed warmup_overshoot=true", "warmup_power warmup_first warmup_overshoot"),
        ("warmup_power=3", "warmup_power"),
        ("warmup_shape=polynomial warmup_power=3 warmup_start=zero warmup_first=closed", ""),
        ("warmup_shape=constant warmup_first=closed", "warmup_first"),
        ("warmup_overshoot=true", "warmup_overshoot"),
        ("warmup_overshoot=true warmup=2.5ep", ""),
        ("warmup_overshoot=true warmup=31st", ""),
        ("warmup_overshoot=true scaling=legw reference_batch=24", ""),
        ("scaling=none warmup=5ep warmup_first=closed", "warmup warmup_first"),
        ("scaling=none warmup=5ep warmup_first=closed lr_decay=cosine", "warmup_first"),
        ("scaling=none warmup=5ep warmup_start=zero", ""),
        ("scaling=none warmup=20ep", ""),  # it ends after the first step of the decay, which waits for it
        ("scaling=none warmup=5ep decay_at=1ep", ""),
        ("scaling=none warmup=12ep", "warmup"),
        ("batchnorm_running=precise batchnorm_recompute=never batchnorm_images=64", "batchnorm_recompute"),
        ("batchnorm_recompute=never batchnorm_images=64", "batchnorm_images"),
        ("batchnorm_images=64", ""),
        ("batchnorm_running=last", ""),
        ("batchnorm_running=last batchnorm_images=64", "batchnorm_images"),
        ("batchnorm_running=last batchnorm_recompute=never", "batchnorm_recompute"),
        (
            "batchnorm_running=last batchnorm_recompute=never batchnorm_images=64 batchnorm_momentum=0.5",
            "batchnorm_recompute batchnorm_images",
        ),
        ("batchnorm=group:1", "batchnorm"),
        ("batchnorm=group:2 batchnorm_running=worker0", ""),
        ("batchnorm=sync batchnorm_running=pooled workers_per_forward=3", "batchnorm_running workers_per_forward"),
        ("batchnorm=sync batchnorm_running=pooled workers_per_forward=3 worker_ramp=3ep:8", ""),
        ("grid=1x1x8 batchnorm=sync workers_per_forward=4", "batchnorm workers_per_forward"),
        ("workers_per_forward=2", ""),
        ("images_per_forward=8", "images_per_forward"),
        ("images_per_forward=7", ""),
        ("memory_format=contiguous", "memory_format"),
        ("memory_format=channels_last", ""),
        ("memory_format=channels_last model=resnet18", "memory_format"),
    ],
)
def test_by_hand(settings, found):
    recipe = recipes.changed(Recipe(), dict(setting.split("=") for setting in settings.split()))
    assert set(without_effect(recipe)) == set(found.split())
    assert all(len(reason) > 10 and reason[-1] != "." for reason in without_effect(recipe).values())


SHIPPED = [
    address for name in recipes.names() for address in (name, *(f"{name}:{item}" for item in recipes.load(name).variants))
]


@pytest.mark.parametrize("address", SHIPPED)
def test_shipped_recipes_set_nothing_in_vain(address):
    """But what repeats a program's habits: an arm without scaling, and an overshoot that whole epochs do not show."""
    expected = {"warmup_overshoot"} if address.startswith("poster-as-run") else set()
    if address == "poster-as-run:none":
        expected.add("scaling")
    assert set(without_effect(recipes.load(address).recipe)) == expected


def test_the_reason_names_the_cause():
    assert without_effect(Recipe(optimizer="adamw", momentum=0.5)) == {"momentum": "adamw averages gradients with beta1"}
    assert without_effect(Recipe(scaling="none-as-run")) == {
        "scaling": "the rate is overwritten before every step: all rates are those of per-worker"
    }
    assert idle(Recipe())["beta1"] == "sgd averages gradients with momentum"
    assert "momentum" not in idle(Recipe())


durations = st.sampled_from(["0ep", "1ep", "2ep", "2.5ep", "7st", "100im"])
RATES = {
    "warmup": durations,
    "warmup_shape": st.sampled_from(["linear", "constant", "exponential", "polynomial"]),
    "warmup_power": st.sampled_from([0.5, 2.0, 3.0]),
    "warmup_start": st.sampled_from(["base", "zero", 0.01, 1.0]),
    "warmup_first": st.sampled_from(["open", "closed"]),
    "warmup_overshoot": st.booleans(),
    "lr_decay": st.sampled_from(["step", "cosine", "polynomial", "linear", "exponential", "constant"]),
    "decay_at": st.lists(st.sampled_from(["3ep", "5ep", "6ep", "8ep", "20st"]), max_size=2),
    "decay_factor": st.sampled_from([0.1, 0.5, 1.0]),
    "decay_power": st.sampled_from([1.0, 2.0]),
    "decay_end": st.sampled_from([None, "5ep", "28st"]),
    "final_lr": st.sampled_from([0.001, 0.01]),
    "scaling": st.sampled_from(["none", "per-worker", "sqrt", "none-as-run", "linear", "legw"]),
    "base_lr": st.sampled_from([0.01, 0.1]),
    "grid": st.sampled_from(["1x1x8", "1x4x8"]),
    "epochs": st.sampled_from(["6ep", "4ep", "30st"]),
}


def trace(settings):
    """The recipe and its rate at every step; nothing where there is no such recipe, such as an exponential warmup from 0."""
    rule = settings["scaling"]
    reference = {"reference_batch": 16} if rule in ("sqrt", "linear", "legw") else {}
    try:
        plan = RunPlan(Recipe.model_validate({**settings, **reference}), 200)
    except UsageError:
        return None, []
    return plan.recipe, [plan.lr(step) for step in range(plan.total_steps)]


@given(settings=st.fixed_dictionaries(RATES), other=st.fixed_dictionaries(RATES))
def test_another_value_of_an_idle_field_changes_no_rate(settings, other):
    recipe, rates = trace(settings)
    assume(recipe is not None)
    for field in set(idle(recipe)) & set(settings):
        changed, others = trace({**settings, field: other[field]})
        assert changed is None or others == rates, field


@given(settings=st.fixed_dictionaries(RATES))
def test_a_value_without_effect_is_as_good_as_the_default(settings):
    recipe, rates = trace(settings)
    assume(recipe is not None)
    for field in set(without_effect(recipe)) & set(settings):
        changed, others = trace({**settings, field: Recipe.model_fields[field].default})
        assert changed is None or others == rates, field
