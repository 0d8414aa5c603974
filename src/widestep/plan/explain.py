"""A recipe in sentences: what trains on what, how the rate runs, what every step applies."""

from widestep.plan.duration import Duration
from widestep.plan.recipe import Exemption, Recipe
from widestep.plan.runplan import RunPlan

EXEMPT: dict[Exemption, str] = {
    "none": "every parameter",
    "batchnorm": "all but the scales and shifts of batch normalisation",
    "batchnorm+bias": "all but the scales and shifts of batch normalisation and the biases",
}
"""What an exemption leaves."""

RUNNING = {
    "mean": "the mean of the workers' running statistics",
    "worker0": "the running statistics of worker 0 alone",
    "pooled": "the mean of the workers' running statistics with the variance of their means added",
    "last": "the statistics of the last step",
    "precise": "statistics computed anew from training images",
}
"""What evaluation normalises with."""

RESTS_ON: dict[str, frozenset[str]] = {
    "data": frozenset(("data", "augment", "epochs")),
    "workers": frozenset(("grid", "worker_ramp")),
    "rate": frozenset(("base_lr", "scaling", "reference_batch", "grid")),
    "warmup": frozenset(
        ("warmup", "warmup_shape", "warmup_power", "warmup_start", "warmup_first", "warmup_overshoot", "scaling", "grid")
    ),
    "decay": frozenset(("lr_decay", "decay_at", "decay_factor", "decay_power", "decay_end", "final_lr")),
    "optimizer": frozenset(("optimizer",)),
    "regularisation": frozenset(("weight_decay", "decay_exempt", "label_smoothing", "dropout", "clip_norm")),
    "initial": frozenset(("zero_gamma", "classifier_std")),
    "batchnorm": frozenset(("batchnorm", "batchnorm_running", "batchnorm_momentum", "grid")),
    "arithmetic": frozenset(("precision",)),
}
"""By topic, the fields whose values a recipe's reason is for; it says nothing about other values of them."""


def explain(recipe: Recipe, num_train: int) -> dict[str, str]:
    """Explain a recipe on `num_train` images.

    Returns
    -------
    A sentence or a few by topic: data, workers, length, rate, warmup, decay, optimizer, regularisation, initial, batchnorm,
    evaluation, arithmetic.

    Raises
    ------
    UsageError
        When the recipe cannot be planned on so many images.

    Examples
    --------
    >>> explain(Recipe(), 960)["rate"]
    'The peak rate is 0.18: 0.045 @ 1 worker x 4 workers -> 0.18.'
    """
    plan = RunPlan(recipe, num_train)
    return {
        "data": _data(plan),
        "workers": _workers(plan),
        "length": _length(plan),
        "rate": _peak(recipe),
        "warmup": _warmup(plan),
        "decay": _decay(plan),
        "optimizer": f"{recipe.optimizer}: {formula(recipe)}.",
        "regularisation": _regularisation(recipe),
        "initial": _initial(recipe),
        "batchnorm": _batchnorm(recipe),
        "evaluation": _evaluation(plan),
        "arithmetic": _arithmetic(recipe),
    }


def formula(recipe: Recipe) -> str:
    """Return the step of the optimizer in one line, with its constants; w are weights, g is the averaged gradient.

    Examples
    --------
    >>> formula(Recipe())
    'v = 0.9 v + d; w -= rate v, with d = g + 5e-05 w'
    """
    m, decay = f"{recipe.momentum:g}", f"{recipe.weight_decay:g}"
    direction = f"with d = g + {decay} w" if recipe.weight_decay else "with d = g"
    match recipe.optimizer:
        case "sgd":
            return f"v = {m} v + d; w -= rate v, {direction}"
        case "nesterov":
            return f"v = {m} v + d; w -= rate (d + {m} v), {direction}"
        case "lars-tf":
            return f"v = {m} v + rate t d; w -= v, {direction}, {_trust(recipe)}"
        case "lars-torch":
            return f"v = {m} v + t d; w -= rate v, {direction}, {_trust(recipe)}"
        case "lars-nus":
            return f"v = {m} v + d; w -= rate t v, {direction}, {_trust(recipe)}"
        case "adamw":
            return f"w -= rate (r + {decay} w), {_adam(recipe)}"
        case "lamb":
            return f"w -= rate t (r + {decay} w), {_adam(recipe)}, t = |w| / |r + {decay} w|, 1 on {_untrusted(recipe)}"
        case "rmsprop-sgd":
            return (
                f"s = {recipe.beta2:g} s + {1 - recipe.beta2:g} d^2; v = {m} v - (a + (1 - a) ({recipe.rmsprop_lr:g} / rate)"
                f" / (sqrt(s) + {recipe.epsilon:g})) d; w += rate v, {direction}; a rises to 1/2 within "
                f"{_words(recipe.blend_centre)} and to 1 within half of {_words(recipe.blend_period)} more"
            )


