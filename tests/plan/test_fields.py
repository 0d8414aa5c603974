import pytest

from widestep.errors import UsageError
from widestep.plan.duration import Duration
from widestep.plan.execution import Execution
from widestep.plan.fields import build, perhaps, replaced
from widestep.plan.grid import RampPoint, WorkerGrid
from widestep.plan.recipe import Recipe


def from_command_line(**values: str) -> Recipe:
    return build(Recipe, values, what="recipe", typed=False)


def from_toml(**values: object) -> Recipe:
    return build(Recipe, values, what="recipe x.toml", typed=True)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "7", 7),
        ("base_lr", "1e-3", 0.001),
        ("base_lr", "2", 2.0),
        ("zero_gamma", "true", True),
        ("zero_gamma", "no", False),
        ("grid", "40x6x128", WorkerGrid(40, 6, 128)),
        ("epochs", "600st", Duration.parse("600st")),
        ("decay_at", "30,60ep, 80", (Duration.parse(30), Duration.parse(60), Duration.parse(80))),
        ("decay_at", "30", (Duration.parse(30),)),
        ("decay_at", "", ()),
        ("decay_factor", "0.1", (0.1,)),
        ("decay_factor", "0.5, 1e-1,1", (0.5, 0.1, 1.0)),
        ("decay_end", "85ep", Duration.parse(85)),
        ("decay_end", "none", None),
        ("worker_ramp", "30ep:8, 60:16", (RampPoint(30, 8), RampPoint(60, 16))),
        ("worker_ramp", "", ()),
        ("batchnorm", "group:4", "group:4"),
        ("batchnorm", "sync", "sync"),
        ("clip_norm", "1", 1.0),
        ("clip_norm", "none", None),
        ("warmup_overshoot", "yes", True),
        ("warmup_start", "zero", "zero"),
        ("warmup_start", "base", "base"),
        ("warmup_start", "1e-3", 0.001),
        ("train_images", "960", 960),
        ("train_images", "none", None),
        ("image_size", "none", None),
        ("data", "none", "none"),
    ],
)
def test_text_from_the_command_line(name, text, value):
    together = {"decay_at": "1,2,3"} if name == "decay_factor" else {}
    assert getattr(from_command_line(**{**together, name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("base_lr", 1, 1.0),
        ("base_lr", 1e-3, 0.001),
        ("epochs", 90, Duration.parse("90ep")),
        ("epochs", 2.5, Duration.parse("2.5ep")),
        ("decay_at", [30, "600st", 2.5], (Duration.parse(30), Duration.parse("600st"), Duration.parse(2.5))),
        ("decay_at", 30, (Duration.parse(30),)),
        ("decay_at", [], ()),
        ("decay_factor", 1, (1.0,)),
        ("decay_factor", [0.1, 0.5, 1], (0.1, 0.5, 1.0)),
        ("decay_end", 85, Duration.parse("85ep")),
        ("decay_end", "none", None),
        ("worker_ramp", ["30ep:8", "60ep:16"], (RampPoint(30, 8), RampPoint(60, 16))),
        ("worker_ramp", "30ep:8", (RampPoint(30, 8),)),
        ("worker_ramp", [], ()),
        ("adascale_smoothing", 0, 0.0),
        ("warmup_start", 0, 0.0),
        ("train_images", "none", None),
    ],
)
def test_values_from_toml(name, given, value):
    found = getattr(from_toml(**{name: given}), name)
    assert (found, type(found)) == (value, type(value))


NUMBERS = {name for name, field in Recipe.model_fields.items() if field.annotation in (float, float | None)}
COUNTS = {name for name, field in Recipe.model_fields.items() if field.annotation in (int, int | None)}
CHOICES = {name for name, field in Recipe.model_fields.items() if "Literal" in repr(field.annotation)}
BOOLEANS = {name for name, field in Recipe.model_fields.items() if field.annotation is bool}
DURATIONS = {name for name, field in Recipe.model_fields.items() if field.annotation is Duration} | {"decay_end"}
NOT_NUMBERS = ("1e-3", "0", True, float("inf"), float("-inf"), float("nan"), [0.1], {"a": 1})
NOT_COUNTS = (1.0, "1", True, 1.5, [1])
NOT_DURATIONS = (True, "soon", -1, float("nan"), float("inf"), "2.5st")
REFUSED = [
    *((name, value) for name in sorted(NUMBERS) for value in NOT_NUMBERS),
    *((name, value) for name in sorted(COUNTS) for value in NOT_COUNTS),
    *((name, value) for name in sorted(CHOICES) for value in ("sdg", 1, True, "")),
    *((name, value) for name in sorted(DURATIONS) for value in (*NOT_DURATIONS, [5])),
    *(("decay_at", value) for value in (*NOT_DURATIONS, [[5]], ["5ep", True])),
    *(("grid", value) for value in ("4x6", 4, [4, 6, 128], True)),
    *(("warmup_start", value) for value in ("peak", -0.1, True, float("inf"), float("nan"), [0.1], "", 10**400)),
    *((name, value) for name in sorted(BOOLEANS) for value in ("true", 1, 0, "yes")),
    *(
        ("decay_factor", value)
        for value in (0, -0.1, 1.1, True, [True, 0.1], [0.1, 0], [], "", "x", float("nan"), {"0.1": 1})
    ),
    *(
        ("worker_ramp", value)
        for value in ("30", "0ep:8", "30ep:0", "1.5ep:8", "30:8,30:9", "60:8,30:9", 30, True, {"30:8": 1})
    ),
    *(("batchnorm", value) for value in ("group", "group:0", "group:1.5", "group:-1", "none", "LOCAL", 4, True, None, "")),
    *((name, value) for name in ("data", "model") for value in (1, True, ["digits"])),
]


def test_the_kinds_of_fields_are_all_there():
    known = NUMBERS | COUNTS | CHOICES | {name for name, _ in REFUSED}
    assert known == set(Recipe.model_fields)
    assert len(NUMBERS) > 8
    assert len(COUNTS) > 6
    assert len(CHOICES) > 7
    assert len(DURATIONS) > 5
    assert len(BOOLEANS) > 3


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_does_not_fit_is_refused_with_the_fields_name(name, value):
    with pytest.raises(UsageError) as caught:
        from_toml(**{name: value})
    assert str(caught.value).startswith(f"{name} (in the recipe x.toml): ") or f" {name}.0 (in " in f" {caught.value}"
    assert "Got " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("base_lr", 0.0, "base_lr (in the recipe x.toml): Input should be greater than 0. Got 0.0."),
        ("momentum", 1.0, "momentum (in the recipe x.toml): Input should be less than 1. Got 1.0."),
        ("momentum", -0.1, "momentum (in the recipe x.toml): Input should be greater than or equal to 0. Got -0.1."),
        ("seed", -1, "seed (in the recipe x.toml): Input should be greater than or equal to 0. Got -1."),
        ("stack", 1025, "stack (in the recipe x.toml): Input should be less than or equal to 1024. Got 1025."),
        (
            "grid",
            "40x6",
            "grid (in the recipe x.toml): A grid reads NODESxWORKERSxIMAGES, for example 40x6x128. Got '40x6'.",
        ),
        (
            "warmup_first",
            "opened",
            "warmup_first (in the recipe x.toml): Input should be 'open' or 'closed'. Got 'opened'.",
        ),
        (
            "worker_ramp",
            "60ep:8,30ep:16",
            "worker_ramp (in the recipe x.toml): A ramp names its epochs in rising order. Got 60ep:8, 30ep:16.",
        ),
        (
            "decay_factor",
            [0.1, True],
            "decay_factor (in the recipe x.toml): A factor of the decay is a number above 0 and at most 1, or a list of "
            "them. Got [0.1, True].",
        ),
        (
            "batchnorm",
            "group:0",
            "batchnorm (in the recipe x.toml): Batch normalisation is local, sync or group:K, for example group:4. "
            "Got 'group:0'.",
        ),
    ],
)
def test_the_sentence(name, value, sentence):
    with pytest.raises(UsageError) as caught:
        from_toml(**{name: value})
    assert str(caught.value) == sentence


