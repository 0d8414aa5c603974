"""What the fields of a recipe must be together: contradictions are refused before anything is done, naming all fields."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from widestep.errors import UsageError
from widestep.plan.fields import Conflict

if TYPE_CHECKING:
    from widestep.plan.recipe import Recipe

_LONGEST_TEXT = 4096
_MOST_WORKERS = 10**8


def check_consistency(recipe: "Recipe") -> None:
    """Refuse a recipe whose fields contradict one another.

    Raises
    ------
    Conflict
        Names the fields and what to do.
    """
    _check_texts(recipe)
    try:
        rule = recipe.rule
    except UsageError as error:
        raise Conflict(("scaling", "reference_batch"), str(error)) from None
    for grid in recipe.grids:
        if grid.num_workers > _MOST_WORKERS:
            raise Conflict(
                ("grid" if grid == recipe.grid else "worker_ramp",),
                f"A step has at most {_MOST_WORKERS:,} workers. Got {grid.num_workers:,}; give fewer.",
            )
        peak = rule.peak(recipe.base_lr, grid)
        if not (math.isfinite(peak) and peak > 0):
            raise Conflict(
                ("base_lr", "scaling", "grid"),
                f"The peak rate must be a positive number. It is {peak}; change base_lr or scaling.",
            )
    if len(recipe.decay_factor) not in (1, len(recipe.decay_at)):
        raise Conflict(
            ("decay_factor", "decay_at"),
            f"A step decay has one factor, or one for each point. Got {len(recipe.decay_factor)} factors for "
            f"{len(recipe.decay_at)} points of decay_at.",
        )
    for name in ("epochs", "evaluate_every"):
        if getattr(recipe, name).amount == 0:
            raise Conflict(
                (name,), f"Training and evaluation take at least one step. {name} is 0; give for example 1ep or 600st."
            )
    _check_shapes(recipe)
    _check_workers(recipe)
    _check_norms(recipe)
    _check_passes(recipe)


def check_given(recipe: "Recipe", given: Iterable[str]) -> None:
    """Refuse lengths that cannot be reached, where it is these that somebody gave.

    A recipe may be cut short, as by `--epochs 4st`, without a new warmup: then `family.warnings` says so. Whoever gives a
    warmup, however, means it to be gone through.

    Raises
    ------
    Conflict
        Names the fields and what to do.
    """
    length = recipe.rule.warmup(recipe.warmup, recipe.grid)
    if "warmup" in given and length.unit == recipe.epochs.unit and length.amount > recipe.epochs.amount:
        raise Conflict(
            ("warmup", "epochs"),
            f"A warmup ends before training does. It takes {length} of {recipe.epochs}; shorten warmup or lengthen epochs.",
        )
    for point in recipe.worker_ramp if "worker_ramp" in given else ():
        if recipe.epochs.unit == "ep" and point.epoch >= recipe.epochs.amount:
            raise Conflict(
                ("worker_ramp", "epochs"),
                f"A ramp changes the workers before training ends. {point} is not within {recipe.epochs}; leave the point "
                "out or train longer.",
            )
    end = recipe.decay_end
    if "decay_end" in given and end is not None and end.unit == recipe.epochs.unit and end.amount > recipe.epochs.amount:
        raise Conflict(
            ("decay_end", "epochs"),
            f"A decay arrives before training ends. decay_end is {end} of {recipe.epochs}; leave it out or train longer.",
        )


def _check_texts(recipe: "Recipe") -> None:
    for name in ("data", "model"):
        text = getattr(recipe, name)
        if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
            raise Conflict((name,), f"A recipe is kept as UTF-8 text. Got {text!r} as {name}; rename what is not UTF-8.")
        if len(text) > _LONGEST_TEXT:
            raise Conflict((name,), f"A name or path has at most {_LONGEST_TEXT:,} characters. Got {len(text):,}.")


def _check_shapes(recipe: "Recipe") -> None:
    """Refuse rates that a shape or an optimizer cannot have."""
    from_zero = recipe.warmup_start in ("zero", 0.0)
    if recipe.lr_decay == "exponential" and recipe.final_lr == 0:
        raise Conflict(
            ("lr_decay", "final_lr"),
            "An exponential decay ends at a rate above 0. final_lr is 0; set it, for example 1e-4.",
        )
    if recipe.warmup_shape == "exponential" and from_zero:
        raise Conflict(
            ("warmup_shape", "warmup_start"),
            "An exponential warmup starts above 0. warmup_start is zero; use base or a number.",
        )
    if recipe.optimizer == "rmsprop-sgd" and recipe.warmup_first == "closed" and from_zero:
        raise Conflict(
            ("optimizer", "warmup_first", "warmup_start"),
            "rmsprop-sgd divides by the rate, which must not be 0. warmup_first is closed and warmup_start is zero; use "
            "warmup_first = open, or start at a number.",
        )


def _check_workers(recipe: "Recipe") -> None:
    """Refuse what the workers cannot do together."""
    for grid in recipe.grids:
        if grid.num_workers % recipe.batchnorm_group(grid.num_workers):
            raise Conflict(
                ("batchnorm", "grid" if grid == recipe.grid else "worker_ramp"),
                f"Groups of batch normalisation must divide the workers. Got batchnorm = {recipe.batchnorm} for "
                f"{grid.num_workers} workers; choose a group size that divides them.",
            )
    if recipe.mode == "fast" and recipe.batchnorm == "sync":
        raise Conflict(
            ("mode", "batchnorm"),
            "In fast mode a process normalises its own images. batchnorm = sync needs mode = reproducible.",
        )
    if recipe.mode == "reproducible" and recipe.compression != "none":
        raise Conflict(
            ("compression", "mode"),
            "Compression rounds the gradients that processes exchange, which only fast mode may. Got compression = "
            f"{recipe.compression} with mode = reproducible.",
        )


def _check_norms(recipe: "Recipe") -> None:
    """Refuse what keeps the norms of the workers' own gradients from being known."""
    if recipe.scaling == "adascale" and recipe.reference_batch not in (None, recipe.grid.images_per_worker):
        raise Conflict(
            ("scaling", "reference_batch"),
            "AdaScale's reference is one worker, so reference_batch is left out (or none). "
            f"Got {recipe.reference_batch} with {recipe.grid.images_per_worker} images a worker.",
        )
    if not recipe.has_worker_norms:
        return
    cause = "scaling" if recipe.scaling == "adascale" else "worker_norms"
    if ":" in recipe.model and recipe.workers_per_forward > 1:
        raise Conflict(
            (cause, "model", "workers_per_forward"),
            "Norms of the workers' own gradients (AdaScale, worker_norms) of a model of your own need one worker a "
            f"forward pass. Set workers_per_forward to 1. Got {recipe.workers_per_forward}.",
        )
    if recipe.batchnorm != "local":
        raise Conflict(
            (cause, "batchnorm"),
            "Norms of the workers' own gradients (AdaScale, worker_norms) need workers that do not see one another: "
            f"batchnorm must be local. Got {recipe.batchnorm}.",
        )
    if recipe.mode == "fast":
        raise Conflict(
            (cause, "mode"),
            "Fast mode sums the gradients of a process before anybody sees them. AdaScale and worker_norms need mode = "
            "reproducible.",
        )
    if recipe.compile != "none" and recipe.workers_per_forward > 1:
        raise Conflict(
            (cause, "compile", "workers_per_forward"),
            "Compiled passes do not keep the workers of a pass apart. With norms of the workers' own gradients "
            "(AdaScale, worker_norms) set workers_per_forward to 1, or compile to none. Got "
            f"{recipe.workers_per_forward} and {recipe.compile}.",
        )


def _check_passes(recipe: "Recipe") -> None:
    """Refuse what a forward pass cannot be."""
    if recipe.images_per_forward is not None and (recipe.workers_per_forward > 1 or recipe.batchnorm != "local"):
        raise Conflict(
            ("images_per_forward", "workers_per_forward" if recipe.workers_per_forward > 1 else "batchnorm"),
            "images_per_forward cuts the images of one worker, which batch normalisation treats by itself: it needs "
            f"workers_per_forward = 1 and batchnorm = local. Got {recipe.workers_per_forward} and {recipe.batchnorm}; leave "
            "images_per_forward out (or none).",
        )
    if recipe.compile == "max-autotune" and recipe.mode == "reproducible":
        raise Conflict(
            ("compile", "mode"),
            "Reproducible mode needs kernels that are chosen by rule. compile = max-autotune chooses them by timing; "
            "use compile = default or reduce-overhead, or mode = fast.",
        )