def _trust(recipe: Recipe) -> str:
    below = f"|g| + {recipe.weight_decay:g} |w|" if recipe.weight_decay else "|g|"
    below += f" + {recipe.trust_epsilon:g}" if recipe.trust_epsilon else ""
    return f"t = {recipe.trust_coefficient:g} |w| / ({below}), 1 on {_untrusted(recipe)}"


def _untrusted(recipe: Recipe) -> str:
    return {
        "none": "tensors of norm 0",
        "batchnorm": "scales and shifts of batch normalisation",
        "batchnorm+bias": "scales and shifts of batch normalisation and on biases",
    }[recipe.trust_exempt]


def _adam(recipe: Recipe) -> str:
    return (
        f"with m = {recipe.beta1:g} m + {1 - recipe.beta1:g} g, s = {recipe.beta2:g} s + {1 - recipe.beta2:g} g^2 and "
        f"r = m' / (sqrt(s') + {recipe.epsilon:g}), m' and s' corrected for their start at 0"
    )


def _data(plan: RunPlan) -> str:
    recipe = plan.recipe
    size = f" of {recipe.image_size} x {recipe.image_size} pixels" if recipe.image_size else ""
    change = "" if recipe.augment == "none" else f", changed at random by {recipe.augment}"
    return f"{recipe.model} trains on {plan.num_train:,} images{size} ({recipe.data}){change}."


def _workers(plan: RunPlan) -> str:
    grid = plan.recipe.grid
    text = (
        f"{grid.num_nodes:,} node(s) x {grid.workers_per_node:,} = {grid.num_workers:,} worker(s) take "
        f"{grid.images_per_worker:,} images each: {grid.global_batch:,} a step."
    )
    for stage in plan.timeline.stages[1:]:
        later = stage.shape.grid
        text += f" From epoch {stage.first_epoch} on there are {later.num_workers:,}: {later.global_batch:,} a step."
    return text


def _length(plan: RunPlan) -> str:
    recipe, shape = plan.recipe, plan.timeline.stages[0].shape
    given = "" if recipe.epochs.unit == "st" else f"{_words(recipe.epochs)} = "
    counted = " of one worker, fewer of all together" if recipe.scaling == "adascale" else ""
    text = f"{given}{plan.total_steps:,} steps{counted}, {shape.steps:,} an epoch; {shape.describe()}."
    for stage in plan.timeline.stages[1:]:
        text += f" From epoch {stage.first_epoch} on {stage.shape.steps:,} an epoch; {stage.shape.describe()}."
    return text


def _words(length: Duration) -> str:
    unit = {"ep": "epoch", "st": "step", "im": "image"}[length.unit]
    amount = int(length.amount) if length.amount.denominator == 1 else float(length.amount)
    return f"{amount:,} {unit}{'' if amount == 1 else 's'}"


def _peak(recipe: Recipe) -> str:
    if recipe.scaling == "none":
        return f"The peak rate is {recipe.peak_lr:g}, whatever the batch."
    return f"The peak rate is {recipe.peak_lr:g}: {recipe.rule.derivation(recipe.base_lr, recipe.grid)}."


def _rate(plan: RunPlan, step: int) -> str:
    """Say the rate of a step; under adascale, that of a step of one worker."""
    rate = plan.schedule(step) if plan.recipe.scaling == "adascale" else plan.lr(step)
    return f"{rate:.6g}"


def _warmup(plan: RunPlan) -> str:
    recipe, num_steps = plan.recipe, plan.warmup_steps
    if num_steps == 0:
        return f"None: the first step has the rate {_rate(plan, 0)}."
    epochs = "" if recipe.scaling == "adascale" else f" = {plan.epochs_after(num_steps):.4g} epochs"
    text = f"{num_steps:,} step(s){epochs}, {recipe.warmup_shape}: step 0 has the rate {_rate(plan, 0)}"
    for step in (num_steps - 1, num_steps):
        if 0 < step < plan.total_steps:
            text += f", step {step:,} has {_rate(plan, step)}"
    return f"{text}."


