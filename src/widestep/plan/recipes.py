"""Recipes by name or file: the named ones are TOML files beside this module, each with source and verified status.

A file may hold variants of its recipe, such as one for every batch: `NAME:VARIANT` is one of them, `NAME` the recipe itself.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from widestep.errors import UsageError
from widestep.plan.consistency import check_given
from widestep.plan.execution import Execution
from widestep.plan.fields import Conflict, Misfit, build, perhaps, replaced, shown
from widestep.plan.recipe import Recipe
from widestep.plan.settings_file import KeyPath, SettingsFile, is_file, read_text

OF_EXECUTION = {
    name: f"It decides no weight, so it is no part of a recipe: give --{name.replace('_', '-')} on the command line."
    for name in Execution.model_fields
}
"""What is said of fields of an execution where those of a recipe are expected."""


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe with what is known about it.

    Parameters
    ----------
    name
        As it was asked for: `mlperf-lars`, `mlperf-lars:32768`, `mine.toml`.
    about
        Of a shipped recipe: `summary`, `source` (where the settings come from), `expected` (what they should give),
        `verified` (what we have seen ourselves), `status` (`sure`, or `experimental` where settings are second-hand or were
        never run), `assumed` (`FIELD, FIELD: why` for what the source does not give). Some also have `second_hand` (fields
        whose values are rounded or reported by others), `quirks` (`FIELD: what it does`), `expected_results` (tables of
        batch in images a step, accuracy in %, sd in points, n and others), `why` (a sentence by topic of `explain`) and
        `num_train` (training images of its data, for who reads it without the files). Of a file, whatever its table [about]
        holds.
    variants
        Names of the variants of its file.
    given
        The fields that its file gives; none where it gives all, as what a run writes down does: it may have been cut short.
    """

    name: str
    recipe: Recipe
    about: Mapping[str, Any]
    variants: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()


def names() -> list[str]:
    """Return the names of the shipped recipes, without variants."""
    return sorted(item.name.removesuffix(".toml") for item in _folder().iterdir() if item.name.endswith(".toml"))


def load(address: str) -> NamedRecipe:
    """Read a shipped recipe by its name or any recipe from a TOML file; `NAME:VARIANT` or `FILE:VARIANT` is a variant of it.

    A file holds the fields at top level, or in a table `[recipe]` beside a table `[about]`. A table `[variants.NAME]` holds
    the fields in which a variant differs, and perhaps an `about` of its own, entries of which replace those of the file.

    Raises
    ------
    UsageError
        When there is no such name, file or variant, the file is no TOML, or a field is unknown or does not fit.

    Examples
    --------
    >>> load("mlperf-lars:32768").recipe.grid.global_batch
    32768
    """
    source, variant = _parts(address)
    if source in names():
        return _parse(source, variant, (_folder() / f"{source}.toml").read_text(encoding="utf-8"))
    return _parse(Path(source).name, variant, read_text(Path(source)))


def _parts(address: str) -> tuple[str, str | None]:
    """Return the name or file, and the variant if one is asked for."""
    if _exists(address):
        return address, None
    source, colon, variant = address.rpartition(":")
    if colon and _exists(source):
        return source, variant
    hint = perhaps(source if colon else address, names())
    raise UsageError(
        f"A recipe is one of {', '.join(names())}, or a TOML file; NAME:VARIANT is a variant of it. Got {address!r}.{hint}"
    )


def _exists(source: str) -> bool:
    return source in names() or is_file(source)


def _parse(name: str, variant: str | None, text: str) -> NamedRecipe:
    what = f"recipe {name}"
    file = SettingsFile.parse(text, what)
    fields = dict(file.values)
    inside: KeyPath = ()
    about = _table(fields.pop("about", {}), name)
    variants = {key: _table(value, name) for key, value in _table(fields.pop("variants", {}), name).items()}
    if "recipe" in fields:
        others, fields = fields, _table(fields.pop("recipe"), name)
        inside = ("recipe",)
        if others:
            raise UsageError(
                f"The recipe {name} has a table [recipe], so its fields belong there. Got also {shown(list(others))}."
            )
    changes: dict[str, Any] = {}
    if variant is not None:
        if variant not in variants:
            raise UsageError(_no_variant(name, variant, list(variants)))
        changes = dict(variants[variant])
        about = {**about, **_table(changes.pop("about", {}), name)}
        name = f"{name}:{variant}"

    def line(path: KeyPath) -> int | None:
        return file.line(("variants", str(variant), *path) if path[0] in changes else (*inside, *path))

    given = {**fields, **changes}
    recipe = build(Recipe, given, what=f"recipe {name}", typed=True, line=line, elsewhere=OF_EXECUTION)
    is_record = given.keys() >= {field for field, value in recipe.values().items() if value is not None}
    try:
        check_given(recipe, given if "epochs" in given and not is_record else ())
    except Conflict as error:
        raise Misfit([error.problem], f"recipe {name}", line) from None
    return NamedRecipe(name, recipe, about, tuple(variants), frozenset() if is_record else frozenset(given))


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"In a recipe, [about], [recipe] and [variants.NAME] are tables. {name} has a single value there.")
    return value


def _no_variant(name: str, variant: str, known: list[str]) -> str:
    if not known:
        return f"The recipe {name} has no variants. Got {variant!r}; leave the colon and it out."
    return f"The recipe {name} has the variants {', '.join(known)}. Got {variant!r}.{perhaps(variant, known)}"


def changed(recipe: Recipe, changes: Mapping[str, Any], *, typed: bool = False) -> Recipe:
    """Return a recipe with some fields changed, given as text (or typed values) by field name."""
    return replaced(recipe, changes, what="recipe", typed=typed, elsewhere=OF_EXECUTION)


def to_toml(recipe: Recipe) -> str:
    """Write all fields of a recipe as TOML; a field without a value is left out (its default is none)."""
    lines = [f"{name} = {_toml(value)}" for name, value in recipe.values().items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _folder() -> Any:
    return resources.files("widestep.plan").joinpath("named")
