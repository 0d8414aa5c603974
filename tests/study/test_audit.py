"""The audit: an option that changed nothing is named, one that acts where no ledger looks is not, and every n is right."""

import json
from dataclasses import replace

import pytest

from widestep.cli.main import run
from widestep.plan.recipe import Recipe
from widestep.study import audit as module
from widestep.study.audit import audit, ineffective, planned
from widestep.study.coincidence import ELSEWHERE, RATE_FIELDS
from widestep.study.estimate import plans
from widestep.study.store import StudyStore
from widestep.study.study import parse

STEPS = 378

# Figure 7 of the poster: 240 workers, a base rate of 0.0125. Left unscaled was only the rate that the optimizer was made
# with, which the program overwrote before every step.
FIGURE_7 = """
name = "figure-7"
title = "Scaling against none at 30,720 images a step"
recipe = "poster"
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
margin = 0.2

[set]
grid = "40x6x128"
warmup = "10ep"

[arms.linear]
set = { scaling = "linear", reference_batch = 128 }

[arms.per-worker]
set = { scaling = "per-worker" }

[arms.none-as-run]
set = { scaling = "none-as-run" }

[arms.none]
set = { scaling = "none" }
"""
APPLIED = {"linear": 3.0, "per-worker": 3.0, "none-as-run": 3.0, "none": 0.0125}


def small(arms, more=""):
    return (
        'name = "small"\ntitle = "t"\nrecipe = "digits"\nseeds = [0, 1, 2]\nmargin = 0.5\n'
        f'[set]\nepochs = "12st"\n{more}\n{arms}'
    )


@pytest.fixture
def written(tmp_path, fake):
    """`written(text, run)` writes a study and its runs; `run(cell, seed)` says what a run left, None that it never ran."""

    def write(text, run):
        store = StudyStore.create(tmp_path / "study", parse(text))
        for arm in store.study.arms:
            for cell in store.study.cells(arm):
                for seed in store.study.seeds:
                    left = run(cell, seed)
                    if left is not None:
                        leave(store.directory / "trials" / cell.fingerprint(seed), cell.recipe, seed, **left)
        return store

    def leave(directory, recipe, seed, *, lr, weights, status="complete", steps=12, every=1, ledger=None, correct=800):
        directory.mkdir(parents=True, exist_ok=True)
        result = fake.result_of(fake.Run(directory, recipe.model_copy(update={"seed": seed})), status, correct)
        result = replace(result, steps=steps, weights_sha256=str(weights))
        (directory / "result.json").write_text(json.dumps(result.as_dict()))
        (directory / "STATUS").write_text(f"{status}\n")
        if ledger is None:
            ledger = "".join(
                json.dumps(entry(step, seed, lr)) + "\n"
                for step in range(steps)
                if (step + 1) % every == 0 or step == steps - 1
            )
        (directory / "ledger.jsonl").write_text(ledger)

    return write


def entry(step, seed, lr):
    """A line of a ledger; a rate may depend on the step."""
    rate = lr(step) if callable(lr) else lr
    groups = [{"name": "all", "lr": rate, "weight_decay": 5e-5, "momentum": 0.9, "num_tensors": 161}]
    whole = {"images": 320, "gradient_scale": 1 / 320, "clip": None, "gain": None, "batchnorm_images": 8}
    return {"step": step, "groups": groups, **whole, "image_ids": f"{100 * seed + step:016x}"}


def kinds(found):
    return [(one.kind, one.fields) for one in found]


def test_the_constructors_rate_of_figure_7(written):
    store = written(
        FIGURE_7, lambda cell, seed: {"lr": APPLIED[cell.arm], "weights": (APPLIED[cell.arm], seed), "steps": STEPS}
    )
    found = audit(store)
    assert (found.num_runs, found.num_audited, found.num_settings, found.num_pairs) == (48, 48, 4, 6)
    same = [one for one in found.found if one.kind == "same"]
    assert [one.settings for one in same] == [
        ["linear", "per-worker"],
        ["linear", "none-as-run"],
        ["per-worker", "none-as-run"],
    ]
    assert same[2].text == (
        "scaling per-worker against none-as-run changed nothing that was applied at any of the 378 recorded steps in 12 "
        "seeds; the weights are the same bytes (per-worker; none-as-run)"
    )
    assert [(one.num_seeds, one.num_steps, one.num_pairs) for one in same] == [(12, 378, 1)] * 3
    assert same[0].fields == ["scaling", "reference_batch"]
    assert "scaling linear with reference_batch 128 against scaling per-worker with reference_batch none" in same[0].text
    assert not any("none" in one.settings for one in found.found)
    assert [one.recipes for one in same][2] == [
        module.recipe_key(store.study.cells(arm)[0].recipe) for arm in same[2].settings
    ]
    assert found.notes == []
    digests = {one.arm: one.digest for one in found.digests}
    assert digests["linear"] == digests["per-worker"] == digests["none-as-run"] != digests["none"]
    assert [one.difference for one in found.digests] == ["", *["no difference"] * 2, "step 0: lr 0.0125 against 3.0"]
    json.dumps(found.record(), allow_nan=False)


