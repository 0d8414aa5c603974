"""Exact evaluation: every validation image counts once, as integers, for any number of processes (statement D5)."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.source import ImageSource
from widestep.models.global_draws import global_generator
from widestep.models.stacked import StackedModel
from widestep.plan.recipe import Recipe
from widestep.workers.world import World


@dataclass(frozen=True)
class Evaluation:
    """How many of the validation images a model gets right, and its mean loss (cross entropy, no label smoothing).

    Parameters
    ----------
    accuracy
        In [0, 1]: correct / images, unless the recipe asks for the mean of the batches' means.
    """

    correct: int
    images: int
    loss: float
    accuracy: float

    @property
    def finite_loss(self) -> float | None:
        """The loss, or None when it is not a finite number."""
        return self.loss if math.isfinite(self.loss) else None


def evaluate(
    model: StackedModel,
    source: ImageSource,
    val_ids: Sequence[NDArray[np.int64]],
    recipe: Recipe,
    world: World,
    device: torch.device,
) -> list[Evaluation]:
    """Evaluate all T slots of a model, each on its own validation images.

    Parameters
    ----------
    val_ids
        One array of image ids a slot, all of one length. They are cut into forward passes of `images_per_evaluation` images,
        whose shapes therefore do not depend on the number of processes; the passes are dealt to the processes in turn.

    Returns
    -------
    One evaluation a slot, the same on every process.
    """
    ids = np.stack(val_ids, axis=1)
    right = torch.zeros(ids.shape, dtype=torch.float64)
    loss = torch.zeros_like(right)
    model.eval()
    with torch.inference_mode():
        starts = range(0, len(ids), recipe.images_per_evaluation)
        for start in starts[world.process :: world.num_processes]:
            part = slice(start, start + recipe.images_per_evaluation)
            with global_generator(start, device) if model.draws_globally else nullcontext():
                logits, labels = _classified(model, source, ids[part], recipe, device)
            right[part] = (logits.argmax(2) == labels).double().cpu()
            flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            loss[part] = flat.view(labels.shape).double().cpu()
    model.train()
    right, loss = world.merged(right), world.merged(loss)
    return [_evaluation(right[:, slot], loss[:, slot], recipe) for slot in range(model.num_slots)]


def _classified(
    model: StackedModel, source: ImageSource, ids: NDArray[np.int64], recipe: Recipe, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return logits (N, T, num_classes) in float32 and labels (N, T) of images given by their ids (N, T)."""
    flat = source.evaluation_images(ids.ravel())
    images = flat.view(len(ids), -1, *flat.shape[2:]).to(device)
    with torch.autocast(device.type, torch.bfloat16) if recipe.precision == "bf16" else nullcontext():
        logits = model(images)
    return logits.float(), source.labels[torch.from_numpy(ids)].to(device)


def _evaluation(right: Tensor, loss: Tensor, recipe: Recipe) -> Evaluation:
    correct, images = int(right.sum()), len(right)
    if recipe.evaluation == "exact":
        return Evaluation(correct, images, math.fsum(loss.tolist()) / images, correct / images)
    num_workers, each = recipe.grid.num_workers, recipe.images_per_evaluation
    return Evaluation(correct, images, _mean_of_batches(loss, num_workers, each), _mean_of_batches(right, num_workers, each))


def _mean_of_batches(values: Tensor, num_workers: int, images_per_forward: int) -> float:
    """Return the mean over workers of the mean of their batches' means, as the public Horovod example reports it.

    The first images are repeated until all workers have equally many, worker w takes images w, w + W, ..., and its last
    batch may be smaller, but counts as much as the others.
    """
    each = -(-len(values) // num_workers)
    repeated = np.resize(values.numpy(), each * num_workers).reshape(each, num_workers)
    batches = [repeated[start : start + images_per_forward].mean(0) for start in range(0, each, images_per_forward)]
    return math.fsum(batch.mean() for batch in batches) / len(batches)
