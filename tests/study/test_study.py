"""A study's definition: parsing with every refusal in words, cells and trials, TOML there and back, changes."""

import itertools
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.study.study import Study, changed, names, parse, source_text, to_toml

THREE_ARMS = """
name = "three"
title = "Arms"
recipe = "digits"
seeds = [3, 1]
margin = 0.5

[set]
epochs = "10ep"
grid = "4x1x8"

[arms.product]
label = "Every combination"
set = { epochs = "20ep" }
axes = { warmup = ["0ep", "2ep"], base_lr = [0.1, 0.2, 0.4] }

[arms.grids]
axes = { grid = ["10x1x8", "40x1x8"] }

[arms.other]
recipe = "digits-iter"

[arms.same]
set = { warmup = "2ep", base_lr = 0.4, epochs = "20ep" }

[claims.falls]
text = "Falls."
test = "falls"
arms = ["grids"]
axis = "grid"
between = ["40x1x8", "10x1x8"]

[[figures]]
number = 1
kind = "curves"
arm = "product"
title = "Curves"
"""


def without_line(error):
    """A message without the lines that tests/faults look at."""
    return re.sub(r", lines? [\d and]+\d", "", re.sub(r", line \d+", "", str(error)))


CIFAR10_CELLS = {
    "baseline": 5,
    "warmup-300": 7,
    "warmup-1200": 7,
    "as-poster-1200": 3,
    "scaling-1200": 2,
    "adascale-1200": 1,
    "lars-1200": 2,
}


def test_shipped_studies():
    assert names() == ["poster", "poster-cifar10", "poster-cifar10-cpu", "poster-digits"]


@pytest.mark.parametrize(
    ("name", "num_of_arm", "num_seeds", "num_different"),
    [
        # warmup 5ep is baseline's 10 and 40 nodes; scaling's per-worker at 40 nodes is warmup 10ep: 16 - 3
        ("poster", {"baseline": 5, "warmup-7680": 4, "warmup-30720": 4, "scaling-30720": 3}, 8, 13),
        # the warmup of baseline and per-worker at 300 and 1,200 images are baseline's: 27 - 3
        ("poster-cifar10", CIFAR10_CELLS, 5, 24),
        ("poster-cifar10-cpu", CIFAR10_CELLS, 5, 24),
        # warmup 2ep at 10 and 40 workers is baseline's and scaling's linear: 18 - 4 of the recipe digits, 3 of digits-iter
        (
            "poster-digits",
            {"baseline": 5, "warmup-10": 4, "warmup-40": 4, "scaling-40": 3, "scaling-10": 2, "digits-iter": 3},
            12,
            14 + 3,
        ),
    ],
)
def test_cells_of_the_shipped_studies(name, num_of_arm, num_seeds, num_different):
    study = parse(source_text(name))
    assert {arm: len(study.cells(arm)) for arm in study.arms} == num_of_arm
    assert len({cell.fingerprint(5) for arm in study.arms for cell in study.cells(arm)}) == num_different
    assert len(study.seeds) == num_seeds
    trials = study.trials()
    assert len(trials) == len({trial.fingerprint for trial in trials}) == num_different * num_seeds
    assert [trial.seed for trial in trials[:num_seeds]] == study.seeds


def test_trials_of_the_embedded_study():
    trials = parse(source_text("poster-digits")).trials()
    assert len(trials) == 204
    assert sum(trial.arm == "digits-iter" for trial in trials) == 3 * 12
    assert sum(trial.recipe.grid.global_batch == 20 for trial in trials) == 3 * 12
    assert {trial.recipe.stack for trial in trials} == {12}
    for first in range(0, 204, 12):  # the seeds of a cell fill a stack
        assert sorted(trial.recipe.slot for trial in trials[first : first + 12]) == list(range(12))


def test_cells_are_all_combinations_in_order():
    study = parse(THREE_ARMS)
    cells = study.cells("product")
    expected = list(itertools.product(["0ep", "2ep"], [0.1, 0.2, 0.4]))
    assert [(cell.settings["warmup"], cell.settings["base_lr"]) for cell in cells] == expected
    assert [(str(cell.recipe.warmup), cell.recipe.base_lr) for cell in cells] == expected
    assert cells[1].label == "warmup 0ep, base_lr 0.2"


