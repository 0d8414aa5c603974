"""From options on the command line to a recipe and an execution: every field can be given by its name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.consistency import check_given
from widestep.plan.effects import without_effect
from widestep.plan.execution import Execution
from widestep.plan.family import warnings
from widestep.plan.fields import perhaps, replaced
from widestep.plan.recipe import Recipe


@dataclass(frozen=True)
class Request:
    """What a command was asked to work on."""

    name: str
    recipe: Recipe
    execution: Execution

    @property
    def directory(self) -> Path:
        """The run's directory: `--out`, or one that is found again by the settings."""
        return self.execution.out or Path("runs") / f"{Path(self.name.replace(':', '-')).stem}-{self.recipe.fingerprint[:8]}"


def request(recipe: str, fields: Mapping[str, str]) -> Request:
    """Build recipe and execution from `--recipe` and the options given by field name.

    Raises
    ------
    UsageError
        When a field is unknown or a value does not fit.
    """
    named = recipes.load(recipe)
    given = {name.lstrip("-").replace("-", "_"): value for name, value in fields.items()}
    known = [*Recipe.model_fields, *Execution.model_fields]
    unknown = [name for name in given if name not in known]
    if unknown:
        said = [f"--{name.replace('_', '-')} is no option.{perhaps(name, known).replace('_', '-')}" for name in unknown]
        raise UsageError(" ".join(said) + " `widestep recipes fields` lists all fields.")
    of_recipe = {name: value for name, value in given.items() if name in Recipe.model_fields}
    of_execution = {name: value for name, value in given.items() if name in Execution.model_fields}
    changed = recipes.changed(named.recipe, of_recipe)
    check_given(changed, of_recipe if "epochs" in of_recipe else {*of_recipe, *named.given})
    return Request(named.name, changed, replaced(Execution(), of_execution, what="execution", typed=False))


def cautions(recipe: Recipe, num_train: int) -> list[str]:
    """Return what whoever starts a recipe should know: values out of their usual range, and fields without effect."""
    idle = [f"{field} has no effect: {reason}" for field, reason in without_effect(recipe).items()]
    return [*warnings(recipe, num_train), *idle]
