"""The recipe: everything that decides the trained weights, and nothing else."""

import hashlib
import itertools
import json
from typing import Any, Literal

from pydantic import Field, model_validator

from widestep.plan.consistency import check_consistency
from widestep.plan.duration import Duration
from widestep.plan.fields import (
    MOST,
    BatchNormField,
    DurationField,
    DurationsField,
    FactorsField,
    Fields,
    GridField,
    RampField,
    WarmupStart,
)
from widestep.plan.grid import WorkerGrid
from widestep.plan.order import TailPolicy
from widestep.plan.scaling import RuleName, ScalingRule
from widestep.plan.schedule import DecayShape, FirstStep, WarmupShape

PER_SLOT_FIELDS = (
    frozenset(("seed", "zero_gamma", "classifier_std", "optimizer", "momentum", "weight_decay", "decay_exempt", "clip_norm"))
    | frozenset(("beta1", "beta2", "epsilon", "trust_coefficient", "trust_epsilon", "trust_exempt"))
    | frozenset(("rmsprop_lr", "blend_centre", "blend_period"))
    | frozenset(("base_lr", "scaling", "reference_batch", "adascale_smoothing"))
    | frozenset(("warmup", "warmup_shape", "warmup_power", "warmup_start", "warmup_first", "warmup_overshoot"))
    | frozenset(("lr_decay", "decay_at", "decay_factor", "decay_power", "decay_end", "final_lr"))
)
"""Fields in which the runs of one stack may differ; all others shape the computation that they share."""

OptimizerName = Literal["sgd", "nesterov", "lars-tf", "lars-torch", "lars-nus", "lamb", "adamw", "rmsprop-sgd"]
Exemption = Literal["none", "batchnorm", "batchnorm+bias"]
CompileLevel = Literal["none", "default", "reduce-overhead", "max-autotune"]
RunningPolicy = Literal["mean", "worker0", "pooled", "last", "precise"]

_FOR_CHANNELS_LAST = ("resnet", "cifar-resnet")
"""Beginnings of the names of the shipped networks that channels_last makes faster; digits-resnet it does not."""