def test_it_is_seen_before_anything_ran():
    study = parse(FIGURE_7)
    said = planned(study, plans(study.trials()))
    assert [one.settings for one in said if one.kind == "planned"] == [
        ["linear", "per-worker"],
        ["linear", "none-as-run"],
        ["per-worker", "none-as-run"],
    ]
    # 1,281,167 images are 41 whole steps of 30,720 an epoch, for 90 epochs
    text = (
        "scaling per-worker against none-as-run changes no planned rate at any of the 3,690 steps (per-worker; none-as-run)"
    )
    assert said[2].text == text
    assert kinds(said[3:]) == [("without-effect", ["scaling"])]
    assert said[3].text.startswith("scaling none-as-run has no effect wherever it is set: ")


TWO = "[arms.a]\naxes = { %s }\n"


@pytest.mark.parametrize(
    ("axis", "because"),
    [
        ("zero_gamma = [false, true]", "zero_gamma acts on the initial weights"),
        ("label_smoothing = [0.0, 0.1]", "label_smoothing acts on the loss"),
        (
            "batchnorm_running = ['mean', 'worker0']",
            "batchnorm_running acts on the running statistics, which evaluation uses",
        ),
        ("optimizer = ['lars-tf', 'lars-nus']", "optimizer acts on the optimizer's update"),
    ],
)
def test_what_acts_where_no_ledger_looks_is_no_idle_option(written, axis, because):
    name = axis.partition(" ")[0]
    store = written(small(TWO % axis), lambda cell, seed: {"lr": 0.1, "weights": (seed, str(getattr(cell.recipe, name)))})
    found = audit(store)
    assert found.found == []
    (note,) = found.notes
    assert (note.kind, note.fields, note.num_seeds, note.num_steps) == ("elsewhere", [name], 3, 12)
    assert f"applied the same at all 12 recorded steps in 3 seeds, and the weights differ: {because} (" in note.text


def test_the_same_weights_measured_otherwise(written):
    axis = "evaluation = ['exact', 'batch-means']"
    run = {"lr": 0.1, "weights": "w"}
    store = written(small(TWO % axis), lambda cell, seed: {**run, "correct": 800 + (cell.recipe.evaluation == "exact")})
    found = audit(store)
    assert (found.found, kinds(found.notes)) == ([], [("measured", ["evaluation"])])
    assert "trained the same weights, byte for byte, in 3 seeds: only what was measured differs" in found.notes[0].text


RATES = TWO % "warmup = ['0st', '3st']"


def test_a_difference_between_recorded_steps_is_no_idle_option(written):
    """With a record every fourth step the warmup of three steps is over before the first one."""

    def run(cell, seed):
        warm = cell.recipe.warmup.amount
        return {"lr": lambda step: 0.05 if step < warm else 0.1, "weights": warm, "every": 4}

    found = audit(written(small(RATES), run))
    assert (found.found, kinds(found.notes)) == ([], [("elsewhere", ["warmup"])])
    assert found.notes[0].num_steps == 3
    assert "the weights differ: what was applied differs at steps that were not recorded, or" in found.notes[0].text


def test_a_rate_that_changed_nothing_although_the_weights_differ(written):
    """Every step is recorded, so the reason is elsewhere: the option is idle all the same."""
    found = audit(written(small(RATES), lambda cell, seed: {"lr": 0.1, "weights": (cell.label, seed)}))
    assert kinds(found.found) == [("applied", ["warmup"])]
    assert (
        "changed nothing that was applied at any of the 12 recorded steps in 3 seeds; the weights differ"
        in found.found[0].text
    )


@pytest.mark.parametrize("seed_that_differs", [0, 1, 2])
def test_one_step_of_one_seed_is_a_difference(written, seed_that_differs):
    def run(cell, seed):
        odd = cell.label == "warmup 3st" and seed == seed_that_differs
        return {"lr": lambda step: 0.2 if odd and step == 7 else 0.1, "weights": seed}

    found = audit(written(small(RATES), run))
    assert (found.found, found.notes, found.num_pairs) == ([], [], 1)
    assert found.digests[1].difference == "step 7: lr 0.2 against 0.1"


