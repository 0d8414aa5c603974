"""What is written down about a step: its metrics, what the optimizer really applied, and digests of every tensor."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from widestep.optim.build import applied
from widestep.train.batches import Batches
from widestep.train.evaluate import Evaluation
from widestep.train.state import TrainState
from widestep.train.step import StepRecord


def metrics_entry(record: StepRecord, seconds: float) -> dict[str, Any]:
    """Return a step's record for metrics.jsonl."""
    found, plan = record.statistics, record.state.plan
    entry: dict[str, Any] = {
        "step": record.step,
        "epoch": plan.position(record.step).epoch,
        "lr": record.applied.lr,
        "loss": found.loss,
        "images": found.num_images,
        "gradient_norm": found.gradient_norm,
        "seconds": round(seconds, 6),
    }
    if found.mean_square_of_workers is not None:
        entry["worker_gradient_norm"] = found.mean_square_of_workers**0.5
    if record.applied.gain is not None:
        entry |= {"gain": record.applied.gain, "progress": record.state.tally.progress}
    return entry


def ledger_entry(record: StepRecord, batches: Batches) -> dict[str, Any]:
    """Return what a step really applied, read back from the optimizer, for ledger.jsonl."""
    recipe, grid = record.state.plan.recipe, record.state.plan.grid_at(record.step)
    num_images, clip = record.statistics.num_images, record.clip
    together, (each, extra) = recipe.batchnorm_group(grid.num_workers), divmod(num_images, grid.num_workers)
    return {
        "step": record.step,
        "groups": applied(record.state.optimizer, None if record.ratios is None else record.ratios.read()),
        "images": num_images,
        "gradient_scale": (1.0 if clip is None else clip) / num_images,
        "clip": clip,
        "gain": record.applied.gain,
        "batchnorm_images": together * each + min(extra, together),
        "image_ids": batches.digest_of_ids(record.step, record.state.slot),
    }


def digests(record: StepRecord) -> dict[str, Any]:
    """Return a digest of every gradient (averaged, as the optimizer saw it), weight and running statistic after a step."""
    state = record.state
    return {
        "step": record.step,
        "gradients": _digests({name: parameter.grad for name, parameter in state.trained.items()}),
        "weights": _digests(state.parameters),
        "statistics": _digests({"batch-norm statistics": state.running}),
    }


def epoch_entry(state: TrainState, step: int, lr: float, found: Evaluation) -> dict[str, Any]:
    """Return an evaluation's row of epochs.csv, with the mean loss of the training images since the one before."""
    return {
        "epoch": state.plan.epoch_after(step),
        "step": step,
        "lr": lr,
        "train_loss": state.tally.epoch_loss / state.tally.epoch_images,
        "val_loss": found.finite_loss,
        "val_correct": found.correct,
        "val_images": found.images,
        "val_accuracy": found.accuracy,
    }


def comparison_of_policies(step: int, used: str, found: Mapping[str, Sequence[Evaluation]], slot: int) -> dict[str, Any]:
    """Return how a run's final weights fare under every policy of batch-norm statistics, for batchnorm.json."""
    policies = {}
    for policy, evaluations in found.items():
        values = asdict(evaluations[slot]) | {"loss": evaluations[slot].finite_loss}
        policies[policy] = {f"val_{name}": values[name] for name in ("correct", "images", "accuracy", "loss")}
    return {"step": step, "evaluated_with": used, "policies": policies}


def _digests(tensors: Mapping[str, Tensor | None]) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:12]
        for name, tensor in tensors.items()
        if tensor is not None
    }
