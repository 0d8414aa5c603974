"""Promise: a recipe's fingerprint changes with every field, so that equal fingerprints mean equal recipes."""

import pytest

from widestep.plan.recipe import PER_SLOT_FIELDS, Recipe, differences
from widestep.plan.recipes import changed

OTHER = {
    "data": "imagenet",
    "train_images": "100",
    "image_size": "8",
    "augment": "shift-flip",
    "model": "resnet50",
    "dropout": "0.1",
    "zero_gamma": "true",
    "grid": "1x4x8",  # as many workers and images as 4x1x8, in other words
    "epochs": "36.5ep",
    "tail": "short",
    "seed": "1",
    "optimizer": "nesterov",
    "momentum": "0.91",
    "weight_decay": "0",
    "decay_exempt": "batchnorm",
    "label_smoothing": "0.1",
    "base_lr": "0.0450001",
    "scaling": "none",
    "reference_batch": "256",
    "warmup": "61st",
    "warmup_shape": "constant",
    "warmup_power": "3",
    "warmup_start": "zero",
    "warmup_first": "closed",
    "lr_decay": "cosine",
    "decay_at": "12ep,24ep",
    "decay_factor": "0.2",
    "decay_power": "1.5",
    "final_lr": "1e-6",
    "batchnorm_momentum": "0.2",
    "batchnorm_running": "worker0",
    "workers_per_forward": "2",
    "stack": "12",
    "evaluate_every": "2ep",
    "images_per_evaluation": "255",
    "threads": "2",
}
BASE = {"scaling": "linear", "reference_batch": "8"}  # a rule that has every field


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_every_field_changes_the_fingerprint(name: str) -> None:
    assert name in OTHER, f"a new field of the recipe needs another value here: {name}"
    base = changed(Recipe(), BASE)
    other = changed(base, {name: OTHER[name]})
    assert list(differences(base, other)) == [name]
    assert other.fingerprint != base.fingerprint
    assert (other.stack_key == base.stack_key) == (name in PER_SLOT_FIELDS)


def test_equal_recipes_have_equal_fingerprints() -> None:
    assert changed(Recipe(), {"epochs": "36.0", "base_lr": "4.5e-2"}).fingerprint == Recipe().fingerprint


def test_all_fingerprints_differ() -> None:
    base = changed(Recipe(), BASE)
    assert len({changed(base, {name: value}).fingerprint for name, value in OTHER.items()}) == len(OTHER)
