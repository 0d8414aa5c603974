"""Rows 83 to 89 for studies: what is wrong with a study's file is said with its line, before anything is run."""

import os
import random
import time

import pytest

from widestep.cli.main import run
from widestep.errors import UsageError
from widestep.study.consistency import MOST_RUNS
from widestep.study.study import Study, parse, source_text, to_toml

LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
STUDY = """name = "mine"
title = "A question"
recipe = "digits"
seeds = [0, 1]
margin = 0.5

[set]
epochs = "9ep"

[arms.warm]
label = "Warmups"
set = { momentum = 0.8 }

[arms.warm.axes]
warmup = ["0ep", "2ep"]

[arms.wide]
axes = { grid = ["2x1x8", "4x1x8"] }

[claims.falls]
text = "It falls."
test = "falls"
arms = ["wide"]
axis = "grid"

[[figures]]
number = 1
kind = "final"
arm = "warm"
title = "Warmups"
"""


def refusal(old="", new="", text=STUDY):
    assert old in text
    with pytest.raises(UsageError) as caught:
        parse(text.replace(old, new, 1), "study a.toml", is_new=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("margin =", "margn =", "'margn' is not a field of the study a.toml, line 5. Perhaps you meant 'margin'."),
        ("margin = 0.5", "margin = 0.5\nmomentum = 0.9", "'momentum' is not a field of the study a.toml, line 6. It is a"),
        ("label =", "lable =", "'arms.warm.lable' is not a field of the study a.toml, line 11. Perhaps you meant 'label'."),
        ("[arms.warm.axes]", "[arms.warm.axs]", "'arms.warm.axs' is not a field of the study a.toml, line 14. Perhaps"),
        ("test =", "tset =", "'claims.falls.tset' is not a field of the study a.toml, line 22. Perhaps you meant 'test"),
        ("kind =", "knd =", "'figures.0.knd' is not a field of the study a.toml, line 28. Perhaps you meant 'kind'."),
        ("[arms.wide]\n", "[arms.wide]\nmomentum = 0.9\n", "'arms.wide.momentum' is not a field of the study a.toml, line"),
        ("[arms.warm]", "[arm.warm]", "'arm' is not a field of the study a.toml, line 10. Perhaps you meant 'arms'."),
        (
            "momentum = 0.8",
            "momentun = 0.8",
            "Arm warm of study mine: 'momentun' is not a field of the recipe of study a.toml, line 12. Perhaps you meant "
            "'momentum'.",
        ),
        ("warmup = [", "wramup = [", "'wramup' is not a field of the recipe of study a.toml, line 15. Perhaps you"),
        ("epochs =", "epoch =", "'epoch' is not a field of the recipe of study a.toml, line 8. Perhaps you meant 'epoch"),
        ("momentum = 0.8", 'momentum = "0.8"', "momentum (in the recipe of study a.toml, line 12): Input should be a"),
        ('"2ep"', '"2xx"', "warmup (in the recipe of study a.toml, line 15): A duration is a number"),
        ('"2ep"', '"10ep"', "warmup and epochs (in the recipe of study a.toml, lines 8 and 15): A warmup ends before"),
        ('"9ep"', '"1ep"', "warmup and epochs (in the recipe of study a.toml, lines 8 and 15): A warmup ends before"),
        ("0.8 }", '0.8, compression = "fp16" }', "compression and mode (in the recipe of study a.toml, line 12): Com"),
        ('"0ep", "2ep"', "", "arms.warm.axes.warmup (in the study a.toml, line 15): An axis has at least one value."),
        ("0.8 }", '0.8, warmup = "1ep" }', "(in the study a.toml, lines 12 and 15): A field of an arm is either set or an"),
        ("0.8 }", "0.8, seed = 3 }", "arms.warm and seeds (in the study a.toml, lines 4 and 10): Every cell runs with the"),
        ('arms = ["wide"]', 'arms = ["wied"]', "claims.falls.arms (in the study a.toml, line 23): The claim falls is about"),
        ('arm = "warm"', 'arm = "wram"', "figures.0.arm (in the study a.toml, line 29): The figure 1 is about arm 'wram'"),
        ('axis = "grid"', 'axis = "warmup"', "(in the study a.toml, lines 18 and 24): Claim falls compares along 'warmup'"),
        ('axis = "grid"', 'axis = "grid"\nbetween = [1, 1]', "(in the study a.toml, lines 18 and 25): Claim falls compares"),
        ("[0, 1]", "[0, 0]", "seeds (in the study a.toml, line 4): The seeds of a study are different numbers"),
        ("[0, 1]", f"[{2**63 - 1}, -1]", "seeds (in the study a.toml, line 4): The seeds of a study are different"),
        ("[0, 1]", f"[{2**63}]", "A whole number has at most 19 digits. That of seeds in the study a.toml has more."),
        ("[0, 1]", "[]", "seeds (in the study a.toml, line 4): List should have at least 1 item"),
        ("margin = 0.5", "margin = 0", "margin (in the study a.toml, line 5): Input should be greater than 0. Got 0."),
        ("margin = 0.5", "margin = 0.5\nmargin = 1", "must be TOML. Cannot overwrite a value (at line 6, "),
        ('"mine"', '"../mine"', "name (in the study a.toml, line 1): String should match pattern"),
        ('"mine"', '"$(touch PWNED)"', "name (in the study a.toml, line 1): String should match pattern"),
        ('recipe = "digits"', 'recipe = "digtis"', "Got 'digtis'. Perhaps you meant 'digits'."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(old, new, sentence):  # rows 83 to 86
    assert sentence in refusal(old, new)


def test_an_axis_times_an_axis_is_counted_before_it_is_made():  # row 87
    axes = "\n".join(
        f"{name} = [{', '.join(str(number / 200) for number in range(100))}]" for name in ("momentum", "beta1", "beta2")
    )
    began = time.process_time()
    said = refusal("set = { momentum = 0.8 }\n\n[arms.warm.axes]\n", f"\n[arms.warm.axes]\n{axes}\n")
    assert f"arms and seeds (in the study a.toml, lines 4 and 10): A study has at most {MOST_RUNS:,} runs." in said
    assert time.process_time() - began < 1.0


def test_a_study_that_was_cut_short_can_be_opened_again():
    """`study run --epochs 1` writes down arms with longer warmups."""
    text = STUDY.replace('"9ep"', '"1ep"')
    study = parse(text)
    assert parse(to_toml(study)) == study


@pytest.mark.parametrize("name", ["x" * 5_000, "a\tb", "/", ".", "nowhere.toml", "/dev/zero", "poster-digit"])
def test_there_is_no_such_study(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["study", "plan", name]) == 2
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert stderr.startswith(
        "widestep: A study is one of poster, poster-cifar10, poster-cifar10-cpu, poster-digits, or a TOML file."
    )
    assert list(tmp_path.iterdir()) == []


PIECES = ('"', "'", "[", "]", "{", "}", "=", ".", "#", "\n", '"""', "\0", "é", "nan", "true", "1e999", "-", "9" * 30, "[[")
PIECES += ("]]", "\r", "ep", ":", ",", "set", "arms", "claims", "figures", "axes", "seed", "recipe", "<script>", "=1+1")


def mutated(text, rng):
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.randrange(60))
        kind = rng.randrange(3)
        text = text[:at] + (rng.choice(PIECES) if kind < 2 else text[at:end] * 2) + text[end if kind else at :]
    return text


def test_any_damaged_study_is_read_or_refused_in_a_sentence():  # G11
    rng = random.Random(12)
    sources = [STUDY] * 4 + [source_text("poster-digits"), source_text("poster")]
    num_read = num_refused = 0
    for _ in range(5_000 if LONG else 150):
        text = mutated(rng.choice(sources), rng)
        began = time.process_time()
        try:
            assert isinstance(parse(text, "study a.toml", is_new=True), Study)
            num_read += 1
        except UsageError as error:
            num_refused += bool(str(error))
        assert time.process_time() - began < 2.0
    assert num_read > 5
    assert num_refused > 50
    print(f"{num_read} read, {num_refused} refused")
