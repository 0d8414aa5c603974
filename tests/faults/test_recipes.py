"""Rows 67, 68 and 83 to 86: whatever is wrong with a recipe is said in one sentence with file and line."""

import random
import string

import pytest

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan

KEYS = sorted(Recipe.model_fields)


def typos_of(key, rng, number):
    """Different one-letter typos of a key: left out, another, one more, two exchanged."""
    found = set()
    while len(found) < number:
        at, letter = rng.randrange(len(key)), rng.choice(string.ascii_lowercase)
        swapped = key[:at] + key[at + 1 : at + 2] + key[at] + key[at + 2 :]
        typo = rng.choice(
            (key[:at] + key[at + 1 :], key[:at] + letter + key[at + 1 :], key[:at] + letter + key[at:], swapped)
        )
        if typo not in Recipe.model_fields:
            found.add(typo)
    return sorted(found)


def test_a_typo_of_a_key_is_named_with_its_line_and_what_was_meant(refusal):  # row 83
    rng, right, total = random.Random(83), 0, 0
    for number, key in enumerate(KEYS):
        for typo in typos_of(key, rng, 5):
            text = "# a comment\n" * (number % 4) + f'seed = 1\n"{typo}" = 3\n' + ("[about]\nx = 1\n" if number % 2 else "")
            said = refusal(text)
            assert said.startswith(f"'{typo}' is not a field of the recipe mine.toml, line {number % 4 + 2}.")
            right += f"Perhaps you meant '{key}'." in said
            total += 1
    assert right >= 0.95 * total


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[optimizer]\nmomentum = 0.9\n",
            "optimizer (in the recipe mine.toml, line 1): Input should be 'sgd', ",
        ),
        ("[training]\nmomentum = 0.9\n", "line 1. What is in it is known outside of it: momentum."),
        ("seed = 1\nprocesses = 2\n", "line 2. It decides no weight, so it is no part of a recipe: give --processes on"),
        ("[recipe]\nseed = 1\n[recipe.data]\nmomentum = 1\n", "data (in the recipe mine.toml, line 3): Input should be a"),
        ("seed = 1\n\n[variants.a]\nsed = 2\n", ""),  # a variant that nobody asks for
    ],
)
def test_a_key_in_the_wrong_section(load, refusal, text, sentence):  # row 83
    if sentence:
        assert sentence in refusal(text)
    else:
        assert load(text).seed == 1
        with pytest.raises(UsageError, match=r"'sed' is not a field of the recipe mine\.toml:a, line 4\. Perhaps"):
            recipes.load("mine.toml:a")


def test_many_wrong_keys_are_not_all_said(refusal):  # row 83
    said = refusal("".join(f"key{number} = 1\n" for number in range(5_000)))
    assert "'key4' is not a field" in said
    assert "'key5'" not in said
    assert said.endswith(" And 4,995 more.")


NUMERIC = [name for name, field in Recipe.model_fields.items() if field.annotation in (int, float, int | None, float | None)]
NEVER_NUMBERS = ('"1e-3"', "no", "012", '"0.1 "', "true", "nan", "-inf", "[1]", "{ a = 1 }", '""', "2020-01-01", "'٣'")
NEVER_NUMBERS += ("1e400", "9" * 19, "9" * 400, "9" * 5_000, "0x" + "f" * 5_000, "[[]]", "-1", "1_", "+-1", "1.")