class Recipe(Fields):
    """Equal recipes in equal environments give equal bytes, on any number of processes and after any interruption."""

    data: str = "digits"
    """The data set: `digits` (shipped); `folder:PATH` (PATH/train/CLASS/*.JPEG and PATH/val/...); `parquet:PATH` (columns as
    Hugging Face has them); `tar:PATH` (WebDataset shards); `packed:PATH` (made by `widestep data pack`); or `imagenet`,
    which stands for ImageNet-1k in plans until its files are given."""
    train_images: int | None = Field(default=None, ge=1, le=MOST)
    """Images to train on where the data set has no validation part of its own: drawn afresh for each seed, by class; the
    others validate. Empty: half of them."""
    image_size: int | None = Field(default=None, ge=1, le=MOST)
    """Side of the square images in pixels that the model sees. Empty: 224, or the images' own size
    when they are small squares (up to 64)."""
    evaluation_resize: int | None = Field(default=None, ge=1, le=MOST)
    """Short side in pixels that evaluation images are brought to before their centre of image_size is cut out. Empty:
    256/224 of image_size, as in the references; images of up to 64 pixels are used whole."""
    augment: Literal["none", "flip", "shift-flip", "random-resized-crop"] = "none"
    """Random change of every training image: none; mirror half of them (`flip`); shift by up to 4 pixels and mirror (usual
    for CIFAR); crop a random part, resize and mirror (usual for ImageNet)."""
    bad_images: Literal["error", "skip"] = "error"
    """An image that does not decode: an `error` that ends the run, or `skip`: the next training image that does takes its
    place, with its label; in evaluation it is left out of the counts."""
    model: str = "digits-resnet"
    """The network: digits-resnet, resnet18/34/50/101/152, cifar-resnet6/14x2/20/32/44/56; or your own: `FILE.py:NAME` or
    `package.module:NAME`, a class or function that returns a torch module for (num_classes, image_shape)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of features zeroed before the classifier while training."""
    zero_gamma: bool = False
    """Start the last batch-norm scale of each residual block at zero (Goyal et al. 2017, section 5.1)."""
    classifier_std: float | None = Field(default=None, gt=0)
    """Standard deviation of the classifier's normal initial weights, its bias starting at zero (0.01 in Goyal et al. 2017).
    Empty: weights and bias uniform in +-1/sqrt(features)."""
    grid: GridField = WorkerGrid(4, 1, 8)
    """Workers and images: NODESxWORKERSxIMAGES, for example 40x6x128 is 240 workers of 128 images, 30,720 a step."""
    worker_ramp: RampField = ()
    """Numbers of workers later in training: `30ep:8,60ep:16` is 8 workers from epoch 30 and 16 from epoch 60 on, whole
    epochs. The rate follows by the scaling rule. Empty: those of the grid all the time."""
    epochs: DurationField = Duration.parse("36ep")
    """Length of training: epochs (`90` or `90ep`), steps (`600st`) or images (`30720im`)."""
    tail: TailPolicy = "drop"
    """Images that do not fill a global batch at the end of an epoch: `drop`, `pad` (repeat some), `short` (a smaller
    step)."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Decides initial weights, order, split, augmentation and dropout."""
    optimizer: OptimizerName = "sgd"
    """`sgd` (heavy-ball momentum) and `nesterov`, as torch.optim.SGD; `adamw`, as torch.optim.AdamW; `lamb` (You et al.
    2020); LARS in its three published forms `lars-tf` (You et al. 2017, MLPerf), `lars-torch`, `lars-nus`; `rmsprop-sgd`
    (Akiba et al. 2017: RMSprop that turns into SGD)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the velocity kept at each step; of all optimizers but adamw and lamb."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Share of the averaged gradient kept at each step, of adamw and lamb."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Share of the averaged squared gradient kept at each step, of adamw, lamb and rmsprop-sgd."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the averaged squared gradient, of adamw, lamb and rmsprop-sgd."""
    weight_decay: float = Field(default=5e-5, ge=0)
    """Multiple of the weights added to the averaged gradient; of adamw and lamb, to the direction of the step."""
    decay_exempt: Exemption = "none"
    """Parameters without weight decay: none, batch-norm scales and shifts, or these and all biases."""
    trust_coefficient: float = Field(default=0.001, gt=0)
    """Trust ratio of LARS: this multiple of the norm of a tensor over that of its gradient (eta in You et al. 2017)."""
    trust_epsilon: float = Field(default=0.0, ge=0)
    """Added to the denominator of the trust ratio of LARS."""
    trust_exempt: Exemption = "batchnorm+bias"
    """Parameters that LARS and LAMB step without a trust ratio."""
    rmsprop_lr: float = Field(default=3e-4, gt=0)
    """Rate of the RMSprop part of rmsprop-sgd."""
    blend_centre: DurationField = Duration.parse("10ep")
    """Where rmsprop-sgd is half SGD."""
    blend_period: DurationField = Duration.parse("5ep")
    """How slowly rmsprop-sgd turns into SGD; it is SGD alone from half of this after the centre."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the averaged gradient, before weight decay; longer ones are scaled to it. Empty: no limit."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    base_lr: float = Field(default=0.045, gt=0)
    """Learning rate at the reference of the scaling rule."""
    scaling: RuleName = "per-worker"
    """Peak rate from the base rate: `none`, `linear` (x B/reference_batch), `sqrt` (x its root), `per-worker` (x W), `legw`
    (sqrt, and a warmup in epochs grows x B/reference_batch), `adascale` (x the gain of each step, and progress counts in
    steps of one worker), `none-as-run` (an unscaled rate that the program overwrites: in effect `per-worker`)."""
    reference_batch: int | None = Field(default=None, ge=1, le=MOST)
    """Global batch in images that base_lr was tuned for; needed by linear, sqrt and legw."""
    adascale_smoothing: float | None = Field(default=None, ge=0, lt=1)
    """Share that AdaScale keeps of its running variance and squared mean at each step. Empty: max(0, 1 - W/1000)."""
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
    warmup_overshoot: bool = False
    """Go on rising to the end of the last epoch that the warmup touches, above the peak when the warmup ends within an epoch
    (as Horovod's public example does)."""
    lr_decay: DecayShape = "step"
    """How the rate falls after the warmup: step, cosine, polynomial, linear, exponential, constant."""
    decay_at: DurationsField = tuple(Duration.parse(text) for text in ("12ep", "24ep", "32ep"))
    """Where the step decay multiplies the rate, counted from the start of training whatever the warmup."""
    decay_factor: FactorsField = (0.1,)
    """Factor of the step decay, or one factor for each of decay_at."""
    decay_power: float = Field(default=2.0, gt=0)
    """Exponent of the polynomial decay."""
    decay_end: DurationField | None = None
    """Where the decay arrives at final_lr, which then stays. Empty: the end of training."""
    final_lr: float = Field(default=0.0, ge=0)
    """Rate at the end of a cosine, polynomial, linear or exponential decay."""
    batchnorm: BatchNormField = "local"
    """Images that batch normalisation treats together: `local` (those of a worker), `group:K` (of K neighbouring workers),
    `sync` (the global batch)."""
    batchnorm_momentum: float = Field(default=0.1, gt=0, le=1)
    """Weight of a step's statistics in the running statistics, once a worker a step."""
    batchnorm_running: RunningPolicy = "mean"
    """Statistics that evaluation uses: `mean` of the workers' running ones; those of `worker0` alone (what data-parallel
    training without care keeps); `pooled` (mean, with the variance of the workers' means added); of the `last` step;
    `precise` (computed anew from training images before every evaluation)."""
    batchnorm_recompute: Literal["auto", "never"] = "auto"
    """`auto`: while so few steps were taken that the initial statistics still weigh more than 1 %, evaluate as with
    `precise`."""
    batchnorm_images: int = Field(default=8192, ge=1, le=MOST)
    """Training images, rounded up to whole steps, from which `precise` computes statistics; at most one epoch."""
    workers_per_forward: int = Field(default=1, ge=1, le=MOST)
    """Workers computed in one forward pass, each with its own batch-norm statistics. Arithmetic, not speed alone: another
    value gives results equal to rounding, not to the byte."""
    worker_norms: bool = False
    """Record the norm of every worker's own gradient (its mean square); adascale needs it and has it always. With several
    workers a forward pass their gradients are kept apart, which sums in another order."""
    images_per_forward: int | None = Field(default=None, ge=1, le=MOST)
    """At most so many images of a worker in one forward pass, where they do not all fit into memory: they are cut into
    passes, as equal as can be, whose gradients are added. Batch normalisation then sees the images of a pass alone. Empty:
    all images of a worker."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward and backward passes: float32, or bfloat16 where torch's autocast allows it. Weights,
    statistics and the optimizer stay float32."""
    tf32: bool = False
    """Let GPUs round the factors of float32 products to 10 bits (TF32)."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """How images and what layers hand each other lie in memory: plane after plane (`contiguous`) or pixel after pixel
    (`channels_last`). `auto`: channels_last, which is faster, for the resnets and cifar-resnets with one worker (or group) a
    forward pass and stack = 1; contiguous for all else. Arithmetic: sums run in another order."""
    compile: CompileLevel = "none"
    """Let torch compile the forward and backward passes of training, at this level (as torch.compile calls them): `default`;
    `reduce-overhead` (with CUDA graphs, for small networks on a GPU); `max-autotune` (kernels chosen by timing: in fast mode
    only). Takes a minute at the first step, and needs a C++ compiler, on a GPU Triton."""
    mode: Literal["reproducible", "fast"] = "reproducible"
    """`reproducible`: the same bytes on any processes. `fast`: torch's own all-reduce, overlapped with the backward pass;
    bytes then depend on the number of processes."""
    compression: Literal["none", "fp16", "bf16"] = "none"
    """Of the gradients that processes exchange, in fast mode."""
    stack: int = Field(default=1, ge=1, le=1024)
    """Runs computed side by side as convolution groups; this run is number seed mod stack, the others may be absent.
    Arithmetic: a run's bytes depend on the size of the stack but not on its companions."""
    evaluate_every: DurationField = Duration.parse("1ep")
    """Training between two evaluations (`1ep`, `200st`); the end is always evaluated. Decides which weights are the best."""
    images_per_evaluation: int = Field(default=256, ge=1, le=MOST)
    """Validation images in one forward pass."""
    val_images: int | None = Field(default=None, ge=1, le=MOST)
    """Validation images that are evaluated, spread evenly over all of them. Empty: all."""
    evaluation: Literal["exact", "batch-means"] = "exact"
    """How validation accuracy is computed: every image once; or as the mean over workers of the mean of their batches,
    images repeated until the workers have equally many (what Horovod's public example reports)."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Processor threads of each process's arithmetic. Another number sums in another order."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        check_consistency(self)
        return self

    @property
    def grids(self) -> list[WorkerGrid]:
        """The workers at the beginning, and those from each point of the ramp on."""
        return [self.grid, *(self.grid.with_workers(point.num_workers) for point in self.worker_ramp)]

    @property
    def rule(self) -> ScalingRule:
        """The scaling rule with its reference."""
        return ScalingRule(self.scaling, self.reference_batch)

    @property
    def peak_lr(self) -> float:
        """The rate at the end of the warmup for the workers that training begins with, under adascale at gain 1."""
        return self.rule.peak(self.base_lr, self.grid)

    @property
    def slot(self) -> int:
        """Place of this run in its stack."""
        return self.seed % self.stack

    @property
    def has_worker_norms(self) -> bool:
        """Whether the norms of the workers' own gradients are computed."""
        return self.worker_norms or self.scaling == "adascale"

    def batchnorm_group(self, num_workers: int) -> int:
        """Return how many of `num_workers` workers batch normalisation treats together."""
        if self.batchnorm.startswith("group:"):
            return int(self.batchnorm.removeprefix("group:"))
        return num_workers if self.batchnorm == "sync" else 1

    def workers_per_block(self, num_workers: int) -> int:
        """Return the workers of one forward pass: workers_per_forward, rounded up to whole groups."""
        group = self.batchnorm_group(num_workers)
        return -(-self.workers_per_forward // group) * group

    def passes_of(self, num_images: int) -> list[range]:
        """Cut the `num_images` of a worker, or of a group, into consecutive forward passes, as equal as can be.

        Examples
        --------
        >>> Recipe(images_per_forward=4).passes_of(10)
        [range(0, 3), range(3, 6), range(6, 10)]
        """
        num_passes = 1 if self.images_per_forward is None else -(-num_images // self.images_per_forward)
        ends = [num_images * number // num_passes for number in range(num_passes + 1)]
        return [range(*pair) for pair in itertools.pairwise(ends)]

    @property
    def channels_last(self) -> bool:
        """Whether images lie channels last in memory: `memory_format`, with auto decided."""
        if self.memory_format != "auto":
            return self.memory_format == "channels_last"
        passes = {(self.workers_per_block(grid.num_workers), grid.num_workers) for grid in self.grids}
        alone = all(min(pair) == self.batchnorm_group(pair[1]) for pair in passes)
        return alone and self.stack == 1 and ":" not in self.model and self.model.startswith(_FOR_CHANNELS_LAST)

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
        shared = {name: value for name, value in self.values().items() if name not in PER_SLOT_FIELDS}
        return _digest({**shared, "has_worker_norms": self.has_worker_norms})


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