def test_runs_of_other_lengths_are_not_the_same(written):
    axis = "epochs = ['8st', '12st']"
    text = small(TWO % axis).replace('epochs = "12st"\n', "")
    store = written(text, lambda cell, seed: {"lr": 0.1, "weights": "w", "steps": int(cell.recipe.epochs.amount)})
    found = audit(store)
    assert (found.found, found.notes, found.num_audited) == ([], [], 6)


def test_ledgers_of_other_cadences_are_compared_where_both_recorded(written):
    """Steps 2, 5, 8 and 11 of the one, 3, 7 and 11 of the other: one step in common."""
    store = written(small(RATES), lambda cell, seed: {"lr": 0.1, "weights": seed, "every": 3 + (cell.label == "warmup 3st")})
    (one,) = audit(store).found
    assert (one.kind, one.num_steps, one.num_seeds) == ("same", 1, 3)


USELESS = {
    "absent": "",
    "damaged": "{\n",
    "partial": "".join(json.dumps(entry(step, 1, 0.1)) + "\n" for step in range(11)),
    "torn": "".join(json.dumps(entry(step, 1, 0.1)) + "\n" for step in range(12))[:-1],
}


@pytest.mark.parametrize("ledger", USELESS.values(), ids=USELESS)
def test_ledgers_that_cannot_be_used_are_counted(written, ledger):
    def run(cell, seed):
        kept = cell.label == "warmup 0st" or seed != 1
        return {"lr": 0.1, "weights": seed, "ledger": None if kept else ledger}

    found = audit(written(small(RATES), run))
    assert (found.num_runs, found.num_audited, found.num_without_ledger, found.num_diverged) == (6, 5, 1, 0)
    (one,) = found.found
    assert (one.kind, one.num_seeds) == ("same", 2)
    assert "in 2 seeds, 1 seed more without two usable ledgers; the weights are the same bytes" in one.text


def test_weights_count_at_every_seed(written):
    """No ledger at seed 1, but other weights there."""

    def run(cell, seed):
        return {"lr": 0.1, "weights": (seed, seed == 1 and cell.label), "ledger": "" if seed == 1 else None}

    assert [one.kind for one in audit(written(small(RATES), run)).found] == ["applied"]


def test_diverged_runs(written):
    def run(cell, seed):
        return {"lr": 0.1, "weights": seed, **({"status": "diverged", "steps": 5} if seed == 2 else {})}

    found = audit(written(small(RATES), run))
    assert (found.num_audited, found.num_diverged, found.num_without_ledger) == (4, 2, 0)
    (one,) = found.found
    assert (one.num_seeds, one.num_steps) == (2, 12)
    assert "in 2 seeds, 1 seed more diverged alike; the weights" in one.text


@pytest.mark.parametrize("steps", [5, 12])
def test_a_run_that_diverged_alone_shows_that_something_differs(written, steps):
    def run(cell, seed):
        alone = seed == 2 and cell.label == "warmup 3st"
        return {"lr": 0.1, "weights": seed, **({"status": "diverged", "steps": steps} if alone else {})}

    found = audit(written(small(RATES), run))
    assert (found.found, found.notes) == ([], [])


def test_one_seed_and_runs_that_have_no_outcome(written):
    def run(cell, seed):
        return {"lr": 0.1, "weights": seed} if seed == 1 or (seed == 0 and cell.label == "warmup 0st") else None

    store = written(small(RATES), run)
    found = audit(store)
    assert (found.num_runs, found.num_audited, found.num_diverged, found.num_without_ledger) == (6, 3, 0, 0)
    assert "at any of the 12 recorded steps in 1 seed; the weights" in found.found[0].text
    (store.path(store.trials[1]) / "result.json").write_text("{")
    found = audit(store)
    assert (found.num_audited, found.found, found.num_pairs) == (2, [], 0)


def test_a_result_of_another_recipe_does_not_count(written):
    store = written(small(RATES), lambda cell, seed: {"lr": 0.1, "weights": seed})
    first, other = (store.path(trial) / "result.json" for trial in (store.trials[0], store.trials[1]))
    first.write_bytes(other.read_bytes())
    assert audit(store).num_audited == 5