def _decay(plan: RunPlan) -> str:
    recipe, last = plan.recipe, plan.total_steps - 1
    end = f"The last step, {last:,}, has {_rate(plan, last)}."
    if recipe.lr_decay == "constant":
        return f"None: the rate stays. {end}"
    if recipe.lr_decay == "step":
        factors = recipe.decay_factor * (len(recipe.decay_at) if len(recipe.decay_factor) == 1 else 1)
        points = [_point(plan, at, factor) for at, factor in zip(recipe.decay_at, factors, strict=True)]
        return f"By steps: {'; '.join(points) or 'none'}. {end}"
    shape = f"(1 - t)^{recipe.decay_power:g}" if recipe.lr_decay == "polynomial" else recipe.lr_decay
    arrival = "the end" if recipe.decay_end is None else _place(plan, recipe.decay_end)
    return f"After the warmup {shape}, to {recipe.final_lr:g} at {arrival}. {end}"


def _point(plan: RunPlan, at: Duration, factor: float) -> str:
    text = f"x {factor:.6g} at {_place(plan, at)}"
    if plan.recipe.scaling == "adascale":
        return text
    step = plan.timeline.steps(at)
    return f"{text} to {_rate(plan, step)}" if step < plan.total_steps else f"{text}, after the end"


def _place(plan: RunPlan, at: Duration) -> str:
    """Say where in training a length ends."""
    if plan.recipe.scaling == "adascale":
        return f"{_words(at)} of one worker"
    step = plan.timeline.steps(at)
    return f"epoch {plan.epochs_after(step):.6g} = step {step:,}"


def _regularisation(recipe: Recipe) -> str:
    decay = f"Weight decay {recipe.weight_decay:g} on {EXEMPT[recipe.decay_exempt]}"
    smoothing = f"label smoothing {recipe.label_smoothing:g}" if recipe.label_smoothing else "plain cross entropy"
    parts = [decay if recipe.weight_decay else "No weight decay", smoothing]
    if recipe.dropout:
        parts.append(f"dropout {recipe.dropout:g} before the classifier")
    if recipe.clip_norm is not None:
        parts.append(f"gradients of a norm above {recipe.clip_norm:g} shortened to it")
    return f"{', '.join(parts)}."


def _initial(recipe: Recipe) -> str:
    zero = ", that of the last in each residual block at 0" if recipe.zero_gamma else ""
    classifier = "uniform" if recipe.classifier_std is None else f"normal with standard deviation {recipe.classifier_std:g}"
    return f"Scales of batch normalisation start at 1{zero}; the classifier is {classifier}; seed {recipe.seed}."


def _batchnorm(recipe: Recipe) -> str:
    grid = recipe.grid
    images = recipe.batchnorm_group(grid.num_workers) * grid.images_per_worker
    passes = recipe.passes_of(images)
    whose = {"local": "of each worker", "sync": "of the global batch"}.get(recipe.batchnorm, "of neighbouring workers")
    over = f"the {images:,} images {whose}"
    if len(passes) > 1:
        fewest, most = len(passes[0]), max(map(len, passes))
        over = f"the {_range(fewest, most)} images of each of the {len(passes):,} forward passes of a worker"
    return (
        f"{recipe.batchnorm}: over {over}. Running statistics move by {recipe.batchnorm_momentum:g} a step; evaluation uses "
        f"{RUNNING[recipe.batchnorm_running]}."
    )


def _range(fewest: int, most: int) -> str:
    return f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _evaluation(plan: RunPlan) -> str:
    recipe = plan.recipe
    each = "every image" if recipe.val_images is None else f"each of {recipe.val_images:,} images spread over all"
    how = f"{each} once" if recipe.evaluation == "exact" else "as the mean over workers of the mean of their batches"
    often = "epoch" if str(recipe.evaluate_every) == "1ep" else _words(recipe.evaluate_every)
    limit = "at most " if recipe.scaling == "adascale" else ""
    return f"Every {often} and at the end, {limit}{plan.num_evaluations:,} time(s): {how}."


def _arithmetic(recipe: Recipe) -> str:
    parts = [f"{recipe.mode}, {recipe.precision}{' with TF32' if recipe.tf32 else ''}"]
    num_workers = recipe.grid.num_workers
    passes = recipe.passes_of(recipe.grid.images_per_worker)
    if len(passes) > 1:
        parts.append(f"{len(passes):,} forward passes a worker, at most {recipe.images_per_forward:,} images each")
    else:
        parts.append(f"{min(num_workers, recipe.workers_per_block(num_workers)):,} worker(s) a forward pass")
    if recipe.channels_last:
        parts.append("channels last")
    if recipe.compile != "none":
        parts.append(f"compiled ({recipe.compile})")
    if recipe.compression != "none":
        parts.append(f"gradients exchanged as {recipe.compression}")
    if recipe.stack > 1:
        parts.append(f"stacks of {recipe.stack}")
    return f"{', '.join(parts)}."
