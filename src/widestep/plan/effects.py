"""Fields that cannot change anything, given the others of a recipe: an option that has no effect is caught by name."""

from collections.abc import Iterator

from widestep.plan.recipe import Recipe

_ADAPTIVE = ("adamw", "lamb")
_SQUARES = (*_ADAPTIVE, "rmsprop-sgd")
_ARRIVING = ("cosine", "polynomial", "linear", "exponential")
_FLAT = "the warmup starts at the peak rate"
_SHAPES_OF_WARMUP = ("warmup_shape", "warmup_power", "warmup_first")


def without_effect(recipe: Recipe) -> dict[str, str]:
    """Return the fields that were set to another value than the default and cannot change anything, each with the reason.

    Whatever `idle` says of fields at their default is of no interest to who set none of them. Besides those, a few values
    other than the default come to the same as it: scaling = none-as-run leaves every rate as per-worker has it.

    Examples
    --------
    >>> without_effect(Recipe(optimizer="adamw", momentum=0.8, lr_decay="cosine"))
    {'momentum': 'adamw averages gradients with beta1'}
    """
    changed = {name for name, field in Recipe.model_fields.items() if getattr(recipe, name) != field.default}
    found = {**_equal_to_default(recipe), **idle(recipe)}
    return {name: found[name] for name in Recipe.model_fields if name in changed and name in found}


def idle(recipe: Recipe) -> dict[str, str]:
    """Return the fields whose value does not matter, whatever it is, given the other fields, each with the reason.

    It is decided from the recipe alone: what depends on the number of training images (a tail policy where no image is left
    over) or on the machine (TF32 on a processor) is not looked for.

    Examples
    --------
    >>> idle(Recipe(lr_decay="constant"))["decay_at"]
    'a constant decay has no points'
    """
    parts = (_of_data, _of_optimizer, _of_rate, _of_warmup, _of_statistics)
    found: dict[str, str] = {}
    for field, reason in (pair for part in parts for pair in part(recipe)):
        found.setdefault(field, reason)
    return found


