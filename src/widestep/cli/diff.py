"""`widestep diff`: two runs, identical to which step; or two recipes, in words."""

import json as json_module
from dataclasses import asdict
from pathlib import Path

from widestep.data.facts import describe
from widestep.errors import UsageError, WidestepError
from widestep.plan import recipes
from widestep.plan.contrast import contrast
from widestep.plan.recipe import Recipe, differences
from widestep.records.compare import Comparison, compare
from widestep.records.run import Run, open_existing


def diff(first: str, second: str, *, json: bool = False) -> int:
    """Compare two run directories step by step, or two recipes.

    Runs: says up to which step they are identical, or the first step and tensor that
    differ (train with --digests true to have the tensors of every step).
    Recipes: says in words what differs and what it means for training.

    For example:
      widestep diff runs/one runs/two
      widestep diff poster poster-as-run
      widestep diff digits my.toml --json

    Parameters
    ----------
    first
        A run directory, the name of a shipped recipe, or a recipe file.
    second
        Another one of the same kind.
    json
        Print as JSON.
    """
    are_runs = [Path(name).is_dir() for name in (first, second)]
    if any(are_runs) and not all(are_runs):
        raise UsageError(
            f"Two runs or two recipes can be compared. {(second, first)[are_runs[1]]!r} is no directory; of a run's recipe "
            "give the file recipe.toml."
        )
    if all(are_runs):
        return _diff_runs(open_existing(Path(first)), open_existing(Path(second)), json)
    return _diff_recipes(first, second, json)


def _diff_recipes(first: str, second: str, as_json: bool) -> int:
    a, b = recipes.load(first).recipe, recipes.load(second).recipe
    differing, words = differences(a, b), contrast(a, b, _num_train(a, b))
    if as_json:
        fields = {name: list(values) for name, values in differing.items()}
        print(json_module.dumps({"equal": not differing, "fields": fields, "words": words}, indent=2))
        return 0
    for line in words or ["The recipes are the same in every field."]:
        print(line)
    return 0


def _num_train(a: Recipe, b: Recipe) -> tuple[int, int] | None:
    """Return how many images the two train on, or None when the data of one cannot be looked at here."""
    try:
        found = [describe(one.data, train_images=one.train_images, image_size=one.image_size).num_train for one in (a, b)]
    except WidestepError:
        return None
    return found[0], found[1]


def _diff_runs(first: Run, second: Run, as_json: bool) -> int:
    found = compare(first, second)
    words = contrast(first.recipe, second.recipe, _num_train(first.recipe, second.recipe))
    if as_json:
        record = {"equal": found.equal, **asdict(found), "recipes": words}
        print(json_module.dumps(record, indent=2))
        return 0
    for line in words:
        print(f"recipe     {line}")
    for line in described(found):
        print(line)
    return 0


def described(found: Comparison) -> list[str]:
    """Say in lines what two runs have in common."""
    lines = []
    if found.last_equal_step is not None:
        every = "all" if found.difference is None or found.difference.step is None else "the first of"
        lines.append(f"identical  to step {found.last_equal_step} ({every} {found.num_steps:,} steps that both recorded)")
    elif found.num_steps == 0:
        lines.append("unknown    the runs have no recorded step in common")
    if found.same_weights is not None:
        lines.append(f"weights    the final weights {'are the same bytes' if found.same_weights else 'differ'}")
    if found.difference is not None:
        lines.append(f"differ     {found.difference.describe()}")
    return lines
