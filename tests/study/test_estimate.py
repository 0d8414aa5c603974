"""How long a study takes: steps and images counted by hand, stacks laid out over jobs, a speed whose origin is said."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.errors import DataError, UsageError
from widestep.study.estimate import MEASURED_SPEED, ShapeCost, estimate, makespan, plans
from widestep.study.study import parse, source_text

STACK = ("[arms.warm]", "[set]\nstack = 4\n\n[arms.warm]")
GRIDS = ('axes = { warmup = ["0ep", "2ep", "4ep"] }', 'axes = { grid = ["4x1x8", "10x1x8", "40x1x8"] }')
CLAIM = ('axis = "warmup"', 'axis = "grid"')


def test_images_of_the_embedded_study():
    """960 divides by every batch: 168 runs of 36 epochs and 36 of 90."""
    found = plans(parse(source_text("poster-digits")).trials())
    assert sum(plan.total_images for plan in found.values()) == 960 * (14 * 12 * 36 + 3 * 12 * 90)


def test_images_of_the_poster():
    """Of 1,281,167 images each batch drops what does not fill it: 417, 166, 83, 55 and 41 steps an epoch."""
    found = plans(parse(source_text("poster")).trials())
    steps = {3072: 417, 7680: 166, 15360: 83, 23040: 55, 30720: 41}
    assert {plan.recipe.grid.global_batch: plan.steps_per_epoch for plan in found.values()} == steps
    cells = [3072, 15360, 23040] + [7680] * 4 + [30720] * 6
    assert sum(plan.total_images for plan in found.values()) == sum(8 * 90 * batch * steps[batch] for batch in cells)


def test_a_plan_needs_the_data(parsed):
    text = parsed(("[arms.warm]", '[set]\ndata = "folder:/nowhere"\ntrain_images = "none"\n\n[arms.warm]'))
    with pytest.raises(DataError, match="nowhere"):
        plans(text.trials())
    with pytest.raises(UsageError, match=r"comes with its own training images.*set it to none"):
        plans(parsed(("[arms.warm]", '[set]\ndata = "folder:/nowhere"\n\n[arms.warm]')).trials())


def predicted(store, num_jobs=1, **known):
    return estimate(store, plans(store.trials), num_jobs, **known)


@pytest.mark.parametrize(
    ("seconds", "num_jobs", "expected"),
    [
        ([], 3, 0),
        ([5], 4, 5),
        ([3, 3, 2, 2, 2], 2, 7),  # 3+2+2 and 3+2; dividing would say 6
        ([10, 1, 1, 1], 2, 10),  # one long run decides, however many jobs
        ([2, 2, 2], 2, 4),
        ([7, 5, 4, 3, 1], 1, 20),
    ],
)
def test_tasks_laid_out_by_hand(seconds, num_jobs, expected):
    assert makespan(seconds, num_jobs) == expected


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 3))
def test_no_layout_is_better_by_more_than_the_known_bound(seconds, num_jobs):
    """Graham 1969: longest first takes at most 4/3 - 1/(3m) times as long as the best layout, found here by trying all."""
    layouts = itertools.product(range(num_jobs), repeat=len(seconds))
    best = min(
        max(sum(one for one, where in zip(seconds, layout, strict=True) if where == job) for job in range(num_jobs))
        for layout in layouts
    )
    assert best <= makespan(seconds, num_jobs) <= best * (4 / 3 - 1 / (3 * num_jobs)) + 1e-9


def test_a_speed_that_is_given(make):
    """12 runs of 36 epochs of 960 images at 4,320 images/s: 8 s each, 4 at a time."""
    found = predicted(make(), 4, images_per_second=4320.0)
    assert (found.num_images, found.num_steps, found.num_stacks) == (12 * 36 * 960, 12 * 36 * 30, 12)
    assert (found.seconds, found.basis) == (24.0, "the speed given")
    assert {*found.of_trial.values()} == {8.0}


def test_the_speed_of_what_has_run(make, fake):
    """Half a second for 10 steps: 9 runs of 1,080 steps of 0.05 s, in 5 turns of 2, after the workers have started."""
    store = make()
    for trial in store.trials[:3]:
        fake.finish(store.run(trial))
    found = predicted(store, 2)
    assert found.basis == "the trials finished so far"
    assert found.seconds == pytest.approx(4 + 5 * 54.0)
    assert (found.num_stacks, found.num_steps) == (9, 9 * 1080)


def test_runs_that_end_early_are_expected_to_end_early(make, fake):
    """AdaScale: 10 steps of 4,320 at most took half a second; the other 9 will, too, and not 0.05 s for each of 4,320."""
    store = make(("[arms.warm]", '[set]\nscaling = "adascale"\n\n[arms.warm]'))
    for trial in store.trials[:3]:
        fake.finish(store.run(trial))
    found = predicted(store, 2)
    assert found.num_steps == 9 * 4320
    assert found.seconds == pytest.approx(4 + 5 * 0.5)


def test_a_run_that_ended_early_says_nothing_of_the_speed_of_others(make, fake):
    """One kind under AdaScale has ended after 10 of 4,320 steps; of the other the shipped speed is all that is known."""
    axes = 'axes = { scaling = ["adascale", "linear"] }'
    store = make((GRIDS[0], axes), (CLAIM[0], 'axis = "scaling"'))
    for trial in store.trials:
        if trial.recipe.scaling == "adascale":
            fake.finish(store.run(trial))
    found = predicted(store)
    linear = [trial for trial in store.trials if trial.recipe.scaling == "linear"]
    assert {found.lasting[trial.fingerprint] for trial in linear} == {36 * 960 / MEASURED_SPEED["digits-resnet"]}


def test_a_run_under_adascale_that_diverged_says_nothing_of_its_kind(make, fake):
    store = make(("[arms.warm]", '[set]\nscaling = "adascale"\n\n[arms.warm]'))
    fake.finish(store.run(store.trials[0]), "diverged")
    fake.finish(store.run(store.trials[1]))
    assert predicted(store).seconds == pytest.approx(4 + 10 * 0.5)


def test_a_stack_costs_what_it_costs_with_all_its_slots_taken(make, fake):
    """Seeds 0 to 3 share a stack; two of one warmup are done, so 3 stacks are left, one of them half empty."""
    store = make(STACK)
    for trial in store.trials[:2]:
        fake.finish(store.run(trial))
    found = predicted(store)
    assert found.num_stacks == 3
    assert found.seconds == pytest.approx(4 + 3 * 54.0)
    assert sorted(found.of_trial.values()) == pytest.approx([13.5] * 8 + [27.0] * 2)
    assert [*found.lasting.values()] == pytest.approx([54.0] * 10)


def test_an_interrupted_run_tells_nothing_of_speed(make, fake, monkeypatch):
    store = make()
    result = replace(fake.result_of(store.run(store.trials[0])), interruptions=1)
    monkeypatch.setattr(fake, "result_of", lambda *_: result)
    fake.finish(store.run(store.trials[0]))
    assert "25,000 images/s" in predicted(store).basis


def test_each_kind_of_stack_has_its_own_speed(make):
    """Grids of 4, 10 and 40 workers: 30, 12 and 3 steps an epoch of 960 images, 36 epochs, 18 evaluations."""
    store = make(GRIDS, CLAIM, ("[arms.warm]", '[set]\nevaluate_every = "2ep"\n\n[arms.warm]'))
    kinds = {trial.recipe.grid.num_workers: trial.recipe.stack_key for trial in store.trials}
    probed = {
        kinds[4]: ShapeCost(1.0, 0.01, 0.5),
        kinds[10]: ShapeCost(1.0, 0.02, 0.5),
        kinds[40]: ShapeCost(1.0, 0.03, 0.5),
    }
    found = predicted(store, probed=probed)
    assert found.basis == "a probe"
    assert found.seconds == pytest.approx(4 + 4 * ((1 + 10.8 + 9) + (1 + 8.64 + 9) + (1 + 3.24 + 9)))
    of_40 = [found.of_trial[trial.fingerprint] for trial in store.trials if trial.recipe.grid.num_workers == 40]
    assert of_40 == pytest.approx([13.24] * 4)


def test_kinds_that_nothing_is_known_of_follow_from_the_others(make, fake):
    """Of 4 workers 54 s for 34,560 images are known; 10 and 40 workers take the same, having as many images."""
    store = make(GRIDS, CLAIM)
    fake.finish(store.run(store.trials[0]))
    found = predicted(store)
    assert found.basis == "the trials finished so far; 2 of 3 kinds of stack by their images"
    assert found.seconds == pytest.approx(4 + 11 * 54.0)
    kinds = {trial.recipe.grid.num_workers: trial.recipe.stack_key for trial in store.trials}
    both = predicted(store, probed={kinds[10]: ShapeCost(0.0, 0.01, 0.0), kinds[4]: ShapeCost(0.0, 9.0, 0.0)})
    assert both.basis == "the trials finished so far and a probe; 1 of 3 kinds of stack by their images"


def test_the_speed_that_was_measured(make):
    """12 runs of 34,560 images, of which each is a stack of one."""
    found = predicted(make(), 2)
    assert MEASURED_SPEED["digits-resnet"] == 25_000
    assert found.seconds == pytest.approx(4 + 6 * 34_560 / 25_000)
    assert found.basis == "25,000 images/s of one core of an AMD EPYC; yours will differ"


def test_what_is_done_of_a_run_is_not_counted(make, fake):
    """810 of 1,080 steps are saved."""
    store = make()
    for trial in store.trials[1:]:
        fake.finish(store.run(trial))
    fake.begin(store.run(store.trials[0]))
    (store.run(store.trials[0]).checkpoints / "step-0000810.safetensors").touch()
    found = predicted(store)
    assert (found.num_steps, found.num_images, found.num_stacks) == (270, 34_560 // 4, 1)
    assert found.seconds == pytest.approx(4 + 270 * 0.05)


def test_nothing_left(make, fake):
    store = make()
    for trial in store.trials:
        fake.finish(store.run(trial))
    found = predicted(store)
    assert (found.seconds, found.num_steps, found.num_images, found.basis) == (0.0, 0, 0, "nothing is left to run")


@pytest.mark.parametrize(
    "arm", ['set = { model = "resnet18" }\naxes', 'axes = { model = ["digits-resnet", "resnet18"] }\n#']
)
def test_no_speed_is_invented(make, arm):
    found = predicted(make(("axes", arm), text=source_of_arms()), 2)
    assert found.seconds is None
    assert found.basis == "not measured for resnet18; give --probe or --images-per-second"


def source_of_arms():
    return 'name = "n"\ntitle = "t"\nrecipe = "digits"\nseeds = [0]\nmargin = 0.5\n\n[arms.a]\naxes = { warmup = ["0ep"] }\n'
