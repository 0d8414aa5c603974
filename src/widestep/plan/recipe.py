"""The recipe: everything that decides the trained weights, and nothing else."""

import hashlib
import json
import math
from typing import Any, Literal

from pydantic import Field, model_validator

from widestep.errors import UsageError
from widestep.plan.duration import Duration
from widestep.plan.fields import DurationField, DurationsField, Fields, GridField, WarmupStart
from widestep.plan.grid import WorkerGrid
from widestep.plan.order import TailPolicy
from widestep.plan.scaling import RuleName, ScalingRule
from widestep.plan.schedule import DecayShape, FirstStep, WarmupShape

PER_SLOT_FIELDS = (
    frozenset(("seed", "zero_gamma", "optimizer", "momentum", "weight_decay", "decay_exempt"))
    | frozenset(("base_lr", "scaling", "reference_batch"))
    | frozenset(("warmup", "warmup_shape", "warmup_power", "warmup_start", "warmup_first"))
    | frozenset(("lr_decay", "decay_at", "decay_factor", "decay_power", "final_lr"))
)
"""Fields in which the runs of one stack may differ; all others shape the computation that they share."""


class Recipe(Fields):
    """Equal recipes in equal environments give equal bytes, on any number of processes and after any interruption."""

    data: str = "digits"
    """The data set: `digits` (shipped), `folder:PATH` (PATH/train/CLASS/*.JPEG and PATH/val/...), or `imagenet`, which
    stands for ImageNet-1k in plans until its folder is given."""
    train_images: int | None = Field(default=None, ge=1)
    """Images to train on where the data set has no validation part of its own: drawn afresh for each seed, by class; the
    others validate. Empty: half of them."""
    image_size: int | None = Field(default=None, ge=1)
    """Side of the square images in pixels that the model sees. Empty: 224 for folders, the data's own size otherwise."""
    augment: Literal["none", "shift-flip", "random-resized-crop"] = "none"
    """Random change of every training image: none; shift by up to 4 pixels and mirror (usual for CIFAR); crop a random
    part, resize and mirror (usual for ImageNet)."""
    model: str = "digits-resnet"
    """The network: digits-resnet, resnet18/34/50/101/152, cifar-resnet20/32/44/56."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of features zeroed before the classifier while training."""
    zero_gamma: bool = False
    """Start the last batch-norm scale of each residual block at zero (Goyal et al. 2017, section 5.1)."""
    grid: GridField = WorkerGrid(4, 1, 8)
    """Workers and images: NODESxWORKERSxIMAGES, for example 40x6x128 is 240 workers of 128 images, 30,720 a step."""
    epochs: DurationField = Duration.parse("36ep")
    """Length of training: epochs (`90` or `90ep`), steps (`600st`) or images (`30720im`)."""
    tail: TailPolicy = "drop"
    """Images that do not fill a global batch at the end of an epoch: `drop`, `pad` (repeat some), `short` (a smaller
    step)."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides initial weights, order, split, augmentation and dropout."""
    optimizer: Literal["sgd", "nesterov"] = "sgd"
    """Stochastic gradient descent with heavy-ball or Nesterov momentum, as torch.optim.SGD defines them."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the velocity kept at each step."""
    weight_decay: float = Field(default=5e-5, ge=0)
    """Multiple of the weights added to the averaged gradient."""
    decay_exempt: Literal["none", "batchnorm", "batchnorm+bias"] = "none"
    """Parameters without weight decay: none, batch-norm scales and shifts, or these and all biases."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    base_lr: float = Field(default=0.045, gt=0)
    """Learning rate at the reference of the scaling rule."""
    scaling: RuleName = "per-worker"
    """Peak rate from the base rate: `none`, `linear` (x B/reference_batch), `sqrt` (x its root), `per-worker` (x W)."""
    reference_batch: int | None = Field(default=None, ge=1)
    """Global batch in images that base_lr was tuned for; needed by linear and sqrt."""
    warmup: DurationField = Duration.parse("2ep")
    """Length of the gradual warmup: `5ep`, `600st` or `0`."""
    warmup_shape: WarmupShape = "linear"
    """How the rate rises: linear, constant (then a jump), exponential, polynomial."""
    warmup_power: float = Field(default=2.0, gt=0)
    """Exponent of the polynomial warmup."""
    warmup_start: WarmupStart = "base"
    """Rate that the warmup starts from: `base` (base_lr), `zero`, or a number; the peak where that is lower."""
    warmup_first: FirstStep = "open"
    """`open`: the first step is one increment above the start and the last warmup step at the peak (Horovod's example);
    `closed`: the first step is at the start and the first step after the warmup at the peak."""
    lr_decay: DecayShape = "step"
    """How the rate falls after the warmup: step, cosine, polynomial, linear, exponential, constant."""
    decay_at: DurationsField = tuple(Duration.parse(text) for text in ("12ep", "24ep", "32ep"))
    """Where the step decay multiplies the rate, counted from the start of training whatever the warmup."""
    decay_factor: float = Field(default=0.1, gt=0, le=1)
    """Factor of the step decay."""
    decay_power: float = Field(default=2.0, gt=0)
    """Exponent of the polynomial decay."""
    final_lr: float = Field(default=0.0, ge=0)
    """Rate at the end of a cosine, polynomial, linear or exponential decay."""
    batchnorm_momentum: float = Field(default=0.1, gt=0, le=1)
    """Weight of a step's statistics in the running statistics, once a worker a step."""
    batchnorm_running: Literal["mean", "worker0"] = "mean"
    """How the workers' running statistics become one: their mean, or those of worker 0 alone (what data-parallel
    training without care keeps)."""
    workers_per_forward: int = Field(default=1, ge=1)
    """Workers computed in one forward pass, each with its own batch-norm statistics. Arithmetic, not speed alone: another
    value gives results equal to rounding, not to the byte."""
    stack: int = Field(default=1, ge=1, le=1024)
    """Runs computed side by side as convolution groups; this run is number seed mod stack, the others may be absent.
    Arithmetic: a run's bytes depend on the size of the stack but not on its companions."""
    evaluate_every: DurationField = Duration.parse("1ep")
    """Training between two evaluations (`1ep`, `200st`); the end is always evaluated. Decides which weights are the best."""
    images_per_evaluation: int = Field(default=256, ge=1)
    """Validation images in one forward pass."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Processor threads of each process's arithmetic. Another number sums in another order."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if any(0xD800 <= ord(character) <= 0xDFFF for character in self.data + self.model):
            raise UsageError(f"A recipe is kept as UTF-8 text. Got {self.data!r} as data; rename what is not UTF-8.")
        if not (math.isfinite(self.peak_lr) and self.peak_lr > 0):
            raise UsageError(f"The peak rate must be a positive number. It is {self.peak_lr}; change base_lr or scaling.")
        if self.lr_decay == "exponential" and self.final_lr == 0:
            raise UsageError("An exponential decay ends at a rate above 0. final_lr is 0; set it, for example 1e-4.")
        if self.warmup_shape == "exponential" and self.warmup_start in ("zero", 0.0):
            raise UsageError("An exponential warmup starts above 0. warmup_start is zero; use base or a number.")
        for name in ("epochs", "evaluate_every"):
            if getattr(self, name).amount == 0:
                raise UsageError(
                    f"Training and evaluation take at least one step. {name} is 0; give for example 1ep or 600st."
                )
        return self

    @property
    def rule(self) -> ScalingRule:
        """The scaling rule with its reference."""
        return ScalingRule(self.scaling, self.reference_batch)

    @property
    def peak_lr(self) -> float:
        """The learning rate at the end of the warmup."""
        return self.rule.peak(self.base_lr, self.grid)

    @property
    def slot(self) -> int:
        """Place of this run in its stack."""
        return self.seed % self.stack

    def values(self) -> dict[str, Any]:
        """Return all fields as plain values, in order."""
        return self.model_dump()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that two recipes share exactly when all their fields are equal."""
        return _digest(self.values())

    @property
    def stack_key(self) -> str:
        """Digest of the fields that all runs of one stack must share."""
        return _digest({name: value for name, value in self.values().items() if name not in PER_SLOT_FIELDS})


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two recipes differ, each with its old and new value.

    Examples
    --------
    >>> differences(Recipe(seed=1), Recipe(seed=2))
    {'seed': (1, 2)}
    """
    a, b = old.values(), new.values()
    return {name: (a[name], b[name]) for name in a if a[name] != b[name]}
