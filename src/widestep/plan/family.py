"""Warnings where a recipe leaves the family of known ones: each names the field, what it is, and what is usual, and where.

The ranges are those of the shipped recipes (papers, result logs and public code; `widestep recipes list`) with some room,
those of AdamW and LAMB from Loshchilov and Hutter 2019 (arXiv 1711.05101) and You et al. 2020 (arXiv 1904.00962). A value
outside is a question, not an error.
"""

from collections.abc import Callable
from dataclasses import dataclass

from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan

_MOMENTUM = ("sgd", "nesterov")
_LARS = ("lars-tf", "lars-torch", "lars-nus")
_ADAPTIVE = ("adamw", "lamb")
_PHOTO_SGD_PEAK = (0.02, 1.2)
_MANY_IMAGES = 8192
_LONGEST_WARMUP = 0.4
_IMAGES_NORMALISED = (8, 1024)


@dataclass(frozen=True)
class Usual:
    """The usual range of a field.

    Parameters
    ----------
    optimizers
        Those that it holds for; empty: all.
    known
        Where values come from, for the sentence.
    off
        A value outside that switches something off and is no question.
    """

    field: str
    low: float
    high: float
    known: str
    optimizers: tuple[str, ...] = ()
    off: float | None = None

    def applies(self, recipe: Recipe) -> bool:
        """Say whether the range is about this recipe."""
        return not self.optimizers or recipe.optimizer in self.optimizers


RANGES = (
    Usual("momentum", 0.8, 0.99, "0.875 to 0.98 in the shipped recipes", (*_MOMENTUM, *_LARS, "rmsprop-sgd")),
    Usual("beta1", 0.8, 0.99, "0.9 in nearly all published settings", _ADAPTIVE),
    Usual("beta2", 0.9, 0.9999, "0.99 to 0.999 in most published settings", (*_ADAPTIVE, "rmsprop-sgd")),
    Usual("epsilon", 1e-10, 1e-3, "1e-8 to 1e-6 in most published settings", (*_ADAPTIVE, "rmsprop-sgd")),
    Usual(
        "weight_decay",
        5e-6,
        1e-3,
        "5.7e-6 in AlgoPerf to 5e-4 and more on CIFAR-10",
        (*_MOMENTUM, *_LARS, "rmsprop-sgd"),
        off=0.0,
    ),
    Usual("weight_decay", 1e-3, 2.0, "the rate multiplies it too: 0.01 to 0.5 are usual, 1.5 with LAMB", _ADAPTIVE, off=0.0),
    Usual("trust_coefficient", 1e-4, 0.02, "0.001 in all published settings for ImageNet", _LARS),
    Usual("trust_epsilon", 0.0, 1e-4, "0 in MLPerf", _LARS),
    Usual("label_smoothing", 0.0, 0.2, "0 to 0.2 in the shipped recipes"),
    Usual("dropout", 0.0, 0.5, "residual networks are mostly trained without"),
    Usual("batchnorm_momentum", 0.003, 0.3, "0.06 to 0.1 in the shipped recipes"),
)
"""Usual ranges of single fields."""

PEAKS = (
    Usual("base_lr", 0.01, 15.0, "0.1 at 256 images to 12.8 at 32,768: Goyal et al. 2017", (*_MOMENTUM, "rmsprop-sgd")),
    Usual("base_lr", 0.5, 40.0, "3 at 408 images, MLPerf, to 32 at 32,768, LEGW", _LARS),
    Usual("base_lr", 1e-5, 1e-2, "around 1e-3", ("adamw",)),
    Usual("base_lr", 1e-4, 0.1, "0.005 to 0.04 for 512 to 32,768 images in its paper", ("lamb",)),
)
"""Usual peak rates."""


def warnings(recipe: Recipe, num_train: int | None = None) -> list[str]:
    """Return a sentence for every value outside the family of known recipes.

    Parameters
    ----------
    num_train
        Training images, when known: without them a warmup and a length of training in different units are not compared.

    Raises
    ------
    UsageError
        When `num_train` is given and the recipe cannot be planned on so many images.

    Examples
    --------
    >>> warnings(Recipe(momentum=0.5))
    ['momentum: 0.5 is outside the usual 0.8 to 0.99 of sgd (0.875 to 0.98 in the shipped recipes).']
    """
    found = [_outside(recipe, getattr(recipe, usual.field), usual) for usual in RANGES if usual.applies(recipe)]
    found += [check(recipe) for check in _CHECKS]
    return [sentence for sentence in (*found, _long_warmup(recipe, num_train)) if sentence is not None]


def _outside(recipe: Recipe, value: float, usual: Usual, what: str = "") -> str | None:
    if usual.low <= value <= usual.high or value == usual.off:
        return None
    whose = f" of {recipe.optimizer}" if usual.optimizers else ""
    return f"{usual.field}: {what}{value:g} is outside the usual {usual.low:g} to {usual.high:g}{whose} ({usual.known})."


def _peaks(recipe: Recipe) -> list[float]:
    return [recipe.rule.peak(recipe.base_lr, grid) for grid in recipe.grids]


def _is_photos(recipe: Recipe) -> bool:
    return recipe.data != "digits"