def test_an_arm_outranks_the_study_and_an_axis_both():
    study = parse(THREE_ARMS)
    assert {str(cell.recipe.epochs) for cell in study.cells("product")} == {"20ep"}
    assert [str(cell.recipe.grid) for cell in study.cells("grids")] == ["10x1x8", "40x1x8"]
    assert {str(cell.recipe.epochs) for cell in study.cells("grids")} == {"10ep"}


def test_an_arm_may_start_from_another_recipe():
    (cell,) = parse(THREE_ARMS).cells("other")
    assert cell.recipe.scaling == "per-worker"
    assert cell.recipe.base_lr == 0.3
    assert str(cell.recipe.grid) == "4x1x8"
    assert cell.label == "other"


def test_trials_in_the_order_of_arms_cells_and_seeds_and_shared_by_arms():
    study = parse(THREE_ARMS)
    trials = study.trials()
    assert len(trials) == (6 + 2 + 1) * 2  # the arm `same` is a cell of the arm `product`
    assert [trial.arm for trial in trials] == ["product"] * 12 + ["grids"] * 4 + ["other"] * 2
    assert [trial.seed for trial in trials] == [3, 1] * 9
    assert [trial.recipe.seed for trial in trials] == [3, 1] * 9
    assert study.cells("same")[0].fingerprint(1) == trials[11].fingerprint


