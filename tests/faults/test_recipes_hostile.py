"""Rows 87 to 89 and G11: recipes that are meant to do harm, or are damaged at random, cost neither time nor memory."""

import os
import random
import subprocess
import sys
import time

import pytest

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan

LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
KEYS = sorted(Recipe.model_fields)


BOMBS = {
    "too large": "#" * 100_001,
    "deep list": "x = " + "[" * 49_000 + "]" * 49_000,
    "deep table": "x = " + "{a=" * 24_000 + "1" + "}" * 24_000,
    "dotted key": "a" + ".a" * 49_000 + " = 1",
    "dotted heading": "[a" + ".a" * 49_000 + "]",
    "dotted keys": "\n".join(f"a{'.a' * 900}.b{number} = 1" for number in range(50)),
    "nested headings": "\n".join(f"[{'.'.join('a' * number)}]" for number in range(1, 300)),
    "keys": "\n".join(f"k{number} = 1" for number in range(9_000)),
    "tables": "\n".join(f"[t{number}]" for number in range(9_000)),
    "arrays of tables": "[[a]]\n" * 16_000,
    "long text": f'x = "{"a" * 99_000}"',
    "unfinished text": f'x = """{"a" * 99_000}',
    "digits": f"seed = {'9' * 99_000}",
    "hexadecimal digits": f"seed = 0x{'f' * 99_000}",
    "points": "decay_at = [" + "1," * 40_000 + "]",
    "ramp": f'worker_ramp = "{",".join(f"{number}ep:8" for number in range(1, 9_000))}"',
    "name": f'model = "{"a" * 99_000}"',
    "many errors": "\n".join(f"{key} = {{}}" for key in KEYS),
    "escapes": 'x = "' + "\\u0041" * 16_000 + '"',
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_two_seconds(refusal, name):  # row 87
    began = time.process_time()
    refusal(BOMBS[name])
    assert time.process_time() - began < 2.0


def test_bombs_take_no_memory(program, tmp_path):  # row 87
    for number, text in enumerate(BOMBS.values()):
        (tmp_path / f"{number}.toml").write_text(text)
    script = (
        "import re, sys\nfrom widestep.cli.main import run\n"
        "codes = [run(['lr', '--recipe', name]) for name in sys.argv[1:]]\n"
        "status = open('/proc/self/status').read()\n"  # the resource usage would count whoever started this process
        "print(set(codes), int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)"
    )
    words = [sys.executable, "-c", script, *(str(tmp_path / f"{number}.toml") for number in range(len(BOMBS)))]
    found = subprocess.run(words, env=program.environment(), capture_output=True, text=True, timeout=600, check=True)
    codes, megabytes = found.stdout.rsplit(" ", 1)
    assert codes == "{2}"
    assert int(megabytes) < 200


@pytest.mark.parametrize("special", ["/dev/zero", "/dev/stdin", ".", "/"])
def test_what_is_no_ordinary_file_is_not_read(special):  # row 87
    with pytest.raises(UsageError, match="A recipe is one of"):
        recipes.load(special)


@pytest.mark.parametrize(
    "text",
    [
        "model = !!python/object/apply:os.system ['touch PWNED']",
        'model = "$(touch PWNED)"',
        'model = "${HOME}"',
        "model = \"__import__('os').system('touch PWNED')\"",
        'data = "folder:`touch PWNED`"',
        'seed = "1; touch PWNED"',
        "base_lr = \"__import__('os').system('touch PWNED')\"",
        'grid = "{{ 7*7 }}"',
        '[about]\nsource = "${jndi:ldap://x}"',
    ],
)
def test_code_in_a_recipe_is_text_or_refused(say, tmp_path, text):  # row 88
    (tmp_path / "mine.toml").write_text(text + "\n")
    for words in (
        ("lr", "--recipe", "mine.toml", "--steps", "0:1"),
        ("recipes", "show", "mine.toml"),
        ("diff", "mine.toml", "digits"),
    ):
        assert say(*words)[0] in (0, 2, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--epochs 0", "epochs is 0; give for example 1ep or 600st."),
        (f"--epochs {2**63}st", "epochs (in the recipe): A duration is a number of epochs"),
        ("--seed -1", "seed (in the recipe): Input should be greater than or equal to 0. Got '-1'."),
        (f"--seed {2**63}", "seed (in the recipe): "),
        ("--grid 1000000x1x1", "960 training images are fewer than 1,000,000"),
        ("--grid 240x1x128", "960 training images are fewer than 30,720"),  # row 67
        ("--epochs 1000000000000st", "At most 1,000,000 rates are listed at a time. Training takes 1,000,000,000,000 steps"),
    ],
)
def test_sizes_that_cannot_be(say, words, sentence):  # row 89
    code, stdout, stderr = say("lr", *words.split())
    assert (code, stdout) == (2, "")
    assert sentence in stderr


def test_sizes_that_are_merely_large_have_a_plan(say):  # row 89
    code, stdout, _ = say("train", "--dry-run", "--grid", "1000000x1x1", "--tail", "pad")
    assert code == 0
    assert "1000000 x 1 images = 1,000,000 a step" in stdout
    code, stdout, _ = say("lr", "--epochs", "1000000000000st", "--steps", "999999999998:")
    assert (code, len(stdout.splitlines()[-2].split())) == (0, 3)


PIECES = (
    '"',
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    ".",
    "#",
    "\n",
    '"""',
    "\\u",
    "\0",
    "\xff",
    "é",
    "nan",
    "inf",
    "true",
    "1e999",
    "-",
)
PIECES += (
    "9" * 30,
    "[[",
    "]]",
    "0x",
    "\r",
    "ep",
    "st",
    ":",
    "x",
    ",",
    "\t",
    "none",
    "recipe",
    "about",
    "variants",
    "\ufeff",
)


def mutated(text, rng):
    for _ in range(rng.randint(1, 4)):
        at, other = rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)
        low, high = sorted((at, min(other, at + rng.randrange(40))))
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:low] + text[high:]
        elif kind == 1:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif kind == 2:
            text = text[:low] + rng.choice(PIECES) + text[high:]
        else:
            text = text[:at] + text[low:high] * rng.randint(1, 5) + text[at:]
    return text


def test_any_damaged_text_is_read_or_refused_in_a_sentence(load):  # G11
    rng = random.Random(11)
    sources = [(recipes._folder() / f"{name}.toml").read_text() for name in recipes.names()]
    sources += [recipes.to_toml(Recipe()), "seed = 1\ngrid = '2x1x8'\nwarmup = 3\n[about]\na = 1\n"]
    num_read = num_refused = 0
    for _ in range(5_000 if LONG else 200):
        text = mutated(rng.choice(sources), rng)
        began = time.process_time()
        try:
            RunPlan(load(text.encode("utf-8", "surrogatepass")), 1_281_167).describe()
            num_read += 1
        except UsageError as error:
            num_refused += bool(str(error))
        assert time.process_time() - began < 2.0
    assert num_read > 10
    assert num_refused > 50
    print(f"{num_read} read, {num_refused} refused")
