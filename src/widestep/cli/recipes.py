"""`widestep recipes`: named recipes, one explained in sentences, and what every field means."""

import json as json_module
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from widestep.cli.options import request
from widestep.data.facts import describe, parse_spec
from widestep.plan import recipes
from widestep.plan.execution import Execution
from widestep.plan.explain import RESTS_ON, explain
from widestep.plan.recipe import Recipe, differences
from widestep.plan.recipes import NamedRecipe

_WIDTH = 100


def list_(*, json: bool = False) -> int:
    """List the shipped recipes: images a step, optimizer, how sure the settings are; and the variants of each.

    settings: sure, or experimental where they are second-hand. Whether anybody has
    trained a recipe with this program is in `recipes show`.

    For example:
      widestep recipes list
      widestep recipes list --json

    Parameters
    ----------
    json
        Print as JSON.
    """
    found = [recipes.load(name) for name in recipes.names()]
    if json:
        print(json_module.dumps([_entry(named) for named in found], indent=2))
        return 0
    print(f"{'name':<18} {'images':>6}  {'optimizer':<11} {'settings':<12} summary")
    for named, entry in zip(found, map(_entry, found), strict=True):
        print(
            f"{named.name:<18} {entry['global_batch']:>6,}  {entry['optimizer']:<11} {entry['status']:<12} "
            f"{entry['summary']}"
        )
        if named.variants:
            print(f"    variants {' '.join(f':{variant}' for variant in named.variants)}")
    return 0


def _entry(named: NamedRecipe) -> dict[str, Any]:
    return {
        "name": named.name,
        "global_batch": named.recipe.grid.global_batch,
        "optimizer": named.recipe.optimizer,
        "status": named.about["status"],
        "summary": named.about["summary"],
        "variants": list(named.variants),
    }


def show_(name: str, *, json: bool = False) -> int:
    """Show all fields of a recipe, where they come from, what to expect and what was verified.

    What is printed is a recipe file itself. The fields that differ from their
    defaults come first.

    For example:
      widestep recipes show poster
      widestep recipes show mlperf-lars:32768
      widestep recipes show digits --json

    Parameters
    ----------
    name
        Name of a shipped recipe, NAME:VARIANT, or a TOML file.
    json
        Print as JSON.
    """
    found = recipes.load(name)
    set_here = _set(found.recipe)
    if json:
        record = {"name": found.name, "about": dict(found.about), "fingerprint": found.recipe.fingerprint}
        record |= {"variants": list(found.variants), "recipe": found.recipe.values(), "set": set_here}
        print(json_module.dumps(record, indent=2, default=str))
        return 0
    for line in _about(found):
        print(f"# {line}")
    lines = {line.split(" ", 1)[0]: line for line in recipes.to_toml(found.recipe).splitlines()}
    print("\n# set by this recipe")
    for field in set_here:
        print(lines.pop(field))
    print("\n# as everywhere")
    for line in lines.values():
        print(line)
    return 0


def _set(recipe: Recipe) -> list[str]:
    """Return the fields that differ from their defaults."""
    return [name for name, field in Recipe.model_fields.items() if getattr(recipe, name) != field.default]


def _about(found: NamedRecipe) -> Iterator[str]:
    """Say what is known about a recipe, whatever its file's table [about] holds."""
    for key, value in found.about.items():
        if key == "expected_results":
            continue
        if isinstance(value, str):
            yield f"{key}: {_one_line(value)}"
        elif value:
            yield f"{key}:"
            yield from (f"  {_one_line(item)}" for item in _items(value))
    results = found.about.get("expected_results")
    if results:
        yield "expected results:"
        yield from (f"  {_result(row, found.recipe)}" for row in _items(results))
    if found.variants:
        yield f"variants: {' '.join(f':{variant}' for variant in found.variants)}"
    yield f"fingerprint: {found.recipe.fingerprint}"


def _items(value: object) -> list[Any]:
    if isinstance(value, dict):
        return [f"{key}: {item}" for key, item in value.items()]
    return value if isinstance(value, list) else [value]


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _result(row: object, recipe: Recipe) -> str:
    """Say what is expected at one batch, with settings other than the recipe's where there are any."""
    if not isinstance(row, dict) or not isinstance(row.get("batch"), int) or "accuracy" not in row:
        return _one_line(row)
    rest = {key: value for key, value in row.items() if key not in ("batch", "accuracy", "sd", "settings")}
    parts = [f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in rest.items()]
    known = [row.get(key) for key in ("accuracy", "sd")]
    accuracy = " +- ".join(_points(value, "sd" in row) for value in known if value is not None)
    settings = row.get("settings")
    if isinstance(settings, dict):
        parts += [f"with {' and '.join(f'{key} = {str(value).lower()}' for key, value in settings.items())}"]
    here = " <- this recipe" if row["batch"] == recipe.grid.global_batch and not settings else ""
    return _one_line(f"{row['batch']:,} images: {accuracy} % {', '.join(parts)}{here}")


def _points(value: object, to_hundredths: bool) -> str:
    return f"{value:.2f}" if to_hundredths and isinstance(value, float) else str(value)


def explain_(name: str, *, json: bool = False, **fields: str) -> int:
    """Explain a recipe in sentences: data, workers, rate at every turn, what a step applies.

    For example:
      widestep recipes explain poster
      widestep recipes explain goyal2017:32768
      widestep recipes explain digits --grid 40x1x8 --warmup 4ep --json

    Parameters
    ----------
    name
        Name of a shipped recipe, NAME:VARIANT, or a TOML file.
    json
        Print as JSON.
    fields
        Recipe fields by name, as in `widestep train`.
    """
    wanted = request(name, fields)
    named, recipe = recipes.load(name), wanted.recipe
    sentences = explain(recipe, _num_train(named, recipe))
    reasons = {topic: text for topic, text in _reasons(named, recipe) if topic in sentences}
    changed = [field.replace("-", "_") for field in fields]
    if json:
        record = {"name": wanted.name, "fingerprint": recipe.fingerprint, "changed": changed, "sentences": sentences}
        print(json_module.dumps(record | {"why": reasons, "source": named.about.get("source")}, indent=2, default=str))
        return 0
    print(wanted.name + (f", with other values of {', '.join(changed)}" if changed else ""))
    for topic, text in sentences.items():
        _paragraph(topic, text)
        if topic in reasons:
            _paragraph("", f"Why: {reasons[topic]}")
    if "source" in named.about:
        _paragraph("source", _one_line(named.about["source"]))
    return 0


def _num_train(named: NamedRecipe, recipe: Recipe) -> int:
    """Return the number of training images: of the files, or where none are here, as the recipe says of its data."""
    known, (_, path) = named.about.get("num_train"), parse_spec(recipe.data)
    if type(known) is int and known > 0 and recipe.data == named.recipe.data and not path.exists():
        return known
    return describe(recipe.data, train_images=recipe.train_images, image_size=recipe.image_size).num_train


def _reasons(named: NamedRecipe, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield by topic the reasons that a named recipe gives, but for values that are others in `recipe`."""
    why = named.about.get("why")
    changed = differences(named.recipe, recipe).keys()
    for topic, text in why.items() if isinstance(why, Mapping) else ():
        if changed.isdisjoint(RESTS_ON.get(topic, ())):
            yield topic, str(text)


def _paragraph(topic: str, text: str) -> None:
    first, rest = f"{topic:<15}", " " * 15
    print(textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False))


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