def test_nothing_ran(written):
    found = audit(written(small(RATES), lambda cell, seed: None))
    assert (found.num_audited, found.found, found.notes, found.num_pairs) == (0, [], [], 0)
    assert [(one.digest, one.num_runs, one.difference) for one in found.digests] == [("", 0, "")] * 2


def test_an_option_that_did_nothing_in_all_its_uses_is_one_statement(written):
    """Three values of an option at two rates: 2 x 3 pairs differ in it alone, and all of them did the same."""
    arms = '[arms.a]\nset = { optimizer = "sgd" }\naxes = { beta2 = [0.9, 0.99, 0.999], base_lr = [0.1, 0.2] }\n'
    store = written(small(arms), lambda cell, seed: {"lr": cell.recipe.base_lr, "weights": (cell.recipe.base_lr, seed)})
    one, other = audit(store).found
    assert (one.kind, one.fields, one.num_pairs, one.num_uses) == ("same", ["beta2"], 6, 6)
    assert one.text.startswith(
        "beta2 0.9, 0.99 and 0.999 changed nothing that was applied at any of the 12 recorded steps in 3 seeds, in all 6 "
        "pairs of settings that differ in nothing else; the weights are the same bytes (a: beta2 0.9, base_lr 0.1; "
    )
    assert (other.kind, other.text) == (
        "without-effect",
        "beta2 0.9 and 0.99 has no effect wherever it is set: sgd does not look at squared gradients",
    )


def test_an_option_that_did_something_somewhere_is_named_where_it_did_nothing(written):
    """Where a warmup starts matters when there is one."""
    arms = TWO % "warmup = ['0st', '6st'], warmup_start = ['base', 'zero']"

    def run(cell, seed):
        warmup = float(cell.recipe.warmup.amount)
        matters = bool(warmup) and cell.recipe.warmup_start == "zero"
        return {"lr": 0.1 if matters else 0.2 + warmup, "weights": (warmup, matters, seed)}

    found = audit(written(small(arms), run))
    (one,) = [one for one in found.found if one.kind == "same"]
    assert (one.fields, one.num_pairs, one.num_uses) == (["warmup_start"], 1, 2)
    assert one.settings == ["a: warmup 0st, warmup_start base", "a: warmup 0st, warmup_start zero"]


def test_a_recipe_in_two_arms_is_one_setting(written):
    arms = TWO % "warmup = ['0st', '3st']" + '[arms.b]\nset = { warmup = "3st" }\n'
    found = audit(written(small(arms), lambda cell, seed: {"lr": 0.1, "weights": seed}))
    assert (found.num_runs, found.num_settings) == (6, 2)
    assert found.found[0].settings == ["a: warmup 0st", "a: warmup 3st"]
    assert len(found.digests) == 3


def test_every_ledger_is_read_once(written, monkeypatch):
    """Forty settings have 780 pairs; each setting's ledgers are read once all the same."""
    rates = [round(0.1 + 0.01 * number, 2) for number in range(40)]
    store = written(small(TWO % f"base_lr = {rates}"), lambda cell, seed: {"lr": cell.recipe.base_lr, "weights": 0})
    read = []
    monkeypatch.setattr(module, "read_ledger", lambda path, _read=module.read_ledger: read.append(path) or _read(path))
    found = audit(store)
    assert (len(read), len(set(read)), found.num_pairs) == (120, 120, 780)
    assert found.found == []


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (TWO % "warmup = ['0ep', '1ep']", []),
        (TWO % "warmup = ['0ep', '1ep'], warmup_start = ['base', 'zero']", [["warmup_start"]]),
        (TWO % "label_smoothing = [0.0, 0.1]", []),  # plans the same rates, and acts on the loss
        (TWO % "final_lr = [0.0, 0.01]", [["final_lr"]]),
        ('[arms.a]\nset = { scaling = "none" }\n[arms.b]\nset = { scaling = "linear", grid = "1x1x8" }\n', []),
    ],
)
def test_planned_rates(arms, expected):
    study = parse(small(arms).replace("12st", "4ep"))
    said = planned(study, plans(study.trials()))
    assert [one.fields for one in said if one.kind == "planned"] == expected


def test_a_gain_that_nobody_knows_yet_is_no_coincidence():
    """AdaScale's schedule is that of an unscaled rate; what multiplies it is known only at the step."""
    arms = '[arms.a]\nset = { scaling = "none" }\n[arms.b]\nset = { scaling = "adascale" }\n'
    study = parse(small(arms, "lr_decay = 'constant'"))
    one, other = (plan.schedule.trace() for plan in list(plans(study.trials()).values())[::3])
    assert one == other
    assert [said for said in planned(study, plans(study.trials())) if said.kind == "planned"] == []