@pytest.mark.parametrize("name", NUMERIC)
def test_what_is_no_number_is_never_taken_for_one(refusal, load, name):  # row 84
    for text in NEVER_NUMBERS:
        if (name, text) == ("seed", "9" * 19):
            continue  # larger than 2**63
        said = refusal(f"# first\n{name} = {text}\n")
        assert name in said or "must be TOML" in said
        assert "line 2" in said or "digits" in said
    for text in ("1.5", "true", '"3"'):
        if Recipe.model_fields[name].annotation in (int, int | None):
            assert f"{name} (in the recipe mine.toml, line 1): Input should be a valid integer" in refusal(
                f"{name} = {text}\n"
            )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("base_lr", "1e-3", 0.001),
        ("base_lr", "1", 1.0),
        ("base_lr", "1_000.5", 1000.5),
        ("seed", "0x10", 16),
        ("seed", "1_000", 1000),
        ("seed", f"{2**63 - 1}", 2**63 - 1),
        ("decay_factor", '"1e-3"', (0.001,)),
        ("warmup_start", '"0.1 "', 0.1),
    ],
)
def test_a_number_means_what_it_says(load, name, text, value):  # row 84
    assert getattr(load(f"{name} = {text}\n"), name) == value


@pytest.mark.parametrize("name", ["epochs", "warmup", "decay_at", "evaluate_every", "blend_centre", "decay_end", "grid"])
@pytest.mark.parametrize(
    "text", ["true", '"1e3"', '"5 epochs"', "nan", "-1", '"٣"', '"5ep;"', '["1", ["2"]]', "{}", '"1.5st"']
)
def test_what_is_no_length_is_never_taken_for_one(refusal, name, text):  # row 84
    assert refusal(f"\n\n{name} = {text}\n").startswith(f"{name} (in the recipe mine.toml, line 3): A ")


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        (b"\xef\xbb\xbfseed = 3\n", 3),
        (b"seed = 3\r\n\r\nmomentum = 0.5\r\n", 3),
        (b"\tseed\t=\t3\t\n", 3),
        (b'"seed" = 3', 3),
        ("model = 'größe.py:Net'\nseed = 3\n".encode(), 3),
    ],
)
def test_forms_of_text_that_are_read_as_they_are_meant(load, text, seed):  # row 85
    assert load(text).seed == seed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"seed = 1\nbase_lr = 0.1\nseed = 2\n", "must be TOML. Cannot overwrite a value (at line 3, "),
        (b"[recipe]\nseed = 1\n[recipe]\nseed = 2\n", "(at line 3, "),
        (b"seed = 1\r\n\r\nmodel = 'gr\xf6\xdfe'\r\n", "mine.toml, line 3, has the byte 0xf6; save it as UTF-8."),
        ("seed = 1\n".encode("utf-16"), "mine.toml, line 1, has the byte 0xff; save it as UTF-8."),
        (b"seed = 1\nmodel = 'a\0b'\n", "Found invalid character '\\x00' (at line 2, "),
        (b"seed: 1\n", "(at line 1, "),
        (b"seed = 1\nlr: 1e-3\n", "(at line 2, "),
        (b"seed = 1\rmomentum = 0.9\n", "(at line 1, "),
        (b"\r\nmomentun = 0.9\r\n", "'momentun' is not a field of the recipe mine.toml, line 2."),
        (b"[recipe]\nmomentum = [\n['a'],\n['b'],\n]\nmomentun = 1\n", "mine.toml, line 6."),
        (b"model = '''\na\nb'''\ndecay_at = [\n'1',\n# ]\n'2'\n]\nmomentun = 1\n", "mine.toml, line 9."),
    ],
)
def test_forms_of_text_that_are_refused_with_their_line(refusal, text, sentence):  # row 85
    assert sentence in refusal(text)