def _of_data(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.data == "digits":
        yield "bad_images", "none of the digits is damaged"


def _of_optimizer(recipe: Recipe) -> Iterator[tuple[str, str]]:
    name = recipe.optimizer
    if name in _ADAPTIVE:
        yield "momentum", f"{name} averages gradients with beta1"
    else:
        yield "beta1", f"{name} averages gradients with momentum"
    if name not in _SQUARES:
        for field in ("beta2", "epsilon"):
            yield field, f"{name} does not look at squared gradients"
    if not name.startswith("lars"):
        for field in ("trust_coefficient", "trust_epsilon"):
            yield field, f"{name} is not LARS"
        if name != "lamb":
            yield "trust_exempt", f"{name} has no trust ratio"
    if name != "rmsprop-sgd":
        for field in ("rmsprop_lr", "blend_centre", "blend_period"):
            yield field, f"{name} is not blended with RMSprop"
    if recipe.weight_decay == 0:
        yield "decay_exempt", "no parameter has weight decay"


def _of_rate(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.scaling in ("none", "adascale"):
        yield "reference_batch", "the rate is not scaled" if recipe.scaling == "none" else "its reference is one worker"
    if recipe.scaling != "adascale":
        yield "adascale_smoothing", f"scaling is {recipe.scaling}"
    shape = recipe.lr_decay
    if shape != "step":
        for field in ("decay_at", "decay_factor"):
            yield field, f"a {shape} decay has no points"
    elif set(recipe.decay_factor) == {1.0}:
        yield "decay_at", "a factor of 1 changes no rate"
    elif all(point.unit == recipe.epochs.unit and point.amount >= recipe.epochs.amount for point in recipe.decay_at):
        yield "decay_factor", "no point of decay_at is before the end of training"
    if shape != "polynomial":
        yield "decay_power", f"a {shape} decay has no exponent"
    if shape not in _ARRIVING:
        for field in ("decay_end", "final_lr"):
            yield field, f"a {shape} decay arrives nowhere"


def _of_warmup(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.warmup.amount == 0:
        for field in (*_SHAPES_OF_WARMUP, "warmup_start", "warmup_overshoot"):
            yield field, "there is no warmup"
        return
    if _is_flat(recipe):
        lasts = recipe.lr_decay == "constant"  # every other decay begins to act where the warmup ends
        for field in (*_SHAPES_OF_WARMUP, "warmup", "warmup_overshoot") if lasts else _SHAPES_OF_WARMUP:
            yield field, _FLAT
    elif recipe.warmup_shape == "constant":
        yield "warmup_first", "a constant warmup has no increments"
    if recipe.warmup_shape != "polynomial":
        yield "warmup_power", f"a {recipe.warmup_shape} warmup has no exponent"
    if recipe.warmup.unit == "ep" and recipe.warmup.amount.denominator == 1 and recipe.scaling != "legw":
        yield "warmup_overshoot", "the warmup ends where an epoch ends"


def _is_flat(recipe: Recipe) -> bool:
    """Say whether a warmup that starts at a rate has nothing to rise to, whatever the workers."""
    start = (
        recipe.base_lr if recipe.warmup_start == "base" else 0.0 if recipe.warmup_start == "zero" else recipe.warmup_start
    )
    return all(float(start) >= recipe.rule.peak(recipe.base_lr, grid) for grid in recipe.grids)


def _ends_before_the_decay(recipe: Recipe) -> bool:
    """Say whether the warmup, and one of the default length, end before the first step of the decay."""
    lengths = [recipe.rule.warmup(length, recipe.grid) for length in (recipe.warmup, Recipe.model_fields["warmup"].default)]
    pairs = [(length, at) for length in lengths for at in recipe.decay_at]
    return all(length.unit == at.unit and length.amount <= at.amount for length, at in pairs)


def _of_statistics(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.batchnorm_running == "precise":
        yield "batchnorm_recompute", "precise statistics are always computed anew"
    elif recipe.batchnorm_running == "last":
        for field in ("batchnorm_recompute", "batchnorm_images"):
            yield field, "the statistics of the last step are used from the first step on"
    elif recipe.batchnorm_recompute == "never":
        yield "batchnorm_images", "no statistics are computed anew"
    if recipe.scaling == "adascale":
        yield "worker_norms", "adascale always has the norms of the workers' gradients"


def _equal_to_default(recipe: Recipe) -> dict[str, str]:
    """Return the fields whose value comes to the same as the default, each with the reason."""
    found = {}
    num_workers = recipe.grid.num_workers
    groups = num_workers // recipe.batchnorm_group(num_workers)
    if recipe.scaling == "none-as-run":
        found["scaling"] = "the rate is overwritten before every step: all rates are those of per-worker"
    if recipe.channels_last == recipe.model_copy(update={"memory_format": "auto"}).channels_last:
        found["memory_format"] = f"auto, too, is {'channels_last' if recipe.channels_last else 'contiguous'} here"
    if len(recipe.passes_of(recipe.grid.images_per_worker)) == 1:
        found["images_per_forward"] = "the images of a worker are no more"
    if recipe.optimizer == "nesterov" and recipe.momentum == 0:
        found["optimizer"] = "without momentum nesterov is sgd"
    if recipe.warmup.amount > 0 and recipe.lr_decay == "step" and _is_flat(recipe) and _ends_before_the_decay(recipe):
        found["warmup"] = _FLAT
    if recipe.worker_ramp:
        return found
    if num_workers == 1 and recipe.scaling == "none":
        found["scaling"] = "with one worker all rates are those of per-worker"
    if recipe.batchnorm_group(num_workers) == 1:
        found["batchnorm"] = "a group is one worker, as with local"
    if groups == 1 and recipe.batchnorm_running in ("worker0", "pooled"):
        found["batchnorm_running"] = "one group of workers: its statistics are their mean"
    block = _block(recipe, recipe.workers_per_forward)
    if block == _block(recipe, Recipe.model_fields["workers_per_forward"].default):
        found["workers_per_forward"] = f"with 1, too, a forward pass would take {block} worker(s)"
    return found


def _block(recipe: Recipe, workers_per_forward: int) -> int:
    num_workers = recipe.grid.num_workers
    changed = recipe.model_copy(update={"workers_per_forward": workers_per_forward})
    return min(changed.workers_per_block(num_workers), num_workers)