@pytest.mark.parametrize(
    ("line", "place", "given"),
    [
        ("margin = 0.5\ncolapse_below = 0.1", "'colapse_below' is not a field of the study.", "meant 'collapse_below'."),
        ("", "margin (in the study): ", "required."),
        ("margin = 0", "margin (in the study): ", "Got 0."),
        ('margin = "0.5"', "margin (in the study): ", "Got '0.5'."),
        ("margin = nan", "margin (in the study): ", "Got nan."),
        ("margin = 0.5\nlevel = 1.0", "level (in the study): ", "Got 1.0."),
        ("margin = 0.5\nlevel = 0.5", "level (in the study): ", "Got 0.5."),
        ("margin = 0.5\ncollapse_below = 50", "collapse_below (in the study): ", "Got 50."),
        ("margin = 0.5\nnotes = 'one'", "notes (in the study): ", "Got 'one'."),
    ],
)
def test_a_field_of_the_study(parsed, line, place, given):
    with pytest.raises(UsageError) as caught:
        parsed(("margin = 0.5", line))
    assert without_line(caught.value).startswith(place)
    assert str(caught.value).endswith(given)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('device = "cpu"', 'device = "gpu"', "device (in the study): "),
        ("[0, 1, 2, 3]", "[]", "seeds (in the study): "),
        ("[0, 1, 2, 3]", "[0, 1, 0]", "The seeds of a study are different numbers of at least 0. Got [0, 1, 0]."),
        ("[0, 1, 2, 3]", "[0, -1]", "The seeds of a study are different numbers of at least 0. Got [0, -1]."),
        ("[0, 1, 2, 3]", "[0.0]", "seeds.0 (in the study): "),
        ("[0, 1, 2, 3]", "7", "seeds (in the study): "),
        ('"twelve"', '"a;touch PWNED"', "name (in the study): "),
        ('"twelve"', '"../up"', "name (in the study): "),
        ('"twelve"', '""', "name (in the study): "),
        ('recipe = "digits"', 'recipe = "digitz"', "A recipe is one of akiba2017, algoperf-momentum, "),
        ("[arms.warm]", "[arms.warm]\naxis = 3", "'arms.warm.axis' is not a field of the study. Perhaps you meant 'axes'."),
        ("[arms.warm]", "[arms]\nwarm = 3\n[arms.other]", "arms.warm (in the study): "),
        ("warmup = [", "warm_up = [", "Claim worst compares along 'warmup', so arm warm needs two values of that axis."),
        ('["0ep", "2ep", "4ep"]', '["0ep", "2xx"]', "Arm warm of study twelve: warmup (in the recipe of study): A dura"),
        ('["0ep", "2ep", "4ep"]', '["0ep", true]', "Arm warm of study twelve: warmup (in the recipe of study): A dura"),
        (
            "[arms.warm]",
            "[arms.warm]\nset = { lerning_rate = 3 }",
            "Arm warm of study twelve: 'lerning_rate' is not a field of the recipe of study.",
        ),
        (
            "[arms.warm]",
            "[arms.warm]\nset = { momentun = 0.9 }",
            "Arm warm of study twelve: 'momentun' is not a field of the recipe of study. Perhaps you meant 'momentum'.",
        ),
        (
            "[arms.warm]",
            '[arms.warm]\nset = { base_lr = "0.1" }',
            "Arm warm of study twelve: base_lr (in the recipe of study): ",
        ),
        (
            "[arms.warm]",
            '[arms.warm]\nset = { scaling = "per-worker" }',
            "Arm warm of study twelve: scaling and reference_batch (in the recipe of study): The scaling rule 'per-worker' "
            "has one worker as its reference",
        ),
        ('["0ep", "2ep", "4ep"]', "[]", "An axis has at least one value. Axis 'warmup' of arm warm is empty."),
        ('["0ep", "2ep", "4ep"]', '["0ep"]', "Claim worst compares along 'warmup', so arm warm needs two values"),
        (
            '["0ep", "2ep", "4ep"]',
            '["0ep", "2ep", "2"]',
            "The cells of an arm differ. In arm warm, 'warmup 2ep' and 'warmup 2' do not.",
        ),
        (
            '["0ep", "2ep", "4ep"]',
            '["2ep", "2ep"]',
            "The cells of an arm differ. In arm warm, 'warmup 2ep' and 'warmup 2ep' do not.",
        ),
        (
            "[arms.warm]",
            '[arms.warm]\nset = { warmup = "1ep" }',
            "A field of an arm is either set or an axis. 'warmup' of arm warm is both; leave one out.",
        ),
        ("[arms.warm]", "[set]\nseed = 3\n[arms.warm]", "Every cell runs with the study's seeds"),
        ("[arms.warm]", "[arms.warm]\nset = { seed = 3 }", "Every cell runs with the study's seeds"),
        ("axes = {", "axes = { seed = [1, 2],", "Every cell runs with the study's seeds"),
    ],
)  # fmt: skip
def test_seeds_arms_and_axes(parsed, old, new, sentence):
    with pytest.raises(UsageError) as caught:
        parsed((old, new))
    assert sentence in without_line(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('["warm"]', '["worm"]', "The claim worst is about arm 'worm', but the arms are warm. Perhaps you meant 'warm'."),
        ('["warm"]', "[]", "claims.worst.arms (in the study): "),
        ('"worst"\narms', '"best"\narms', "claims.worst.test (in the study): "),
        ('axis = "warmup"', 'axis = "grid"', "Claim worst compares along 'grid', so arm warm needs two values"),
        (
            'axis = "warmup"',
            'axis = "warmup"\nbetween = ["0ep", "2ep"]',
            "Only falls and equivalent compare two values. Claim worst is worst; leave out between.",
        ),
        (
            '"worst"\narms = ["warm"]\naxis = "warmup"',
            '"falls"\narms = ["warm"]\naxis = "warmup"\nbetween = ["0ep", "8ep"]',
            "Claim worst compares two different values of ['0ep', '2ep', '4ep']. Got ['0ep', '8ep'].",
        ),
        (
            '"worst"\narms = ["warm"]\naxis = "warmup"',
            '"falls"\narms = ["warm"]\naxis = "warmup"\nbetween = ["2ep", "2ep"]',
            "Claim worst compares two different values of ['0ep', '2ep', '4ep']. Got ['2ep', '2ep'].",
        ),
        (
            '"worst"\narms = ["warm"]\naxis = "warmup"',
            '"equivalent"\narms = ["warm"]\naxis = "warmup"\nbetween = ["2ep"]',
            "Claim worst compares two different values of ['0ep', '2ep', '4ep']. Got ['2ep'].",
        ),
        ('"worst"\narms = ["warm"]', '"worst"\narms = ["warm", "warm"]', "Claim worst (worst) compares along one arm."),
        ('"worst"\narms', '"optimum-grows"\narms', "Claim worst (optimum-grows) compares at least two different arms."),
        (
            '"worst"\narms = ["warm"]',
            '"optimum-grows"\narms = ["warm", "warm"]',
            "Claim worst (optimum-grows) compares at least two different arms. Got ['warm', 'warm'].",
        ),
        (
            "axes = {",
            "axes = { zero_gamma = [false, true],",
            "A claim compares along the only axis of its arm. Claim worst is along 'warmup', but arm warm also varies",
        ),
    ],
)  # fmt: skip
def test_a_claim(parsed, old, new, sentence):
    with pytest.raises(UsageError) as caught:
        parsed((old, new))
    assert sentence in without_line(caught.value)


