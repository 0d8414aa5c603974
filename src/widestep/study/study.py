"""A study: named arms, seeds, claims to be tested and the margin of equivalence, declared before anything runs."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.fields import Fields, build, perhaps
from widestep.plan.recipe import Recipe
from widestep.plan.settings_file import SettingsFile, is_file, read_text
from widestep.study.consistency import check_cells, check_study
from widestep.study.search import Search
from widestep.study.sequential import Sequential

Settings = dict[str, Any]
_ELSEWHERE = dict.fromkeys(
    [name for name in Recipe.model_fields if name != "seed"],
    "It is a field of recipes: it belongs in [set], in the set of an arm, or among its axes.",
)


class Arm(Fields):
    """A family of recipes: fixed settings, and axes whose values are combined in every way."""

    label: str = ""
    """What the arm varies, in words."""
    recipe: str | None = None
    """Named recipe that this arm starts from, when it is not the study's."""
    set: Settings = Field(default_factory=dict)
    """Recipe fields that all runs of the arm share."""
    axes: dict[str, list[Any]] = Field(default_factory=dict)
    """Recipe fields and the values each takes."""
    search: Search | None = None
    """Seek the best values of some fields for each combination of the axes, instead of running the study's seeds."""
    from_search: str | None = None
    """Arm whose search found the settings of this one: its axes, recipe and set, with the best values found, on the study's
    seeds. `set` changes further fields."""


class FoundArm(Arm):
    """An arm whose search is over."""

    found: list[Settings]
    """The best settings of each combination of the axes, in order."""


class Claim(Fields):
    """A statement that the study supports, contradicts or leaves undecided."""

    text: str
    """The statement."""
    test: Literal["falls", "worst", "too-long", "optimum-grows", "equivalent"]
    """`falls`: accuracy at the first value of the axis is above that at the last. `worst`: the first value is below every
    other. `too-long`: some value between the first and the last is above the last. `optimum-grows`: the best value along the
    axis is larger in the last arm than in the first. `equivalent`: first and last value differ by less than the margin."""
    arms: list[str] = Field(min_length=1)
    """The arm that the claim is about; for optimum-grows the arms in order."""
    axis: str
    """The axis of the arm along which the claim compares."""
    between: list[Any] | None = None
    """Two values of the axis to compare, when they are not its first and last (falls, equivalent)."""


class FigureSpec(Fields):
    """A figure of the report."""

    number: int
    """Its number."""
    kind: Literal["layout", "curves", "zoomed", "final"]
    """`layout`: the workers; `curves`: validation accuracy by epoch with bands over seeds; `zoomed`: the same, cut to where
    the curves differ; `final`: final accuracy with intervals."""
    arm: str
    """The arm that it shows."""
    title: str
    """Its title."""