def test_every_problem_is_reported_at_once():
    with pytest.raises(UsageError) as caught:
        from_command_line(base_lr="fast", grid="4", seed="-1")
    assert all(f"{name} (in the recipe): " in str(caught.value) for name in ("base_lr", "grid", "seed"))


def test_unknown_keys():
    with pytest.raises(UsageError) as caught:
        from_toml(momentun=0.9, zzzzzz=1, seed=1)
    assert str(caught.value) == (
        "'momentun' is not a field of the recipe x.toml. Perhaps you meant 'momentum'. "
        "'zzzzzz' is not a field of the recipe x.toml."
    )


def one_letter_typos(word: str) -> set[str]:
    places = range(len(word))
    left_out = {word[:i] + word[i + 1 :] for i in places}
    swapped = {word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :] for i in places}
    changed = {word[:i] + letter + word[i + 1 :] for i in places for letter in "aesx_"}
    added = {word[:i] + letter + word[i:] for i in (*places, len(word)) for letter in "aesx_"}
    return left_out | swapped | changed | added


@pytest.mark.parametrize("fields", [Recipe.model_fields, Execution.model_fields], ids=["Recipe", "Execution"])
def test_a_typo_of_one_letter_gets_the_right_suggestion(fields):
    typos = [(typo, name) for name in fields for typo in one_letter_typos(name) if typo not in fields]
    right = sum(perhaps(typo, fields) == f" Perhaps you meant '{name}'." for typo, name in typos)
    assert len(typos) > 300
    assert right / len(typos) >= 0.95


def test_nothing_is_suggested_for_something_else():
    assert perhaps("banana", Recipe.model_fields) == ""


def test_a_changed_copy_is_checked_again():
    recipe = Recipe(scaling="linear", reference_batch=256)
    assert replaced(recipe, {"seed": "3"}, what="recipe", typed=False) == recipe.model_copy(update={"seed": 3})
    assert recipe.seed == 0
    with pytest.raises(UsageError, match="per-worker"):
        replaced(recipe, {"scaling": "per-worker"}, what="recipe", typed=False)
    with pytest.raises(UsageError, match="Perhaps you meant 'seed'"):
        replaced(recipe, {"sed": "3"}, what="recipe", typed=False)