def test_a_best_value_grows_along_an_order(parsed):
    arms = '[arms.other]\nset = { grid = "40x1x8" }\naxes = { %s }\n\n[claims.worst]'
    grows = ('"worst"\narms = ["warm"]', '"optimum-grows"\narms = ["warm", "other"]')
    parsed(("[claims.worst]", arms % 'warmup = ["0ep", "2ep"]'), grows)
    rules = ('{ warmup = ["0ep", "2ep", "4ep"] }', '{ scaling = ["linear", "none"] }')
    with pytest.raises(
        UsageError, match=r"along durations, grids or numbers. Claim worst is along 'scaling', which has 'lin"
    ):
        parsed(
            ("[claims.worst]", arms % 'scaling = ["linear", "none"]'), grows, rules, ('axis = "warmup"', 'axis = "scaling"')
        )


@pytest.mark.parametrize(
    ("figure", "sentence"),
    [
        (
            'kind = "curves"\narm = "warn"',
            "The figure 1 is about arm 'warn', but the arms are warm. Perhaps you meant 'warm'.",
        ),
        ('kind = "curve"\narm = "warm"', "figures.0.kind (in the study): "),
        ('kind = "curves"', "figures.0.arm (in the study): "),
        (
            'kind = "curves"\narm = "warm"\n[[figures]]\nnumber = 1\ntitle = "T"\nkind = "final"\narm = "warm"',
            "The figures of a study have different numbers. Got [1, 1].",
        ),
    ],
)
def test_a_figure(twelve_text, figure, sentence):
    with pytest.raises(UsageError) as caught:
        parse(f'{twelve_text}\n[[figures]]\nnumber = 1\ntitle = "T"\n{figure}\n')
    assert sentence in without_line(caught.value)


@pytest.mark.parametrize(
    "text",
    ["name = ", 'name = "a"\nname = "b"', "[arms.a]\n[arms.a]", "a = 1\x00", "x = 0123", "a" * 10, "[" * 100_000],
)
def test_what_is_no_toml(text):  # faults 85, 87
    with pytest.raises(UsageError, match=r"^The study must be TOML\. "):
        parse(text)


def test_a_missing_arm_list(twelve_text):
    with pytest.raises(UsageError, match=r"arms \(in the study\): Field required"):
        parse(twelve_text.split("[arms")[0])


def test_a_study_from_a_file(tmp_path, twelve_text):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + twelve_text.replace("\n", "\r\n").encode())  # fault 85: byte-order mark, CRLF
    assert parse(source_text(str(path))) == parse(twelve_text)


@pytest.mark.parametrize("content", [b"name = 'caf\xe9'", b"#" * 1_000_001], ids=["Latin-1", "huge"])
def test_a_file_that_cannot_be_read(tmp_path, content):  # faults 85, 87
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="A settings file is"):
        source_text(str(path))


def test_no_such_study():
    names = "poster, poster-cifar10, poster-cifar10-cpu, poster-digits"
    with pytest.raises(UsageError, match=rf"one of {names}, or a TOML file\. Got 'poster-digit'\. Perhaps you me"):
        source_text("poster-digit")


@pytest.mark.parametrize("text", [source_text("poster"), source_text("poster-digits"), THREE_ARMS])
def test_toml_there_and_back(text):
    study = parse(text)
    again = parse(to_toml(study))
    assert again == study
    assert [trial.fingerprint for trial in again.trials()] == [trial.fingerprint for trial in study.trials()]
    assert to_toml(again) == to_toml(study)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