class Study(Fields):
    """Everything about a study that is decided before it runs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Name: letters, digits, dot, underscore and hyphen."""
    title: str
    """One line that says what is asked."""
    recipe: str
    """Named recipe (or file) that every arm starts from."""
    seeds: list[int] = Field(min_length=1)
    """Seeds; every cell runs with each of them, so cells are compared in pairs."""
    margin: float = Field(gt=0)
    """Difference in percentage points below which two accuracies count as equal; declared before the study runs."""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Level of all intervals."""
    collapse_below: float = Field(default=0.5, ge=0, le=1)
    """A run whose final validation accuracy is below this share counts as collapsed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Kind of device that the runs take place on: auto takes a GPU when there is one."""
    compare_batchnorm: bool = False
    """Evaluate the final weights of every run under each policy of batch-norm statistics, for the report's table."""
    sequential: Sequential | None = None
    """When `--until decided` looks at the claims; without it all seeds run and are judged at once."""
    notes: list[str] = Field(default_factory=list)
    """What a reader must know about the settings."""
    set: Settings = Field(default_factory=dict)
    """Recipe fields that all arms share."""
    arms: dict[str, Arm] = Field(min_length=1)
    """The arms by name."""
    claims: dict[str, Claim] = Field(default_factory=dict)
    """The claims by name."""
    figures: list[FigureSpec] = Field(default_factory=list)
    """The figures of the report."""

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        check_study(self)
        return self

    def cells(self, arm: str) -> "list[Cell]":
        """Return the cells of an arm: every combination of its axes, without seeds; none while an arm only searches.

        Those of an arm whose settings are still being searched are open: they lack what will be found.
        """
        return [] if self.arms[arm].search is not None else self.bases(arm)

    def axes(self, arm: str) -> dict[str, list[Any]]:
        """Return the axes of an arm, those of the arm that searched for it included."""
        return self.arms[self.arms[arm].from_search or arm].axes

    def bases(self, arm: str) -> "list[Cell]":
        """Return every combination of an arm's axes as a cell; of an arm that searches, what it starts from."""
        spec = self.arms[arm]
        source = self.arms[spec.from_search or arm]
        base = recipes.load(source.recipe or self.recipe).recipe
        shared = {**self.set, **source.set, **spec.set}
        combinations = [dict(zip(source.axes, one, strict=True)) for one in itertools.product(*source.axes.values())]
        found = spec.found if isinstance(spec, FoundArm) else [{}] * len(combinations)
        is_open = spec.from_search is not None and not isinstance(spec, FoundArm)
        cells = []
        for combination, best in zip(combinations, found, strict=True):
            settings = {**combination, **best}
            recipe = recipes.changed(base, {**shared, **settings}, typed=True)
            cells.append(Cell(arm, settings, recipe, is_open))
        return cells

    def trials(self) -> "list[Trial]":
        """Return every run of the study once, in the order of arms, cells and seeds.

        Two arms that contain the same recipe share the trial. Runs of searches, and of open cells, are not among them.
        """
        found: dict[str, Trial] = {}
        for arm in self.arms:
            for cell in self.cells(arm):
                for seed in () if cell.is_open else self.seeds:
                    recipe = cell.recipe.model_copy(update={"seed": seed})
                    found.setdefault(recipe.fingerprint, Trial(recipe, arm, cell.settings, seed))
        return list(found.values())


def in_words(settings: Settings) -> str:
    """Return settings as people read them, for example `grid 40x1x8, warmup 5ep`."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def as_written(settings: Settings) -> str:
    """Return settings as tables show them and a certificate's sides are named, for example `grid=40x1x8, warmup=5ep`."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


@dataclass(frozen=True)
class Cell:
    """One combination of an arm's axes; its recipe stands for all seeds."""

    arm: str
    settings: Settings
    recipe: Recipe
    is_open: bool = False
    """Whether it waits for what a search finds."""

    def fingerprint(self, seed: int) -> str:
        """Return the fingerprint of the cell's trial with a seed."""
        return self.recipe.model_copy(update={"seed": seed}).fingerprint

    @property
    def label(self) -> str:
        """The settings in words, for example `warmup 5ep`."""
        return in_words(self.settings) or self.arm


@dataclass(frozen=True)
class Trial:
    """One recipe of a study; `arm` and `settings` are those of the first arm that contains it."""

    recipe: Recipe
    arm: str
    settings: Settings
    seed: int

    @cached_property
    def fingerprint(self) -> str:
        """The recipe's fingerprint, which names the trial's directory."""
        return self.recipe.fingerprint


def names() -> list[str]:
    """Return the names of the shipped studies."""
    return sorted(item.name.removesuffix(".toml") for item in _folder().iterdir() if item.name.endswith(".toml"))


def source_text(name_or_file: str) -> str:
    """Return the TOML text of a shipped study or of a file.

    Raises
    ------
    UsageError
        When there is no such study or file.
    """
    if name_or_file in names():
        return str((_folder() / f"{name_or_file}.toml").read_text(encoding="utf-8"))
    if not is_file(name_or_file):
        hint = perhaps(name_or_file, names())
        raise UsageError(f"A study is one of {', '.join(names())}, or a TOML file. Got {name_or_file!r}.{hint}")
    return read_text(Path(name_or_file))


