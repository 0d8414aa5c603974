"""Exact evaluation: every validation image counts once, as integers, for any number of processes (statement D5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from widestep.data.source import ImageSource
from widestep.models.stacked import StackedModel
from widestep.workers.world import World


@dataclass(frozen=True)
class Evaluation:
    """How many of the validation images a model gets right, and its mean loss (cross entropy, no label smoothing)."""

    correct: int
    images: int
    loss: float

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, in [0, 1]."""
        return self.correct / self.images

    @property
    def finite_loss(self) -> float | None:
        """The loss, or None when it is not a finite number."""
        return self.loss if math.isfinite(self.loss) else None


def evaluate(
    model: StackedModel,
    source: ImageSource,
    val_ids: Sequence[NDArray[np.int64]],
    images_per_forward: int,
    world: World,
    device: torch.device,
) -> list[Evaluation]:
    """Evaluate all T slots of a model, each on its own validation images.

    Parameters
    ----------
    val_ids
        One array of image ids a slot, all of one length. They are cut into forward passes of `images_per_forward` images,
        whose shapes therefore do not depend on the number of processes; the passes are dealt to the processes in turn.

    Returns
    -------
    One evaluation a slot, the same on every process.
    """
    ids = np.stack(val_ids, axis=1)
    starts = range(0, len(ids), images_per_forward)
    correct = torch.zeros(len(starts), model.num_slots, dtype=torch.float64)
    loss = torch.zeros_like(correct)
    model.eval()
    with torch.inference_mode():
        for number in range(world.process, len(starts), world.num_processes):
            part = ids[starts[number] : starts[number] + images_per_forward]
            flat = source.evaluation_images(part.ravel())
            images = flat.view(len(part), -1, *flat.shape[2:]).to(device)
            labels = source.labels[torch.from_numpy(part)].to(device)
            logits = model(images)
            losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
            correct[number] = (logits.argmax(2) == labels).sum(0)
            loss[number] = losses.double().sum(0)
    model.train()
    correct, loss = world.merged(correct), world.merged(loss)
    return [
        Evaluation(int(correct[:, slot].sum()), len(ids), math.fsum(loss[:, slot].tolist()) / len(ids))
        for slot in range(model.num_slots)
    ]
