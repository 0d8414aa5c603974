"""How much disk a trial takes, from a formula: states kept x size of a state + best + final + records; without torch."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from widestep.data.facts import DataFacts
from widestep.plan.runplan import RunPlan
from widestep.records.place import space
from widestep.records.size import LEDGER_RECORD, METRICS_RECORD, num_moments
from widestep.study.store import StudyStore
from widestep.study.study import Trial
from widestep.study.work import SAVED_EVERY, execution_of

_FLOAT = 4
_BLOCK = 4096
"""Bytes that a file system gives a file at a time."""
_SMALL_FILES = 8
"""recipe.toml, environment.json, command.txt, log.txt, history.jsonl, result.json, STATUS and .lock."""
_DIRECTORIES = 2
_EPOCH_ROW = 95
_HEADER, _HEADER_OF_TENSOR = 1000, 90
_POLICIES = 4
"""Kinds of running batch-norm statistics that a state holds: see `batchnorm_running`."""


@dataclass(frozen=True)
class ModelSize:
    """The numbers of a model that its files follow from.

    Parameters
    ----------
    num_parameters
        Apart from those that depend on the data set.
    of_channel, of_class
        Parameters for every channel of an image, and for every class.
    num_channels
        Channels that batch normalisation treats, each with a mean and a variance.
    num_tensors, num_statistics
        Tensors of parameters, and of those means and variances.
    """

    num_parameters: int
    of_channel: int = 0
    of_class: int = 0
    num_channels: int = 0
    num_tensors: int = 0
    num_statistics: int = 0

    def parameters(self, num_classes: int, num_image_channels: int) -> int:
        """Return the parameters on a data set."""
        return self.num_parameters + self.of_class * num_classes + self.of_channel * num_image_channels


MODELS = {
    "digits-resnet": ModelSize(4880, 72, 17, 72, 20, 12),
    "cifar-resnet6": ModelSize(72288, 400, 65, 304, 23, 14),
    "cifar-resnet14x2": ModelSize(694464, 288, 129, 1120, 47, 30),
    "cifar-resnet20": ModelSize(268640, 144, 65, 688, 59, 38),
    "cifar-resnet32": ModelSize(463072, 144, 65, 1136, 95, 62),
    "cifar-resnet44": ModelSize(657504, 144, 65, 1584, 131, 86),
    "cifar-resnet56": ModelSize(851936, 144, 65, 2032, 167, 110),
    "resnet18": ModelSize(11167104, 3136, 513, 4800, 62, 40),
    "resnet34": ModelSize(21275264, 3136, 513, 8512, 110, 72),
    "resnet50": ModelSize(23498624, 3136, 2049, 26560, 161, 106),
    "resnet101": ModelSize(42490752, 3136, 2049, 52672, 314, 208),
    "resnet152": ModelSize(58134400, 3136, 2049, 75712, 467, 310),
}
"""The shipped models; for those of users the size is read from weights that a finished trial has saved."""


@dataclass(frozen=True)
class Footprint:
    """What a trial takes on disk, in bytes.

    Parameters
    ----------
    at_end
        When it is finished.
    at_most
        While it runs: with all states that are kept, and one more that is being written.
    """

    at_end: int
    at_most: int


@dataclass(frozen=True)
class DiskNeed:
    """What a study takes on disk.

    Parameters
    ----------
    num_bytes
        Of all trials that are not finished, when they are; None where the size of a model is not known.
    at_most
        The same with a state more of those that run at a time.
    free
        Bytes free where the study is, or None when that cannot be asked.
    basis
        What it is computed from.
    """

    num_bytes: int | None
    at_most: int | None
    free: int | None
    basis: str

    @property
    def fits(self) -> bool | None:
        """Whether it fits, as far as that is known."""
        return None if self.at_most is None or self.free is None else self.at_most <= self.free


def footprint(plan: RunPlan, model: ModelSize, facts: DataFacts, seconds: float | None) -> Footprint:
    """Return what a trial takes.

    Parameters
    ----------
    seconds
        That the trial lasts, when known: one that is shorter than the time between two states leaves fewer.
    """
    recipe, execution = plan.recipe, execution_of("auto", compare_batchnorm=False)
    parameters = model.parameters(facts.num_classes, facts.image_shape[0])
    weights = _FLOAT * (parameters + 2 * model.num_channels) + _HEADER
    weights += _HEADER_OF_TENSOR * (model.num_tensors + model.num_statistics)
    moments = num_moments(recipe)
    state = weights + _FLOAT * (moments * parameters + 2 * _POLICIES * model.num_channels)
    state += _HEADER_OF_TENSOR * moments * model.num_tensors
    records = plan.total_steps // execution.log_every + plan.num_epochs
    lines = [_EPOCH_ROW * plan.num_evaluations, METRICS_RECORD * records, LEDGER_RECORD * records]
    files = (_SMALL_FILES + _DIRECTORIES) * _BLOCK + sum(map(_on_disk, lines)) + 2 * _on_disk(weights)
    most = execution.keep_checkpoints
    kept = most if seconds is None else min(most, int(seconds // SAVED_EVERY.amount))
    return Footprint(files + kept * _on_disk(state), files + (most + 1) * _on_disk(state))


def _on_disk(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK) * _BLOCK


def disk_need(
    store: StudyStore,
    trials: Iterable[Trial],
    plans: Mapping[str, RunPlan],
    facts: Mapping[str, DataFacts],
    seconds: Mapping[str, float],
    num_jobs: int,
) -> tuple[DiskNeed, dict[str, Footprint]]:
    """Return what trials take on disk, together, and each by its fingerprint as far as its model's size is known.

    Parameters
    ----------
    plans, facts
        Of each trial by its fingerprint.
    seconds
        That each trial lasts, as far as known.
    """
    found, unknown = {}, []
    sizes = {**MODELS, **_saved_sizes(store)}
    wanted = list(trials)
    for trial in wanted:
        name, model = trial.fingerprint, trial.recipe.model
        if model in sizes:
            found[name] = footprint(plans[name], sizes[model], facts[name], seconds.get(name))
        elif model not in unknown:
            unknown.append(model)
    try:
        free = space(store.directory).free
    except OSError:
        free = None
    if unknown:
        return DiskNeed(None, None, free, f"the size of {', '.join(unknown)} is not known before a trial is finished"), found
    running = sorted((one.at_most - one.at_end for one in found.values()), reverse=True)[: num_jobs * _stack(wanted)]
    total = sum(one.at_end for one in found.values())
    return DiskNeed(total, total + sum(running), free, _BASIS), found


_BASIS = "states kept x state + best + final weights + records"


def _stack(trials: list[Trial]) -> int:
    return max((trial.recipe.stack for trial in trials), default=1)


def _saved_sizes(store: StudyStore) -> dict[str, ModelSize]:
    """Return the sizes of models that are not shipped, from the weights of a finished trial."""
    found: dict[str, ModelSize] = {}
    for trial in store.trials:
        model = trial.recipe.model
        if model not in MODELS and model not in found:
            with suppress(OSError):
                weights = (Path(store.run(trial).checkpoints) / "final.safetensors").stat().st_size
                found[model] = ModelSize(weights // _FLOAT)
    return found