CONTRADICTIONS = """
    warmup epochs : warmup = "6ep" epochs = "5ep"
    warmup epochs : warmup = "601st" epochs = "600st"
    warmup epochs : warmup = "37ep"
    warmup epochs : warmup = 2 epochs = 1
    warmup epochs : warmup = "3ep" epochs = "5ep" scaling = "legw" reference_batch = 16
    worker_ramp epochs : worker_ramp = "5ep:8" epochs = "5ep"
    worker_ramp epochs : worker_ramp = ["2ep:8", "9ep:16"] epochs = 9
    decay_end epochs : decay_end = "6ep" epochs = "5ep" lr_decay = "linear"
    decay_end epochs : decay_end = "601st" epochs = "600st" lr_decay = "cosine"
    scaling reference_batch : scaling = "linear"
    scaling reference_batch : scaling = "sqrt"
    scaling reference_batch : scaling = "legw"
    scaling reference_batch : scaling = "per-worker" reference_batch = 256
    scaling reference_batch : scaling = "none-as-run" reference_batch = 256
    scaling reference_batch : scaling = "adascale" reference_batch = 256
    reference_batch scaling : reference_batch = 256
    decay_factor decay_at : decay_factor = [0.1, 0.2]
    decay_factor decay_at : decay_factor = [0.1, 0.2] decay_at = ["1ep"]
    decay_factor decay_at : decay_factor = [0.1, 0.2, 0.3] decay_at = []
    lr_decay final_lr : lr_decay = "exponential"
    lr_decay final_lr : lr_decay = "exponential" final_lr = 0.0
    warmup_shape warmup_start : warmup_shape = "exponential" warmup_start = "zero"
    warmup_shape warmup_start : warmup_shape = "exponential" warmup_start = 0
    optimizer warmup_start : optimizer = "rmsprop-sgd" warmup_first = "closed" warmup_start = "zero"
    optimizer warmup_first : optimizer = "rmsprop-sgd" warmup_first = "closed" warmup_start = 0.0
    batchnorm grid : batchnorm = "group:3"
    batchnorm grid : batchnorm = "group:8" grid = "1x4x8"
    batchnorm grid : batchnorm = "group:4" grid = "2x3x8"
    batchnorm worker_ramp : batchnorm = "group:4" worker_ramp = "2ep:6"
    mode batchnorm : mode = "fast" batchnorm = "sync"
    mode scaling : mode = "fast" scaling = "adascale"
    mode worker_norms : mode = "fast" worker_norms = true
    compression mode : compression = "fp16"
    compression mode : compression = "bf16" mode = "reproducible"
    compile mode : compile = "max-autotune"
    compile mode : compile = "max-autotune" mode = "reproducible"
    compile workers_per_forward : compile = "default" worker_norms = true workers_per_forward = 2
    compile scaling : compile = "default" scaling = "adascale" workers_per_forward = 2
    batchnorm scaling : batchnorm = "sync" scaling = "adascale"
    batchnorm scaling : batchnorm = "group:2" scaling = "adascale"
    batchnorm worker_norms : batchnorm = "sync" worker_norms = true
    model workers_per_forward : model = "net.py:Net" scaling = "adascale" workers_per_forward = 2
    model worker_norms : model = "net.py:Net" worker_norms = true workers_per_forward = 2
    images_per_forward workers_per_forward : images_per_forward = 4 workers_per_forward = 2
    images_per_forward batchnorm : images_per_forward = 4 batchnorm = "sync"
    images_per_forward batchnorm : images_per_forward = 4 batchnorm = "group:2"
    base_lr grid : base_lr = 1e308 grid = "100x1x8"
    base_lr scaling : base_lr = 1e308 scaling = "linear" reference_batch = 1
    epochs epochs : epochs = 0
    epochs epochs : epochs = "0st"
    epochs epochs : epochs = "9999999999999st"
    evaluate_every evaluate_every : evaluate_every = 0
    momentum momentum : momentum = 1.0
    momentum momentum : momentum = -0.1
    beta2 beta2 : optimizer = "adamw" beta2 = 1
    grid grid : grid = ""
    grid grid : grid = "0x1x8"
    grid grid : grid = "1x4x-8"
    grid grid : grid = "1x4"
    grid grid : grid = "9999999x11x1"
    grid grid : grid = "99999999x1x1"
    worker_ramp worker_ramp : worker_ramp = "2ep:8,1ep:4"
    dropout dropout : dropout = 1
    label_smoothing label_smoothing : label_smoothing = 1.0
    stack stack : stack = 0
    seed seed : seed = -1
    images_per_forward images_per_forward : images_per_forward = 0
    train_images train_images : train_images = 0
"""
TABLE = [line.strip().partition(" : ")[::2] for line in CONTRADICTIONS.strip().splitlines()]


