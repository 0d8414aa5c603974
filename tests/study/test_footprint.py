"""The disk that a study takes: sizes of models against the models, a trial against what a finished one really uses."""

import os

import pytest

from widestep.data.facts import DataFacts
from widestep.records.place import Space
from widestep.study import footprint as module
from widestep.study.estimate import data_facts, plans
from widestep.study.footprint import MODELS, ModelSize, disk_need, footprint

FACTS = DataFacts("digits", 960, 837, 10, (1, 8, 8), "")


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize(("num_classes", "num_channels"), [(10, 1), (1000, 3)])
def test_the_sizes_of_the_shipped_models(name, num_classes, num_channels):
    from widestep.models.build import MODEL_NAMES, build_model

    model = build_model(name, num_classes=num_classes, image_shape=(num_channels, 32, 32))
    parameters, statistics = model.slot_parameters(0), model.slot_statistics(0)
    size = MODELS[name]
    assert size.parameters(num_classes, num_channels) == sum(one.numel() for one in parameters.values())
    assert 2 * size.num_channels == sum(one.numel() for one in statistics.values())
    assert (size.num_tensors, size.num_statistics) == (len(parameters), len(statistics))
    assert set(MODELS) == set(MODEL_NAMES)


def test_a_large_model_by_hand(make):
    """ResNet-50: 25,557,032 parameters and 53,120 statistics; best and final, two states with momentum and 4 policies."""
    store = make(("axes = {", 'set = { model = "resnet50", train_images = 960 }\naxes = {'))
    plan = plans(store.trials)[store.trials[0].fingerprint]
    facts = DataFacts("imagenet", 960, 837, 1000, (3, 224, 224), "")
    weights = 4 * (25_557_032 + 53_120)
    state = weights + 4 * (25_557_032 + 8 * 26_560)
    found = footprint(plan, MODELS["resnet50"], facts, None)
    assert found.at_end == pytest.approx(2 * weights + 2 * state, rel=1e-3)
    assert found.at_most - found.at_end == pytest.approx(state, rel=1e-3)


def test_short_trials_leave_fewer_states(make):
    """They are saved every 10 seconds, and the newest two are kept."""
    store = make()
    plan = plans(store.trials)[store.trials[0].fingerprint]
    ends = [footprint(plan, MODELS["digits-resnet"], FACTS, seconds).at_end for seconds in (None, 60.0, 20.0, 19.9, 9.9)]
    state = ends[2] - ends[3]
    assert ends == [ends[4] + count * state for count in (2, 2, 2, 1, 0)]
    assert state == 53_248  # 49,952 bytes in blocks of 4,096


def need(store, num_jobs=1):
    facts = data_facts(store.trials)
    return disk_need(store, store.trials, plans(store.trials, facts), facts, {}, num_jobs)


def test_a_study_is_the_sum_of_its_trials(make):
    store = make()
    whole, each = need(store, num_jobs=2)
    assert len(each) == 12
    assert whole.num_bytes == sum(one.at_end for one in each.values())
    one = next(iter(each.values()))
    assert whole.at_most == whole.num_bytes + 2 * (one.at_most - one.at_end)
    assert whole.free == pytest.approx(os.statvfs(store.directory).f_bavail * os.statvfs(store.directory).f_frsize, rel=0.1)
    assert whole.fits is True


def test_a_study_that_does_not_fit(make, monkeypatch):
    store = make()
    at_most = need(store)[0].at_most
    for free, fits in ((at_most, True), (at_most - 1, False)):
        monkeypatch.setattr(module, "space", lambda directory, free=free: Space("ext4", "/", free, None))
        assert need(store)[0].fits is fits


def test_a_model_of_ones_own_is_known_once_a_trial_is_finished(make, fake, tmp_path):
    (tmp_path / "net.py").write_text("class Net: pass\n")
    store = make(("axes = {", f'set = {{ model = "{tmp_path}/net.py:Net" }}\naxes = {{'))
    whole, each = need(store)
    assert (whole.num_bytes, whole.fits, each) == (None, None, {})
    assert whole.basis.endswith("net.py:Net is not known before a trial is finished")
    fake.finish(store.run(store.trials[0]))
    (store.run(store.trials[0]).checkpoints / "final.safetensors").write_bytes(b"x" * 4_000_000)
    whole, _ = need(store)
    own = footprint(plans(store.trials)[store.trials[0].fingerprint], ModelSize(10**6), FACTS, None)
    assert whole.num_bytes == 12 * own.at_end
    assert own.at_end == pytest.approx(2 * 4e6 + 2 * 8e6, rel=0.02)
