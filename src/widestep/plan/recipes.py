"""Recipes by name or file: the named ones are TOML files beside this module, each with source and verified status."""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from widestep.errors import UsageError
from widestep.plan.fields import build, perhaps, replaced
from widestep.plan.recipe import Recipe

_LARGEST_FILE = 1_000_000


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe with what is known about it.

    Parameters
    ----------
    about
        `summary`, `source`, `expected` and `verified`: where the settings come from, what they should give, and what we
        have seen ourselves.
    """

    name: str
    recipe: Recipe
    about: Mapping[str, str]


def names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(item.name.removesuffix(".toml") for item in _folder().iterdir() if item.name.endswith(".toml"))


def load(name_or_file: str) -> NamedRecipe:
    """Read a shipped recipe by its name, or any recipe from a TOML file.

    A file holds the fields at top level, or in a table `[recipe]` beside a table `[about]`.

    Raises
    ------
    UsageError
        When there is no such name or file, the file is no TOML, or a field is unknown or does not fit.
    """
    if name_or_file in names():
        return _parse(name_or_file, (_folder() / f"{name_or_file}.toml").read_text(encoding="utf-8"))
    if not os.path.isfile(name_or_file):  # unlike Path.is_file, also False for a name that is too long to be one
        hint = perhaps(name_or_file, names())
        raise UsageError(f"A recipe is one of {', '.join(names())}, or a TOML file. Got {name_or_file!r}.{hint}")
    path = Path(name_or_file)
    return _parse(path.name, read_text(path))


def read_text(path: Path) -> str:
    """Read a small UTF-8 text file; raises UsageError when it is too large or not text."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"A settings file is at most 1 MB. {path} is larger.")
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"A settings file is readable UTF-8 text. {path}: {error}.") from None


def parse_toml(text: str, what: str) -> dict[str, Any]:
    """Parse TOML; raises UsageError naming the place of the fault."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError, of a number with thousands of digits
        raise UsageError(f"The {what} must be TOML. {error}.") from None


def _parse(name: str, text: str) -> NamedRecipe:
    table = parse_toml(text, f"recipe {name}")
    about = table.pop("about", {})
    fields = table.pop("recipe", None)
    if not isinstance(about, dict) or not isinstance(fields, dict | None):
        raise UsageError(f"In a recipe, [about] and [recipe] are tables. {name} has a single value there.")
    if fields is not None and table:
        raise UsageError(f"The recipe {name} has a table [recipe], so its fields belong there. Got also {list(table)}.")
    return NamedRecipe(name, build(Recipe, table if fields is None else fields, what=f"recipe {name}", typed=True), about)


def changed(recipe: Recipe, changes: Mapping[str, Any], *, typed: bool = False) -> Recipe:
    """Return a recipe with some fields changed, given as text (or typed values) by field name."""
    return replaced(recipe, changes, what="recipe", typed=typed)


def to_toml(recipe: Recipe) -> str:
    """Write all fields of a recipe as TOML; a field without a value is left out (its default is none)."""
    lines = [f"{name} = {_toml(value)}" for name, value in recipe.values().items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _folder() -> Any:
    return resources.files("widestep.plan").joinpath("named")
