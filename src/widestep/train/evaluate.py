"""Exact evaluation: every validation image counts once, as integers, for any number of processes (statement D5)."""

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from widestep.data.loading import Images, to_device
from widestep.data.source import ImageSource
from widestep.errors import DataError
from widestep.models.global_draws import global_generator
from widestep.models.stacked import StackedModel
from widestep.plan.recipe import Recipe
from widestep.workers.world import World

_LEFT_OUT = -1.0


@dataclass(frozen=True)
class Evaluation:
    """How many of the validation images a model gets right, and its mean loss (cross entropy, no label smoothing).

    Parameters
    ----------
    accuracy
        In [0, 1]: correct / images, unless the recipe asks for the mean of the batches' means.
    left_out
        Ids of damaged images, which are not among `images` (where the recipe says bad_images = skip).
    """

    correct: int
    images: int
    loss: float
    accuracy: float
    left_out: tuple[int, ...] = ()

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

    Raises
    ------
    DataError
        When an image is damaged; where such are skipped, when all are.
    """
    ids = np.stack(val_ids, axis=1)
    starts = range(0, len(ids), recipe.images_per_evaluation)[world.process :: world.num_processes]
    parts = [slice(start, start + recipe.images_per_evaluation) for start in starts]
    right, loss = torch.zeros(2, *ids.shape, dtype=torch.float64)
    model.train(mode=False)
    with torch.inference_mode():
        found, left_out = [], []
        for part, images, replaced in _one_ahead(parts, lambda part: source.evaluation_images(ids[part].ravel())):
            world.pulse.beat("evaluating")
            with global_generator(part.start, device) if model.draws_globally else nullcontext():
                logits = _logits(model, images, len(ids[part]), recipe, device)
            labels = to_device(source.labels[torch.from_numpy(ids[part])], device)
            flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            found.append(torch.stack([logits.argmax(2) == labels, flat.view(labels.shape)]))
            left_out += [(part.start + place // ids.shape[1], place % ids.shape[1]) for place in replaced]
        for part, (are_right, losses) in zip(parts, found, strict=True):  # only now wait for the device
            right[part], loss[part] = are_right.cpu(), losses.cpu()
    model.train()
    for place in left_out:
        right[place], loss[place] = _LEFT_OUT, 0.0
    right, loss = world.merged(right), world.merged(loss)
    return [_evaluation(ids[:, slot], right[:, slot], loss[:, slot], recipe) for slot in range(model.num_slots)]


def _one_ahead(
    parts: Sequence[slice], asked_for: Callable[[slice], Images]
) -> Iterator[tuple[slice, Tensor, dict[int, int]]]:
    """Yield parts with their images and those that are not there, while the next part is loading."""
    following = [asked_for(part) for part in parts[:1]]
    for number, part in enumerate(parts):
        images = following.pop()
        following = [asked_for(part) for part in parts[number + 1 : number + 2]]
        yield part, images.result(), images.replaced()


def _logits(model: StackedModel, flat: Tensor, num_images: int, recipe: Recipe, device: torch.device) -> Tensor:
    """Return logits (N, T, num_classes) in float32 of images given one after the other, shape (N*T, C, H, W)."""
    images = flat if len(flat) == num_images else flat.view(num_images, -1, *flat.shape[2:])
    with torch.autocast(device.type, torch.bfloat16) if recipe.precision == "bf16" else nullcontext():
        logits: Tensor = model(images)
    return logits.float()


def _evaluation(ids: NDArray[np.int64], right: Tensor, loss: Tensor, recipe: Recipe) -> Evaluation:
    """Sum up what was found of N images; `right` is 1, 0, or _LEFT_OUT."""
    there = right != _LEFT_OUT
    left_out = tuple(ids[~there.numpy()].tolist())
    right, loss = right[there], loss[there]
    correct, images = int(right.sum()), len(right)
    if not images:
        raise DataError(
            f"At least one validation image must decode. None of the {len(ids):,} does: restore the data set; "
            f"`widestep data check {shlex.quote(recipe.data)}` lists what is wrong with each."
        )
    if recipe.evaluation == "exact":
        return Evaluation(correct, images, math.fsum(loss.tolist()) / images, correct / images, left_out)
    num_workers, each = recipe.grid.num_workers, recipe.images_per_evaluation
    means = _mean_of_batches(loss, num_workers, each), _mean_of_batches(right, num_workers, each)
    return Evaluation(correct, images, *means, left_out)


def _mean_of_batches(values: Tensor, num_workers: int, images_per_forward: int) -> float:
    """Return the mean over workers of the mean of their batches' means, as the public Horovod example reports it.

    The first images are repeated until all workers have equally many, worker w takes images w, w + W, ..., and its last
    batch may be smaller, but counts as much as the others.
    """
    each = -(-len(values) // num_workers)
    repeated = np.resize(values.numpy(), each * num_workers).reshape(each, num_workers)
    batches = [repeated[start : start + images_per_forward].mean(0) for start in range(0, each, images_per_forward)]
    return math.fsum(batch.mean() for batch in batches) / len(batches)