def test_fields_without_effect_are_named_where_an_arm_sets_them():
    arms = '[arms.a]\nset = { clip_norm = 1.0, beta2 = 0.9 }\n[arms.b]\nset = { optimizer = "adamw", beta2 = 0.9 }\n'
    arms += "[arms.c]\naxes = { lr_decay = ['constant', 'cosine'], final_lr = [0.001, 0.01] }\n"
    (one,) = ineffective(parse(small(arms)))
    assert one.text == "beta2 0.9 has no effect in arm a: sgd does not look at squared gradients"
    study = parse(small(arms, "trust_coefficient = 0.01"))
    text = "trust_coefficient 0.01 has no effect wherever it is set: sgd is not LARS; adamw is not LARS"
    assert next(one.text for one in ineffective(study)) == text


def test_every_field_is_accounted_for():
    """A field acts through what a ledger holds, or it is known to act elsewhere; a new one must be put in its place."""
    in_ledgers = {"weight_decay", "clip_norm", "grid", "worker_ramp", "epochs", "tail", "batchnorm", "adascale_smoothing"}
    assert set(Recipe.model_fields) == {"seed"} | in_ledgers | RATE_FIELDS | set(ELSEWHERE)
    assert not RATE_FIELDS & set(ELSEWHERE)


@pytest.fixture
def say(capsys, tmp_path, monkeypatch):
    """`say("study", "plan", ...)` runs a command line and returns its code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def execute(*words):
        capsys.readouterr()
        code = run(list(map(str, words)))
        return code, *capsys.readouterr()

    return execute


def test_a_plan_prints_what_will_change_nothing(say, tmp_path):
    (tmp_path / "figure-7.toml").write_text(FIGURE_7)
    code, stdout, stderr = say("study", "plan", "figure-7.toml", "--images-per-second", 1000)
    said = [one.text for one in planned(parse(FIGURE_7), plans(parse(FIGURE_7).trials()))]
    assert (code, stderr, len(said)) == (0, "", 4)
    assert [line.removeprefix("audit      ") for line in stdout.splitlines() if line.startswith("audit ")] == said
    _, stdout, _ = say("study", "plan", "figure-7.toml", "--images-per-second", 1000, "--json")
    assert [one["text"] for one in json.loads(stdout)["audit"]] == said
    _, stdout, _ = say("study", "plan", "poster-digits")
    assert "audit" not in stdout
    assert "audit" not in json.loads(say("study", "plan", "poster-digits", "--json")[1])


def test_states_and_the_end_of_a_study_say_what_changed_nothing(say, written):
    store = written(small(RATES), lambda cell, seed: {"lr": 0.1, "weights": seed})
    (found,) = audit(store).found
    code, stdout, stderr = say("study", "status", store.directory)
    assert (code, stderr) == (0, f"audit      {found.text}\n")
    assert "audit" not in stdout
    rows = json.loads(say("study", "status", store.directory, "--json")[1])
    assert [row["audit"] for row in rows] == [[found.text]] * 6
    code, stdout, stderr = say("study", "retry", store.directory, "--no-report")
    assert (code, stdout, stderr.splitlines()[-1]) == (0, "", f"audit      {found.text}")
    code, stdout, stderr = say("study", "retry", store.directory)
    assert (code, "audit" in stderr) == (0, False)
    assert "audit  warmup 0st against 3st changed nothing that was applied" in stdout


def test_trials_that_nothing_was_found_about_stay_as_they_are(say, written):
    store = written(small(RATES), lambda cell, seed: {"lr": 0.1 + float(cell.recipe.warmup.amount), "weights": seed})
    code, stdout, stderr = say("study", "status", store.directory, "--json")
    assert (code, stderr) == (0, "")
    assert all("audit" not in row for row in json.loads(stdout))


def test_only_the_first_findings_are_said(say, written):
    fields = ("beta2", "rmsprop_lr", "epsilon", "trust_coefficient", "trust_epsilon", "adascale_smoothing")
    more = "".join(f"{name} = 0.5\n" for name in fields)
    store = written(small(RATES, more), lambda cell, seed: {"lr": 0.1 + float(cell.recipe.warmup.amount), "weights": seed})
    lines = say("study", "status", store.directory)[2].splitlines()
    assert len(lines) == 6
    assert lines[-1] == "audit      and 1 more; the report has all"
