"""Evaluate a checkpoint exactly as training did."""

from pathlib import Path
from typing import Any

import torch

from widestep.data.source import open_source
from widestep.errors import StoreError
from widestep.models.stacked import StackedModel
from widestep.records.run import Run
from widestep.train import checkpoint
from widestep.train.evaluate import evaluate
from widestep.train.session import evaluated_ids
from widestep.train.setting import fix_arithmetic, model_of
from widestep.train.state import weights_sha256
from widestep.workers.world import World


def assess(run: Run, path: Path, data: str | None = None) -> dict[str, Any]:
    """Evaluate the weights of a run's checkpoint on the CPU.

    Parameters
    ----------
    path
        The checkpoint: `final` or `best` (weights), `last` or `previous` (weights with the optimizer's state).
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
    tensors, facts = checkpoint.read(path)
    if "tally" in facts:
        tensors = {name.removeprefix("weights/"): held for name, held in tensors.items() if name.startswith("weights/")}
    fix_arithmetic(recipe)
    size = None if data and not data.startswith("folder:") else recipe.image_size
    drawn = recipe.train_images if data is None else None
    source = open_source(data or recipe.data, augment="none", image_size=size, train_images=drawn, num_threads=2)
    model = model_of(recipe, source.facts.num_classes, source.facts.image_shape)
    _load(model, recipe.slot, tensors, str(path))
    val_ids = evaluated_ids(source, recipe)
    with World() as world:
        found = evaluate(model, source, [val_ids] * recipe.stack, recipe, world, torch.device("cpu"))[recipe.slot]
    source.close()
    return {
        "val_correct": found.correct,
        "val_images": found.images,
        "val_accuracy": found.accuracy,
        "val_loss": found.finite_loss,
        "weights_sha256": weights_sha256(tensors),
    }


def _load(model: StackedModel, slot: int, tensors: dict[str, torch.Tensor], path: str) -> None:
    held = {**model.slot_parameters(slot), **model.slot_statistics(slot)}
    for name, tensor in held.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise StoreError(
                f"A checkpoint holds every weight of the model. {path} lacks {name} in shape {tuple(tensor.shape)}."
            )
        tensor.copy_(tensors[name])