AXES = {
    "warmup": st.lists(st.sampled_from(["0ep", "1ep", "2.5ep", "600st", "30720im"]), min_size=2, max_size=4, unique=True),
    "base_lr": st.lists(st.floats(1e-12, 1e12), min_size=2, max_size=3, unique=True),
    "zero_gamma": st.just([True, False]),
    "decay_at": st.just([["1ep", "2ep"], []]),
    "train_images": st.lists(st.integers(10, 1787), min_size=2, max_size=3, unique=True),
    "image_size": st.just(["none", 8]),
}
SETTINGS = st.fixed_dictionaries(
    {}, optional={"momentum": st.floats(0, 0.99), "model": TEXT, "epochs": st.just("3ep"), "threads": st.integers(1, 9)}
)


@st.composite
def generated(draw: st.DrawFn) -> Study:
    arms = {}
    for name in draw(st.lists(TEXT, min_size=1, max_size=3, unique=True)):
        axis = draw(st.sampled_from(sorted(AXES)))
        arms[name] = {"label": draw(TEXT), "set": draw(SETTINGS), "axes": {axis: draw(AXES[axis])}}
    arm = draw(st.sampled_from(sorted(arms)))
    ((axis, values),) = arms[arm]["axes"].items()
    claim = {"text": draw(TEXT), "test": "equivalent", "arms": [arm], "axis": axis, "between": [values[1], values[0]]}
    return Study.model_validate(
        {
            "name": draw(st.text(string.ascii_letters + string.digits, min_size=1, max_size=64)),
            "title": draw(TEXT),
            "recipe": draw(st.sampled_from(["digits", "digits-iter"])),
            "seeds": draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4, unique=True)),
            "margin": draw(st.floats(1e-300, 1e300)),
            "level": draw(st.floats(0.51, 0.999)),
            "notes": draw(st.lists(TEXT, max_size=2)),
            "set": draw(SETTINGS),
            "arms": arms,
            "claims": {draw(TEXT): claim},
            "figures": [{"number": draw(st.integers(0, 9999)), "kind": "final", "arm": arm, "title": draw(TEXT)}],
        }
    )


@settings(max_examples=150)
@given(generated())
def test_any_study_comes_back_from_toml(study):
    again = parse(to_toml(study))
    assert again == study
    assert list(again.arms) == list(study.arms)


def test_fewer_seeds_are_the_first_ones(parsed):
    study = parsed()
    fewer = changed(study, seeds=2)
    assert fewer.seeds == [0, 1]
    assert {trial.fingerprint for trial in fewer.trials()} < {trial.fingerprint for trial in study.trials()}
    assert changed(study, seeds=4) == study
    for number in (0, -1, 5):
        with pytest.raises(UsageError, match=rf"twelve has 4 seeds; --seeds takes 1 to that many. Got {number}."):
            changed(study, seeds=number)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("base_lr", "0.25", 0.25),
        ("train_images", "480", 480),
        ("train_images", "none", None),
        ("zero_gamma", "true", True),
        ("epochs", "10", "10ep"),
        ("decay_at", "1ep,2ep", ["1ep", "2ep"]),
        ("grid", "40X1X8", "40x1x8"),
        ("model", "cifar-resnet20", "cifar-resnet20"),
    ],
)
def test_a_setting_given_as_text(parsed, name, text, value):
    study = changed(parsed(), settings={name: text})
    assert {str(trial.recipe.values()[name]) for trial in study.trials()} == {str(value)}
    assert {type(trial.recipe.values()[name]) for trial in study.trials()} == {type(value)}
    assert parse(to_toml(study)) == study


@pytest.mark.parametrize(
    ("given_settings", "sentence"),
    [
        ({"warmup": "3ep"}, "Arm warm of study twelve decides warmup itself; edit a copy of the study's file."),
        ({"seed": "3"}, "--seed cannot be given; choose --seeds."),
        ({"momentun": "0.5"}, "'momentun' is not a field of the recipe. Perhaps you meant 'momentum'."),
        ({"momentum": "fast"}, "momentum (in the recipe): "),
        ({"scaling": "per-worker"}, "The scaling rule 'per-worker' has one worker as its reference"),
    ],
)
def test_a_setting_that_cannot_be(parsed, given_settings, sentence):
    with pytest.raises(UsageError) as caught:
        changed(parsed(), settings=given_settings)
    assert sentence in str(caught.value)
