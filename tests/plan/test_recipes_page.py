"""docs/recipes.md says what the shipped recipes are."""

import re
import tomllib
from pathlib import Path

from widestep.plan import recipes
from widestep.plan.fields import build
from widestep.plan.recipe import Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
LINES = PAGE.splitlines()


def section(title: str) -> list[str]:
    """The rows of the tables of a section, without their heads."""
    text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [line for line in text.splitlines() if line.startswith("| `")]


def settings(address: str) -> str:
    recipe = recipes.load(address).recipe
    cells = (
        f"`{address}`",
        recipe.grid,
        f"{recipe.grid.global_batch:,}",
        recipe.optimizer,
        f"{recipe.peak_lr:.6g}",
        recipe.rule.warmup(recipe.warmup, recipe.grid) if recipe.warmup.amount else "none",
        recipe.lr_decay,
        f"{recipe.momentum:g}",
        f"{recipe.weight_decay:g}",
        recipe.epochs,
    )
    return f"| {' | '.join(map(str, cells))} |"


def test_the_settings():
    """One row a recipe, or one for each of its variants."""
    expected = []
    for name in recipes.names():
        variants = recipes.load(name).variants
        expected += [settings(f"{name}:{variant}") for variant in variants] or [settings(name)]
    assert section("Settings") == expected


def test_the_sources():
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in section("Where they come from")]
    assert [row[0].strip("` ") for row in rows] == recipes.names()
    for name, (_, source, status, expected) in zip(recipes.names(), rows, strict=True):
        about = recipes.load(name).about
        assert status.split()[0] == about["status"]
        papers = re.findall(r"arXiv [\w.]+", source)
        assert papers == re.findall(r"arXiv [\w.]+", about["source"])
        results = {str(row["accuracy"]) for row in about.get("expected_results", [])} | {str(98.8)}
        for number in re.findall(r"([\d.]+) %", expected):
            assert number in results or f"{number}.0" in results, name


def test_the_results_of_goyal2017():
    rows = {row["batch"]: row for row in recipes.load("goyal2017").about["expected_results"] if "settings" not in row}
    del rows[128]
    accuracies, spreads = ([format(row[key], ".2f") for row in rows.values()] for key in ("accuracy", "sd"))
    for title, cells in {"images a step": [f"{batch:,}" for batch in rows], "top-1, %": accuracies, "+-": spreads}.items():
        assert f"| {title} | {' | '.join(cells)} |" in LINES


def test_the_quirks_are_named():
    text = PAGE.partition("## The poster as it was run")[2].partition("\n## ")[0]
    for quirk in recipes.load("poster-as-run").about["quirks"]:
        assert f"`{quirk.partition(':')[0]}`" in text


def test_the_example_is_a_recipe_with_a_variant(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)
    table = tomllib.loads(text)
    plain = recipes.load(str(tmp_path / "mine.toml"))
    assert plain.recipe == build(Recipe, table["recipe"], what="page", typed=True)
    wide = recipes.load(f"{tmp_path / 'mine.toml'}:wide").recipe
    assert wide == recipes.changed(plain.recipe, {"grid": "40x1x8", "warmup": "4ep"})


def test_every_recipe_that_is_named_exists():
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    words = [word for line in block.splitlines() for word in line.partition("  #")[0].split()[2:]]
    addresses = re.findall(r"--recipe ([\w-]+(?::\w+)?)", PAGE)
    addresses += [word for word in words if re.match(r"[a-z]", word) and word not in ("list", "show", "explain")]
    assert len(addresses) >= 6
    for address in addresses:
        assert recipes.load(address)
