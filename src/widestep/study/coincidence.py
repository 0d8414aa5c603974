"""Settings that differ and yet did the same: pairs of them, and what is said of all pairs that differ in the same fields.

A pair is judged by whoever calls, from plans before anything runs or from ledgers and weights afterwards. When every pair
that differs in certain fields alone did the same, one statement says so of the fields; otherwise each has its own.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from widestep.plan.recipe import Recipe

Kind = Literal["same", "applied", "planned", "without-effect", "measured", "elsewhere"]

_MOST_LISTED = 6
_CHANCE = "different environments"
_STATISTICS, _EVALUATION = "the running statistics, which evaluation uses", "evaluation"

RATE_FIELDS = (
    frozenset(("base_lr", "scaling", "reference_batch", "final_lr"))
    | frozenset(("warmup", "warmup_shape", "warmup_power", "warmup_start", "warmup_first", "warmup_overshoot"))
    | frozenset(("lr_decay", "decay_at", "decay_factor", "decay_power", "decay_end"))
)
"""Fields that act through the planned rate of each step and through nothing else, AdaScale's gain apart."""

ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("data", "train_images", "image_size", "evaluation_resize"), "the images themselves"),
    "augment": "the pixels of the images",
    "bad_images": "which images take the place of damaged ones",
    "model": "the network",
    "dropout": "the forward pass",
    **dict.fromkeys(("zero_gamma", "classifier_std"), "the initial weights"),
    "label_smoothing": "the loss",
    **dict.fromkeys(("optimizer", "momentum", "beta1", "beta2", "epsilon"), "the optimizer's update"),
    **dict.fromkeys(("trust_coefficient", "trust_epsilon", "trust_exempt"), "the optimizer's update"),
    **dict.fromkeys(("rmsprop_lr", "blend_centre", "blend_period"), "the optimizer's update"),
    **dict.fromkeys(("decay_exempt",), "which tensors are decayed"),
    **dict.fromkeys(("batchnorm_momentum", "batchnorm_running"), _STATISTICS),
    **dict.fromkeys(("batchnorm_recompute", "batchnorm_images"), _STATISTICS),
    **dict.fromkeys(("workers_per_forward", "worker_norms", "stack", "threads"), "the order of sums, so rounding"),
    **dict.fromkeys(("precision", "tf32", "memory_format", "compile", "compression", "mode"), "rounding"),
    "images_per_forward": "the images that batch normalisation sees together",
    **dict.fromkeys(("evaluate_every", "images_per_evaluation", "val_images", "evaluation"), _EVALUATION),
}
"""Fields whose effect a ledger does not show, or not wholly, and what they act on."""


