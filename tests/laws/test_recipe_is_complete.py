"""Promise: a recipe's fingerprint changes with every field, so that equal fingerprints mean equal recipes."""

import pytest

from widestep.plan.recipe import PER_SLOT_FIELDS, Recipe, differences
from widestep.plan.recipes import changed

OTHER = {
    "data": "imagenet",
    "train_images": "100",
    "image_size": "8",
    "evaluation_resize": "256",
    "augment": "shift-flip",
    "bad_images": "skip",
    "model": "resnet50",
    "dropout": "0.1",
    "zero_gamma": "true",
    "classifier_std": "0.01",
    "worker_ramp": "30ep:4",  # as many workers as before, in other words
    "grid": "1x4x8",  # as many workers and images as 4x1x8, in other words
    "epochs": "36.5ep",
    "tail": "short",
    "seed": "1",
    "optimizer": "nesterov",
    "momentum": "0.91",
    "beta1": "0.91",
    "beta2": "0.99",
    "epsilon": "1e-6",
    "weight_decay": "0",
    "decay_exempt": "batchnorm",
    "trust_coefficient": "0.02",
    "trust_epsilon": "1e-9",
    "trust_exempt": "batchnorm",
    "rmsprop_lr": "1e-4",
    "blend_centre": "11ep",
    "blend_period": "4ep",
    "clip_norm": "100",
    "label_smoothing": "0.1",
    "base_lr": "0.0450001",
    "scaling": "none",
    "reference_batch": "256",
    "adascale_smoothing": "0.996",
    "warmup": "61st",
    "warmup_shape": "constant",
    "warmup_power": "3",
    "warmup_start": "zero",
    "warmup_first": "closed",
    "warmup_overshoot": "true",
    "lr_decay": "cosine",
    "decay_at": "12ep,24ep",
    "decay_factor": "0.2",
    "decay_power": "1.5",
    "decay_end": "36ep",
    "final_lr": "1e-6",
    "batchnorm": "sync",
    "batchnorm_momentum": "0.2",
    "batchnorm_running": "worker0",
    "batchnorm_recompute": "never",
    "batchnorm_images": "4096",
    "workers_per_forward": "2",
    "worker_norms": "true",
    "images_per_forward": "8",  # all images of a worker, in other words
    "precision": "bf16",
    "tf32": "true",
    "memory_format": "contiguous",  # what auto is here, in other words
    "compile": "reduce-overhead",
    "mode": "fast",
    "compression": "bf16",
    "stack": "12",
    "evaluate_every": "2ep",
    "images_per_evaluation": "255",
    "val_images": "50000",
    "evaluation": "batch-means",
    "threads": "2",
}
BASE = {"scaling": "linear", "reference_batch": "8"}  # a rule that has every field
NEEDED = {"compression": {"mode": "fast"}}  # what a field needs others to be before it can have its other value


def base_of(name: str) -> Recipe:
    return changed(Recipe(), {**BASE, **NEEDED.get(name, {})})


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_every_field_changes_the_fingerprint(name: str) -> None:
    assert name in OTHER, f"a new field of the recipe needs another value here: {name}"
    base = base_of(name)
    other = changed(base, {name: OTHER[name]})
    assert list(differences(base, other)) == [name]
    assert other.fingerprint != base.fingerprint
    assert (other.stack_key == base.stack_key) == (name in PER_SLOT_FIELDS)


def test_equal_recipes_have_equal_fingerprints() -> None:
    assert changed(Recipe(), {"epochs": "36.0", "base_lr": "4.5e-2"}).fingerprint == Recipe().fingerprint


def test_all_fingerprints_differ() -> None:
    assert len({changed(base_of(name), {name: value}).fingerprint for name, value in OTHER.items()}) == len(OTHER)
