"""Evaluate a checkpoint exactly as training did."""

from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from widestep.data.loading import Loading
from widestep.data.source import ImageSource, open_recipe_data, open_source
from widestep.errors import StoreError
from widestep.models.stacked import StackedModel
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.records.run import Run
from widestep.train import checkpoint
from widestep.train.batches import Batches
from widestep.train.evaluate import evaluate
from widestep.train.normalisation import policy_after, show_statistics
from widestep.train.session import check_fit, check_model, evaluated_ids, restore
from widestep.train.setting import build_engine, fix_arithmetic, model_of
from widestep.train.state import TrainState, weights_sha256
from widestep.workers.world import World

_CPU = torch.device("cpu")
_MOST_COPIES = 8
"""Of the weights, that an optimizer keeps in a state, amply."""
_MOST_EXTRA = 1_000_000
"""Values besides, such as batch-norm statistics, amply."""
_LOADING = Loading(_CPU, num_threads=2)


def assess(run: Run, path: Path, data: str | None = None) -> dict[str, Any]:
    """Evaluate the weights of a run's checkpoint on the CPU.

    Parameters
    ----------
    path
        The checkpoint: `final` or `best` (weights), `step-...` (a state; its batch-norm statistics are those that
        training would evaluate with there).
    data
        A data set to evaluate on instead of the recipe's.

    Returns
    -------
    val_correct, val_images, val_accuracy, val_loss, weights_sha256 under their names in result.json.

    Raises
    ------
    StoreError
        When the checkpoint is missing, damaged, or does not fit the model.
    """
    recipe = run.recipe
    if not path.exists():
        raise StoreError(f"A checkpoint to evaluate must exist. {path} does not; the run is {run.status()}.")
    check_model(run)
    fix_arithmetic(recipe)
    source = _evaluation_images(recipe, data)
    try:
        model = model_of(recipe, source.facts.num_classes, source.facts.image_shape)
        tensors, facts = checkpoint.read(path, partial(_check_size, model))
        with World() as world:
            if "tally" in facts:
                _load_state(model, recipe, tensors, facts["tally"], world)
            else:
                _load(model, recipe.slot, tensors, str(path))
            val_ids = [evaluated_ids(source, recipe)] * recipe.stack
            found = evaluate(model, source, val_ids, recipe, world, _CPU)[recipe.slot]
    finally:
        source.close()
    weights = {**model.slot_parameters(recipe.slot), **model.slot_statistics(recipe.slot)}
    return {
        "val_correct": found.correct,
        "val_images": found.images,
        "val_accuracy": found.accuracy,
        "val_loss": found.finite_loss,
        "weights_sha256": weights_sha256(weights),
    }


def _check_size(model: StackedModel, layouts: Mapping[str, checkpoint.Layout]) -> None:
    """Refuse what takes far more memory than a state of the model could."""
    most = _MOST_COPIES * sum(tensor.numel() for tensor in model.slot_parameters(0).values()) + _MOST_EXTRA
    found = sum(prod(layout.shape) for layout in layouts.values())
    if found > most:
        raise StoreError(f"A checkpoint of this model has at most {most:,} values. There are {found:,}.")


def _load(model: StackedModel, slot: int, tensors: dict[str, Tensor], path: str) -> None:
    held = {**model.slot_parameters(slot), **model.slot_statistics(slot)}
    for name, tensor in held.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise StoreError(
                f"A checkpoint holds every weight of the model. {path} lacks {name} in shape {tuple(tensor.shape)}."
            )
        tensor.copy_(tensors[name])


def _load_state(
    model: StackedModel, recipe: Recipe, tensors: dict[str, Tensor], tally: dict[str, Any], world: World
) -> None:
    """Put a run's state into the model, with the statistics of an evaluation at its step."""
    training = open_recipe_data(recipe, _LOADING)
    try:
        plan = RunPlan(recipe, training.facts.num_train)
        state = TrainState(model, recipe.slot, plan)
        check_fit(state, {name: checkpoint.Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
        restore(state, tensors, tally)
        batches = Batches(training, [plan] * recipe.stack, _CPU)
        policy = policy_after(recipe, state.tally.step)
        show_statistics([state], build_engine(model, recipe, world), batches, policy)
    finally:
        training.close()


def _evaluation_images(recipe: Recipe, data: str | None) -> ImageSource:
    """Open the recipe's data, or another data set whose images are treated alike."""
    if data is None:
        return open_recipe_data(recipe, _LOADING)
    if data == "digits":
        return open_source(data, loading=_LOADING)
    size, resize = recipe.image_size, recipe.evaluation_resize
    return open_source(data, image_size=size, evaluation_resize=resize, loading=_LOADING)
