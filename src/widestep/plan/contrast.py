"""Two recipes in words: what differs, and what that means for training."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from widestep.plan.effects import idle
from widestep.plan.explain import EXEMPT, RUNNING, formula
from widestep.plan.grid import WorkerGrid
from widestep.plan.recipe import Recipe, differences
from widestep.plan.runplan import RunPlan

_OF_PEAK = ("scaling", "base_lr", "reference_batch")
_OF_STEPS = ("grid", "worker_ramp", "epochs", "tail")
_OF_RATE = {
    *(*_OF_PEAK, "adascale_smoothing", "lr_decay", "decay_at", "decay_factor", "decay_power", "decay_end", "final_lr"),
    *("warmup", "warmup_shape", "warmup_power", "warmup_start", "warmup_first", "warmup_overshoot"),
    *_OF_STEPS,
}


@dataclass(frozen=True)
class Pair:
    """Two recipes, and their plans when their numbers of training images are known."""

    a: Recipe
    b: Recipe
    plans: tuple[RunPlan, RunPlan] | None

    @cached_property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """The fields that differ, with their plain values."""
        return differences(self.a, self.b)

    @cached_property
    def same_rates(self) -> bool:
        """Whether it is certain that both take the same steps at the same rates."""
        changed = (_OF_RATE & {*self.changed}) - ({*idle(self.a)} & {*idle(self.b)})
        if self.same_workers:
            changed.discard("grid")
        if not changed:
            return True
        if "adascale" in (self.a.scaling, self.b.scaling):
            return False
        if self.plans is not None:
            return _trace(self.plans[0]) == _trace(self.plans[1])
        return changed <= {*_OF_PEAK} and self.same_scaling

    @property
    def same_workers(self) -> bool:
        """Whether as many workers take as many images each, on whatever nodes."""
        a, b = self.a.grid, self.b.grid
        return (a.num_workers, a.images_per_worker) == (b.num_workers, b.images_per_worker)

    @property
    def same_scaling(self) -> bool:
        """Whether the scaling rules with their base rates come to the same, whatever else differs."""
        if {self.a.scaling, self.b.scaling} & {"adascale", "legw"} and self.a.scaling != self.b.scaling:
            return False
        if self.a.base_lr != self.b.base_lr and "base" in (self.a.warmup_start, self.b.warmup_start):
            return False
        grids = {grid for recipe in (self.a, self.b) for grid in recipe.grids}
        return all(_peak(self.a, grid) == _peak(self.b, grid) for grid in grids)


def contrast(a: Recipe, b: Recipe, num_train: tuple[int, int] | None = None) -> list[str]:
    """Say in words in which fields two recipes differ and what it means, a sentence each; nothing for equal recipes.

    Parameters
    ----------
    num_train
        Training images of the two; without them sentences have no numbers of steps, and only peak rates are compared.

    Returns
    -------
    `FIELD: VALUE against VALUE: meaning.`, in the order of the fields of a recipe. In the end `rate: ...` says what all
    fields together come to, unless every step has the same rate in both.

    Raises
    ------
    UsageError
        When `num_train` is given and a recipe cannot be planned on so many images.

    Examples
    --------
    >>> contrast(Recipe(), Recipe(seed=1))
    ['seed: 0 against 1: other initial weights, order and augmentation; results differ by chance alone.']
    """
    pair = Pair(a, b, None if num_train is None else (RunPlan(a, num_train[0]), RunPlan(b, num_train[1])))
    lines = [f"{name}: {_text(old)} against {_text(new)}: {_told(name, pair)}." for name, (old, new) in pair.changed.items()]
    return lines if pair.same_rates else [*lines, f"rate: {_rates(pair)}."]


def _peak(recipe: Recipe, grid: WorkerGrid) -> float:
    return recipe.rule.peak(recipe.base_lr, grid)


def _trace(plan: RunPlan) -> list[float]:
    return [plan.lr(step) for step in range(plan.total_steps)]


def _text(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case list():
            return ", ".join(map(_text, value)) or "none"
    return str(value)


def _told(name: str, pair: Pair) -> str:
    meaning = _meaning(name, pair)
    silent = name in _OF_RATE and name not in (*_OF_PEAK, *_OF_STEPS) and pair.same_rates
    return f"{meaning}: no step's rate differs" if silent and not meaning.startswith(_WITHOUT) else meaning


def _meaning(name: str, pair: Pair) -> str:
    """Say what a difference in one field means; of the fields of the peak rate, the first that differs tells it."""
    reasons = [idle(recipe).get(name) for recipe in (pair.a, pair.b)]
    if all(reasons):
        return f"{_WITHOUT}, since {' and '.join(dict.fromkeys(filter(None, reasons)))}"
    if name == next((field for field in _OF_PEAK if field in pair.changed), None):
        return f"{_peaks(pair)}{_no_rate_differs(pair)}"
    if name in _MEANINGS:
        return _MEANINGS[name](pair)
    text = _first_sentence(Recipe.model_fields[name].description or "")
    for which, reason in zip(("first", "second"), reasons, strict=True):
        text += f"; without effect in the {which}, since {reason}" if reason else ""
    return text


def _first_sentence(text: str) -> str:
    sentence = re.split(r"\.\s+(?=[A-Z])", text)[0]  # not at "Goyal et al. 2017"
    return f"{sentence[:1].lower()}{' '.join(sentence[1:].split()).removesuffix('.')}"


def _each(pair: Pair, value: Callable[[Recipe], str]) -> str:
    """Say what a property is in both recipes."""
    a, b = value(pair.a), value(pair.b)
    return f"{a} in both" if a == b else f"{a} against {b}"


def _count(a: int, b: int) -> str:
    return f"{a:,} in both" if a == b else f"{a:,} against {b:,}"


def _value(a: float, b: float) -> str:
    return f"{a:.6g} in both" if a == b else f"{a:.6g} against {b:.6g}"


def _peaks(pair: Pair) -> str:
    a, b = pair.a.peak_lr, pair.b.peak_lr
    if a != b:
        return f"peak rates {_value(a, b)}"
    return f"both peak at {a:g}" + (f" ({pair.a.grid.num_workers:,} workers)" if pair.same_workers else "")


def _no_rate_differs(pair: Pair) -> str:
    if pair.same_scaling:
        return ": no step's rate differs" if pair.same_rates else ": this changes no step's rate"
    return ""


def _grid(pair: Pair) -> str:
    a, b = pair.a.grid, pair.b.grid
    if pair.same_workers:
        return f"the same {a.num_workers:,} workers of {a.images_per_worker:,} images on other nodes, which changes no step"
    text = f"images a step {_count(a.global_batch, b.global_batch)}, workers {_count(a.num_workers, b.num_workers)}"
    if _normalised(pair.a) != _normalised(pair.b):
        text += f", images of batch normalisation {_each(pair, _normalised)}"
    return text + _steps_an_epoch(pair)


def _normalised(recipe: Recipe) -> str:
    return f"{recipe.batchnorm_group(recipe.grid.num_workers) * recipe.grid.images_per_worker:,}"


def _steps_an_epoch(pair: Pair) -> str:
    if pair.plans is None:
        return ""
    return f", steps an epoch {_count(*(plan.steps_per_epoch for plan in pair.plans))}"


def _tail(pair: Pair) -> str:
    if pair.plans is None:
        verbs = {"drop": "loses the rest of an epoch", "pad": "repeats images", "short": "takes a smaller last step"}
        return ", ".join(f"{recipe.tail} {verbs[recipe.tail]}" for recipe in (pair.a, pair.b))
    forms = {"drop": "loses {:,} images an epoch", "pad": "repeats {:,}", "short": "takes {:,} in a smaller last step"}
    shapes = [plan.timeline.stages[0].shape for plan in pair.plans]
    texts = [f"{shape.tail} {forms[shape.tail].format(shape.num_tail)}" for shape in shapes]
    return ", ".join(texts) + _steps_an_epoch(pair)


def _epochs(pair: Pair) -> str:
    if pair.plans is None:
        return "length of training"
    return f"steps {_count(*(plan.total_steps for plan in pair.plans))}"


def _warmup(pair: Pair) -> str:
    if pair.plans is None:
        return "length of the gradual warmup"
    return f"steps {_count(*(plan.warmup_steps for plan in pair.plans))}"


def _rates(pair: Pair) -> str:
    """Say how the rates of two recipes differ over training."""
    if "adascale" in (pair.a.scaling, pair.b.scaling):
        return "adascale multiplies the rate of a step by a gain that is known only while training"
    if pair.plans is None:
        return f"{_peaks(pair)}, the rest depends on the number of training images"
    a, b = (_trace(plan) for plan in pair.plans)
    ends = f"highest {_value(max(a), max(b))}, at the end {_value(a[-1], b[-1])}"
    if len(a) != len(b):
        return f"steps {_count(len(a), len(b))}, {ends}"
    differing = [step for step, (old, new) in enumerate(zip(a, b, strict=True)) if old != new]
    first = differing[0]
    return f"{len(differing):,} of {len(a):,} steps differ, first step {first:,} with {_value(a[first], b[first])}; {ends}"


_WITHOUT = "without effect"
_SAME = "the same trained weights"
_ROUNDING = "the same up to rounding, not to the byte"
_MEANINGS: dict[str, Callable[[Pair], str]] = {
    "seed": lambda pair: "other initial weights, order and augmentation; results differ by chance alone",
    "grid": _grid,
    "epochs": _epochs,
    "tail": _tail,
    "warmup": _warmup,
    "optimizer": lambda pair: _each(pair, formula),
    "decay_exempt": lambda pair: f"weight decay on {_each(pair, lambda recipe: EXEMPT[recipe.decay_exempt])}",
    "batchnorm": lambda pair: f"images of batch normalisation {_each(pair, _normalised)}",
    "batchnorm_running": lambda pair: f"{_SAME}; evaluation uses {_each(pair, lambda r: RUNNING[r.batchnorm_running])}",
    "batchnorm_recompute": lambda pair: f"{_SAME}; only with auto the first evaluations compute statistics anew",
    "batchnorm_images": lambda pair: f"{_SAME}; statistics computed anew are from another number of images",
    "evaluation": lambda pair: f"{_SAME}, another way to count their accuracy",
    "evaluate_every": lambda pair: "the same weights at the end, another choice of the best",
    "val_images": lambda pair: f"{_SAME} at the end, accuracy from another number of validation images",
    "images_per_evaluation": lambda pair: f"{_SAME}, the same accuracy up to rounding",
    **dict.fromkeys(("workers_per_forward", "stack", "threads", "worker_norms"), lambda pair: _ROUNDING),
    **dict.fromkeys(("memory_format", "compile"), lambda pair: _ROUNDING),
}
"""What a difference in a field means, where the field's help does not say it."""
