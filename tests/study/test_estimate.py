"""How long a study takes: images counted by hand, a speed whose origin is said."""

import pytest

from widestep.errors import DataError, UsageError
from widestep.study.estimate import MEASURED_SPEED, estimate, plans
from widestep.study.study import parse, source_text


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
    with pytest.raises(UsageError, match="comes with its own training images"):
        plans(parsed(("[arms.warm]", '[set]\ndata = "folder:/nowhere"\n\n[arms.warm]')).trials())


def test_a_speed_that_is_given(make):
    found = estimate(make(), 1_000_000, 4, images_per_second=500.0)
    assert (found.num_images, found.seconds, found.basis) == (1_000_000, 500.0, "the speed given")


def test_the_speed_of_what_has_run(make, fake):
    store = make()
    for trial in store.trials[:3]:
        fake.finish(store.run(trial))  # 1,000 images in half a second
    found = estimate(store, 100_000, 2)
    assert (found.seconds, found.basis) == (25.0, "the trials finished so far")


def test_runs_of_a_stack_share_its_seconds(make, fake):
    store = make(("[arms.warm]", "[set]\nstack = 4\n\n[arms.warm]"))
    for trial in store.trials[:3]:
        fake.finish(store.run(trial))  # 1,000 images in half a second, side by side with three others
    assert estimate(store, 100_000, 2).seconds == 100_000 / (4 * 2_000) / 2


def test_the_speed_that_was_measured(make):
    found = estimate(make(), 500_000, 2)
    assert MEASURED_SPEED["digits-resnet"] == 25_000
    assert found.seconds == 10.0
    assert "25,000 images/s of one core" in found.basis
    assert "yours will differ" in found.basis


@pytest.mark.parametrize(
    "arm", ['set = { model = "resnet18" }\naxes', 'axes = { model = ["digits-resnet", "resnet18"] }\n#']
)
def test_no_speed_is_invented(make, arm):
    store = make(("axes", arm), text=source_of_arms())
    found = estimate(store, 600_000, 2)
    assert found.seconds is None
    assert "give --images-per-second" in found.basis


def source_of_arms():
    return 'name = "n"\ntitle = "t"\nrecipe = "digits"\nseeds = [0]\nmargin = 0.5\n\n[arms.a]\naxes = { warmup = ["0ep"] }\n'
