"""What a probe makes of the times it takes: by a clock that the test sets, and once with real training."""

import pytest

from widestep.errors import Stopped
from widestep.plan.execution import Execution
from widestep.plan.recipes import changed, load
from widestep.train import probe
from widestep.train.probe import Measured, measure

DIGITS = load("digits").recipe


@pytest.fixture
def clocked(monkeypatch):
    """Training that takes 3 s to start, 0.5 s a step, 4 s for the first evaluation and 1 s for each after it."""
    now, seen = [100.0], []
    monkeypatch.setattr(probe.time, "monotonic", lambda: now[0])

    def train(runs, execution, world, watcher, stop):
        seen.extend(run.recipe for run in runs)
        now[0] += 3.0
        watcher.started(None)
        step, seconds = 0, 4.0
        while not stop.due(0.0):
            now[0] += 0.9 if step == 0 else 0.5
            step += 1
            watcher.stepped(None)
            if runs[0].recipe.evaluate_every.amount * (step // 2) == step:
                now[0] += seconds
                seconds = 1.0
                watcher.evaluated(None, step, None)
        raise Stopped("Stopped by the probe")

    monkeypatch.setattr(probe, "train", train)
    return seen


def measured(directory, **fields):
    usual = {"train_images": "960", "grid": "40x1x8", "evaluate_every": "2ep", "stack": "2", "images_per_evaluation": "256"}
    recipe = changed(DIGITS, {**usual, **fields})
    return measure([recipe, changed(recipe, {"seed": "1"})], Execution(), directory, 1.0)


def test_times_are_told_apart(clocked, tmp_path):
    """Statistics are computed anew up to step 43: after 6, 12, ..., 42 steps, so 7 evaluations of 18 take 3 s longer."""
    assert measured(tmp_path) == Measured(3.0 + 7 * 3.0, 0.5, 1.0)
    assert [recipe.seed for recipe in clocked] == [0, 1]
    assert {(str(recipe.evaluate_every), recipe.val_images) for recipe in clocked} == {("2st", 837)}


@pytest.mark.parametrize("fields", [{"batchnorm_recompute": "never"}, {"batchnorm_running": "precise"}])
def test_where_no_evaluation_is_special(clocked, tmp_path, fields):
    assert measured(tmp_path, **fields).start == 3.0


def test_a_long_evaluation_is_looked_at_in_part(clocked, tmp_path):
    """4 passes of 50 of the 837 validation images."""
    found = measured(tmp_path, images_per_evaluation="50")
    assert clocked[0].val_images == 200
    assert found.evaluation == pytest.approx(837 / 200)


@pytest.mark.usefixtures("quiet_torch")
def test_real_training_stops_by_itself(tmp_path):
    recipe = changed(DIGITS, {"train_images": "200", "grid": "2x1x10"})
    found = measure([recipe], Execution(tensorboard=False), tmp_path, 0.1)
    assert min(found.step, found.start) > 0
    assert found.evaluation > 0
    (run,) = tmp_path.iterdir()
    assert (run / "STATUS").read_text() == "stopped\n"
    assert not (run / "result.json").exists()