def settings_of(text):
    """Cut `a = 1 b = "x y"` into [("a", "1"), ("b", '"x y"')]."""
    words, found = text.split(), []
    for index, word in enumerate(words):
        if word == "=":
            found.append((words[index - 1], []))
        elif index + 1 == len(words) or words[index + 1] != "=":
            found[-1][1].append(word)
    return [(name, " ".join(value)) for name, value in found]


def test_the_table_is_long_enough():
    assert len(TABLE) >= 60


@pytest.mark.parametrize(("names", "text"), TABLE)
def test_contradictions_name_both_keys_and_their_lines(refusal, names, text, say, tmp_path):  # row 86
    settings = settings_of(text)
    lines = [f"{name} = {value}" for name, value in settings]
    source = "\n".join(["# mine", *lines]) + "\n"
    given = {name: number for number, (name, _) in enumerate(settings, start=2)}
    if "epochs" in names and names != "epochs epochs" and "epochs" not in given:
        code, _, said = (tmp_path / "mine.toml").write_text(source) and say("lr", "--recipe", "mine.toml")
        assert code == 2
    else:
        said = refusal(source)
        for name in given.keys() & set(names.split()):
            assert str(given[name]) in said.partition("): ")[0].partition(", line")[2]
    for name in names.split():
        assert name in said
    if not any(mark in text for mark in "[]{}"):  # the same from the command line
        options = [f"--{name.replace('_', '-')}={value.strip(chr(34))}" for name, value in settings]
        (tmp_path / "mine.toml").write_text("[about]\n")
        code, stdout, stderr = say("train", "--recipe", "mine.toml", "--dry-run", *options)
        assert (code, stdout) == (2, "")
        for name in names.split():
            assert name in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_recipe_may_be_cut_short(say, tmp_path):
    """A length of training alone, as for a first try, leaves the warmup as it is: that is said and not refused."""
    code, stdout, _ = say("train", "--dry-run", "--epochs", "1")
    assert code == 0
    assert "warning    warmup: 2ep is longer than the training of 1ep: the peak rate is never reached." in stdout
    cut_short = Recipe(epochs="1ep")
    (tmp_path / "recipe.toml").write_text(recipes.to_toml(cut_short))
    assert recipes.load("recipe.toml").recipe == cut_short


@pytest.mark.parametrize("tail", ["drop", "pad", "short"])
@pytest.mark.parametrize("num_images", [31, 32, 33, 37, 64])
def test_what_becomes_of_the_tail_is_said_with_its_size(tail, num_images):  # row 68
    """32 images a step of 4 workers: dropped are N mod 32, repeated -N mod 4, in a smaller step N mod 32."""
    recipe = Recipe(grid="4x1x8", tail=tail, epochs="2ep", warmup="1ep")
    if num_images < 32 and tail == "drop":
        with pytest.raises(UsageError, match=r"31 training images are fewer than 32 \(4x1x8\): use fewer workers"):
            RunPlan(recipe, num_images)
        return
    said = next(line for line in RunPlan(recipe, num_images).describe() if line.startswith("epochs"))
    number = -num_images % 4 if tail == "pad" else num_images % 32
    verb = {"drop": "dropped an epoch", "pad": "repeated an epoch", "short": "in a smaller last step"}[tail]
    assert said.endswith(f"tail {tail}: {number} images {verb}" if number else f"tail {tail}: none left over")


def test_every_field_of_an_execution_is_known_in_a_recipe_as_such(refusal):
    for name in Execution.model_fields:
        assert f"give --{name.replace('_', '-')} on the command line" in refusal(f"{name} = 1\n")