def parse(text: str, what: str = "study", *, is_new: bool = False) -> Study:
    """Build a study from TOML text; every recipe in it is checked.

    Parameters
    ----------
    is_new
        Whether somebody has written the text to be run: then a warmup that is longer than the training is refused, too. In
        a study that has begun, both may have been changed in every run.

    Raises
    ------
    UsageError
        One sentence for each thing that does not fit, with its line.
    """
    file = SettingsFile.parse(text, what)
    study = build(Study, file.values, what=what, typed=True, line=file.line, elsewhere=_ELSEWHERE)
    check_cells(study, what, file, is_new=is_new)
    return study


def changed(
    study: Study, *, seeds: int | None = None, settings: Mapping[str, str] | None = None, is_sequential: bool = False
) -> Study:
    """Return the study with only its first `seeds` seeds, with recipe fields changed in every run, or run until decided.

    Parameters
    ----------
    settings
        Field name -> value as text, as on the command line.
    is_sequential
        Whether it adds seeds until its claims are decided, by the looks that it declares or else the usual ones.

    Raises
    ------
    UsageError
        When there are fewer seeds, a field is unknown or does not fit, or an arm decides it itself.
    """
    if seeds is not None and not 1 <= seeds <= len(study.seeds):
        raise UsageError(f"The study {study.name} has {len(study.seeds)} seeds; --seeds takes 1 to that many. Got {seeds}.")
    if is_sequential and not study.claims:
        raise UsageError(
            f"A study that runs until decided has claims. Study {study.name} has none; leave out --until decided."
        )
    searching = [name for name, arm in study.arms.items() if arm.search is not None]
    if is_sequential and searching:
        raise UsageError(
            f"A study that runs until decided knows its settings before it runs. Arm {searching[0]} of study {study.name} "
            "searches for them; leave out --until decided."
        )
    update: dict[str, Any] = {"sequential": (study.sequential or Sequential()) if is_sequential else None}
    if seeds is not None:
        update["seeds"] = study.seeds[:seeds]
    if settings:
        update["set"] = {**study.set, **_shared(study, settings)}
    found = study.model_copy(update=update)
    check_cells(found, f"study {study.name}")
    return found


def _shared(study: Study, settings: Mapping[str, str]) -> Settings:
    """Turn text into the values that a study file would hold."""
    if "seed" in settings:
        raise UsageError(f"Every cell runs with the study's seeds: {study.seeds}. --seed cannot be given; choose --seeds.")
    for arm, spec in study.arms.items():
        for name in settings:
            if name in spec.set or name in spec.axes or (spec.search is not None and name in spec.search.over):
                raise UsageError(
                    f"What is changed in every run must be left open by every arm. Arm {arm} of study {study.name} decides "
                    f"{name} itself; edit a copy of the study's file."
                )
    base = recipes.load(study.recipe).recipe
    values = recipes.changed(recipes.changed(base, study.set, typed=True), settings).values()
    return {name: "none" if values[name] is None else values[name] for name in settings}


def to_toml(study: Study) -> str:
    """Write a study as TOML, every field resolved, such that `parse` gives it back."""
    values = study.model_dump(exclude_defaults=True)
    tables = {key: values.pop(key) for key in ("sequential", "set", "arms", "claims", "figures") if key in values}
    if study.sequential is not None:
        tables["sequential"] = study.sequential.model_dump()  # also where it is the usual: it is what the study is judged by
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    for name in ("sequential", "set"):
        if name in tables:
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in tables[name].items())]
    for kind in ("arms", "claims"):
        for name, table in tables.get(kind, {}).items():
            lines += ["", f"[{kind}.{_toml(name)}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    for figure in tables.get("figures", []):
        lines += ["", "[[figures]]", *(f"{key} = {_toml(value)}" for key, value in figure.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _folder() -> Any:
    return resources.files("widestep.study").joinpath("named")
