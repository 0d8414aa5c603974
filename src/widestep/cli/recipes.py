"""`widestep recipes`: named recipes, and what every field means."""

import json as json_module

from widestep.plan import recipes
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe


def list_() -> int:
    """List the shipped recipes.

    For example:
      widestep recipes list
    """
    for name in recipes.names():
        print(f"{name:<14} {recipes.load(name).about['summary']}")
    return 0


def show_(name: str, *, json: bool = False) -> int:
    """Show all fields of a recipe, where they come from and what was verified.

    For example:
      widestep recipes show poster
      widestep recipes show digits --json

    Parameters
    ----------
    name
        Name of a shipped recipe, or a TOML file.
    json
        Print as JSON.
    """
    found = recipes.load(name)
    if json:
        record = {"name": found.name, "about": dict(found.about), "fingerprint": found.recipe.fingerprint}
        print(json_module.dumps(record | {"recipe": found.recipe.values()}, indent=2))
        return 0
    for key, text in found.about.items():
        print(f"# {key}: {text}")
    print(f"# fingerprint: {found.recipe.fingerprint}")
    print(recipes.to_toml(found.recipe), end="")
    return 0


def fields_() -> int:
    """Explain every field: those of the recipe decide the weights, those of the execution do not.

    For example:
      widestep recipes fields
    """
    for title, model in (("Recipe (decides the weights)", Recipe), ("Execution (must not)", Execution)):
        print(f"{title}:")
        for name, field in model.model_fields.items():
            default = "" if field.default is None else f" [default: {_text(field.default)}]"
            print(f"  --{name.replace('_', '-')}{default}")
            print(f"      {' '.join((field.description or '').split())}")
    return 0


def _text(value: object) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, tuple) else str(value)