@dataclass(frozen=True)
class Statement:
    """One thing that an audit found; the field names are those of audit.json.

    Parameters
    ----------
    kind
        `same`: recipes that differ applied the same and gave the same bytes. `applied`: they applied the same at every
        step and differ in nothing that acts otherwise; the weights differ for another reason. `planned`: the same rates at
        every step are planned. `without-effect`: a field is set that has none. `measured`: the same weights, evaluated
        differently. `elsewhere`: the same was applied and the weights differ.
    settings, recipes
        The settings concerned, by name and by the fingerprint of the recipe with seed 0.
    num_pairs, num_uses
        Pairs of settings that the statement is about, and all pairs that differ in these fields alone and could be compared.
    num_seeds, num_steps
        Seeds and steps compared; where pairs or seeds have different numbers, the smallest.
    """

    kind: Kind
    text: str
    fields: list[str]
    settings: list[str]
    recipes: list[str]
    num_pairs: int = 0
    num_uses: int = 0
    num_seeds: int = 0
    num_steps: int = 0

    def record(self) -> dict[str, Any]:
        """Return the statement as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Judged:
    """What became of a pair that could be compared.

    Parameters
    ----------
    kind
        The kind of statement that it is worth; None when what was applied differs.
    num_seeds, num_steps, num_taken
        Seeds compared; the smallest numbers of steps that both recorded, and that were taken, in one of them.
    num_unread, num_diverged
        Further seeds: complete in both without two usable ledgers; diverged in both alike.
    """

    kind: Kind | None
    num_seeds: int = 0
    num_steps: int = 0
    num_taken: int = 0
    num_unread: int = 0
    num_diverged: int = 0


@dataclass(frozen=True)
class Variant:
    """A recipe without regard to its seed.

    Parameters
    ----------
    names
        The names that it has, each with the arm.
    key
        Its fingerprint with seed 0.
    values
        Its fields but the seed as text, as `texts` returns them.
    """

    names: tuple[tuple[str, str], ...]
    key: str
    values: dict[str, str]


@dataclass(frozen=True)
class Pair:
    """Two variants, the fields in which they differ, and how they compare."""

    first: Variant
    second: Variant
    fields: tuple[str, ...]
    judged: Judged


def texts(recipe: Recipe) -> dict[str, str]:
    """Return all fields but the seed as text, for example `12ep, 24ep` or `none`."""
    return {name: _text(value) for name, value in recipe.values().items() if name != "seed"}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return "none" if value is None else str(value)


def statements(variants: Sequence[Variant], judge: Callable[[int, int], Judged | None]) -> tuple[list[Statement], int]:
    """Judge all pairs of variants and say what is worth saying, in the order of the variants.

    Parameters
    ----------
    judge
        Compares two variants, given by their places in `variants`, without reading anything again; None when it cannot.

    Returns
    -------
    The statements, and how many pairs could be compared.
    """
    varied = [name for name in Recipe.model_fields if name != "seed" and len({one.values[name] for one in variants}) > 1]
    table = [[one.values[name] for name in varied] for one in variants]
    found: defaultdict[tuple[Kind, tuple[str, ...]], list[Pair]] = defaultdict(list)
    uses: Counter[tuple[str, ...]] = Counter()
    for i, j in itertools.combinations(range(len(variants)), 2):
        judged = judge(i, j)
        if judged is None:
            continue
        fields = tuple(name for name, a, b in zip(varied, table[i], table[j], strict=True) if a != b)
        uses[fields] += 1
        if judged.kind is not None:
            found[_kind(judged.kind, judged, fields), fields].append(Pair(variants[i], variants[j], fields, judged))
    said = []
    for (kind, fields), pairs in found.items():
        everywhere = len(pairs) == uses[fields]
        if everywhere and _follows(
            fields, [other for like, other in found if kind in ("measured", "elsewhere") or like == kind]
        ):
            continue
        groups = [pairs] if everywhere or kind in ("measured", "elsewhere") else [[pair] for pair in pairs]
        said += [_statement(kind, group, uses[fields]) for group in groups]
    return said, uses.total()


def _kind(kind: Kind, judged: Judged, fields: tuple[str, ...]) -> Kind:
    """Return the kind of statement that a pair is worth, given the fields in which it differs."""
    if kind == "elsewhere" and RATE_FIELDS.issuperset(fields) and judged.num_steps == judged.num_taken:
        return "applied"
    if kind == "measured" and not any(ELSEWHERE.get(name) in (_STATISTICS, _EVALUATION) for name in fields):
        return "same"
    return kind


def _follows(fields: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> bool:
    """Say whether a difference in these fields is made up of smaller ones that are stated themselves."""
    smaller = [set(other) for other in others if set(other) < set(fields)]
    return set().union(*smaller) == set(fields)


def _statement(kind: Kind, pairs: Sequence[Pair], num_uses: int) -> Statement:
    judged = [pair.judged for pair in pairs]
    names = list(dict.fromkeys(name for pair in pairs for name in _names(pair)))
    keys = list(dict.fromkeys(one.key for pair in pairs for one in (pair.first, pair.second)))
    return Statement(
        kind=kind,
        text=f"{_what(pairs)} {_did(kind, pairs, num_uses)} ({listed(names, '; ')})",
        fields=list(pairs[0].fields),
        settings=names,
        recipes=keys,
        num_pairs=len(pairs),
        num_uses=num_uses,
        num_seeds=min(one.num_seeds for one in judged),
        num_steps=min(one.num_steps for one in judged),
    )


def _names(pair: Pair) -> tuple[str, str]:
    """Return the names that a pair has in an arm that holds both, or else their first names."""
    others = dict(reversed(pair.second.names))
    both = ((name, others[arm]) for arm, name in pair.first.names if arm in others)
    return next(both, (pair.first.names[0][1], pair.second.names[0][1]))


def _what(pairs: Sequence[Pair]) -> str:
    """Name the values between which nothing changed, for example `scaling per-worker against none-as-run`."""
    fields = pairs[0].fields
    every = [tuple(one.values[name] for name in fields) for pair in pairs for one in (pair.first, pair.second)]
    values = list(dict.fromkeys(every))
    if len(fields) == 1:
        words = [value for (value,) in values]
        return f"{fields[0]} " + (" against ".join(words) if len(words) == 2 else listed(words))
    words = [" with ".join(f"{name} {value}" for name, value in zip(fields, value, strict=True)) for value in values]
    return " against ".join(words) if len(words) == 2 else listed(words, "; ")


def _did(kind: Kind, pairs: Sequence[Pair], num_uses: int) -> str:
    judged = [pair.judged for pair in pairs]
    seeds, steps = _count([one.num_seeds for one in judged], "seed"), _count([one.num_steps for one in judged], "")
    uses = "" if len(pairs) == 1 else f", in all {len(pairs)} pairs of settings that differ in nothing else"
    if 1 < len(pairs) < num_uses:
        uses = f", in {len(pairs)} of {num_uses} pairs of settings that differ in nothing else"
    rest = uses + _remarks(judged)
    match kind:
        case "planned":
            return f"changes no planned rate at any of the {steps} steps{uses}"
        case "measured":
            return f"trained the same weights, byte for byte, in {seeds}: only what was measured differs{rest}"
        case "elsewhere":
            said = f"applied the same at all {steps} recorded steps in {seeds}{rest}, and the weights differ"
            return f"{said}: {_because(pairs)}"
        case "applied":
            weights = f"the weights differ for another reason, for example {_CHANCE}"
        case _:
            weights = "the weights are the same bytes"
    return f"changed nothing that was applied at any of the {steps} recorded steps in {seeds}{rest}; {weights}"


def _because(pairs: Sequence[Pair]) -> str:
    acts = [f"{name} acts on {ELSEWHERE[name]}" for name in pairs[0].fields if name in ELSEWHERE]
    if acts:
        return " and ".join(acts)
    if any(pair.judged.num_steps < pair.judged.num_taken for pair in pairs):
        return f"what was applied differs at steps that were not recorded, or the reason is another, for example {_CHANCE}"
    return f"the reason is another, for example {_CHANCE}"


def _remarks(judged: Sequence[Judged]) -> str:
    unread, diverged = (max(getattr(one, name) for one in judged) for name in ("num_unread", "num_diverged"))
    words = f", {_count([unread], 'seed')} more without two usable ledgers" if unread else ""
    return words + (f", {_count([diverged], 'seed')} more diverged alike" if diverged else "")


def _count(numbers: Sequence[int], unit: str) -> str:
    """Return a number, or the range of several, with its unit."""
    low, high = min(numbers), max(numbers)
    words = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{words} {unit}{'' if high == 1 else 's'}" if unit else words


def listed(words: Sequence[str], separator: str = ", ") -> str:
    """Return words as a list that stays short.

    Examples
    --------
    >>> listed(["a", "b"]), listed([str(n) for n in range(9)])
    ('a and b', '0, 1, 2, 3, 4, 5 and 3 more')
    """
    shown = list(words[:_MOST_LISTED])
    if len(words) > _MOST_LISTED:
        return f"{separator.join(shown)} and {len(words) - _MOST_LISTED} more"
    if separator != ", " or len(shown) < 2:
        return separator.join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