def _peak(recipe: Recipe) -> str | None:
    (usual,) = (usual for usual in PEAKS if usual.applies(recipe))
    peaks = _peaks(recipe)
    peak = max(peaks) if max(peaks) > usual.high else min(peaks)
    sentence = _outside(recipe, peak, usual, "the peak rate ")
    if sentence is None or recipe.optimizer in _ADAPTIVE:
        return sentence
    if peak > usual.high and recipe.optimizer not in _LARS:
        return f"{sentence} Rates that large are used with LARS."
    if peak < usual.low and recipe.optimizer in _LARS:
        return f"{sentence} Rates that small are used with sgd."
    return sentence


def _peak_of_photos(recipe: Recipe) -> str | None:
    """Look at the rate for 256 images: what is left of it when an unscaled or twice scaled rate meets a large batch."""
    if not _is_photos(recipe) or recipe.optimizer not in _MOMENTUM or recipe.scaling == "adascale":
        return None
    low, high = _PHOTO_SGD_PEAK
    for grid, peak in zip(recipe.grids, _peaks(recipe), strict=True):
        each = peak * 256 / grid.global_batch
        if not low <= each <= high:
            return (
                f"base_lr: a peak rate of {peak:g} at {grid.global_batch:,} images is {each:g} for 256, outside the usual "
                f"{low:g} to {high:g} (0.025 on the poster, 0.1 in Goyal et al. 2017, 1.03 in AlgoPerf; unscaled at 8,192 "
                "images Goyal et al. lost 18 points)."
            )
    return None


def _scaling(recipe: Recipe) -> str | None:
    if recipe.optimizer not in _ADAPTIVE:
        return None
    if recipe.scaling == "adascale":
        return f"scaling: adascale was derived for SGD; {recipe.optimizer} already divides by the gradient's size."
    factor = recipe.rule.factor(recipe.grid)
    if recipe.scaling in ("linear", "per-worker", "none-as-run") and factor != 1:
        return (
            f"scaling: {recipe.scaling} multiplies the rate of {recipe.optimizer} by {factor:g}; with adaptive optimizers "
            "sqrt is usual (You et al. 2020)."
        )
    return None


def _normalised(recipe: Recipe) -> str | None:
    low, high = _IMAGES_NORMALISED
    for grid in recipe.grids if _is_photos(recipe) else ():
        images = grid.images_per_worker * recipe.batchnorm_group(grid.num_workers)
        if not low <= images <= high:
            return (
                f"batchnorm: {recipe.batchnorm} normalises over {images:,} images; {low} to {high:,} are usual (32 in Goyal "
                "et al. 2017, 40 to 408 in MLPerf)."
            )
    return None


def _no_warmup(recipe: Recipe) -> str | None:
    batch = recipe.grid.global_batch
    takes = recipe.warmup.amount > 0 or recipe.scaling == "adascale" or recipe.optimizer not in (*_MOMENTUM, *_LARS)
    if takes or batch < _MANY_IMAGES or not _is_photos(recipe):
        return None
    return (
        f"warmup: none at {batch:,} images a step; known recipes with {_MANY_IMAGES:,} and more take about 630 steps "
        "(MLPerf), and without any Goyal et al. 2017 lost 1.1 points."
    )


def _adascale_base(recipe: Recipe) -> str | None:
    """AdaScale's base rate is that of one worker; a rate for the whole step would be scaled twice."""
    if recipe.scaling != "adascale" or recipe.optimizer not in _MOMENTUM:
        return None
    images = recipe.grid.images_per_worker
    if recipe.base_lr * 256 / images <= _PHOTO_SGD_PEAK[1] or (not _is_photos(recipe) and recipe.base_lr <= 1):
        return None
    return (
        f"base_lr: adascale takes the rate of one worker and multiplies it by up to {recipe.grid.num_workers}; "
        f"{recipe.base_lr:g} for {images:,} images looks like a rate that is scaled already."
    )


def _rising_decay(recipe: Recipe) -> str | None:
    if recipe.lr_decay in ("step", "constant") or recipe.final_lr <= min(_peaks(recipe)):
        return None
    return f"final_lr: {recipe.final_lr:g} is above the peak rate {min(_peaks(recipe)):g}: the rate rises to the end."


def _long_warmup(recipe: Recipe, num_train: int | None) -> str | None:
    length = recipe.rule.warmup(recipe.warmup, recipe.grid)
    if num_train is not None:
        plan = RunPlan(recipe, num_train)
        share = plan.warmup_steps / plan.total_steps
    elif length.unit == recipe.epochs.unit:
        share = float(length.amount / recipe.epochs.amount)
    else:
        return None
    if share > 1:
        return f"warmup: {length} is longer than the training of {recipe.epochs}: the peak rate is never reached."
    if share > _LONGEST_WARMUP:
        return f"warmup: {length} is {100 * share:.0f} % of the training of {recipe.epochs}; up to 35 % is usual (MLPerf)."
    return None


_CHECKS: tuple[Callable[[Recipe], str | None], ...] = (
    _peak,
    _peak_of_photos,
    _scaling,
    _normalised,
    _no_warmup,
    _adascale_base,
    _rising_decay,
)
