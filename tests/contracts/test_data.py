"""What every data set keeps to: facts that planning can trust, a split, and images that are functions of id and key."""

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from widestep.data.augment import Augmentation
from widestep.data.facts import describe
from widestep.data.loading import Loading
from widestep.data.source import open_source
from widestep.errors import UsageError

NUM_TRAIN = {"digits": 100, "folder": 8}
SIZE = {"digits": None, "folder": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes; 4 training and 2 validation images each, of different sizes."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(3)
    for part, count in (("train", 4), ("val", 2)):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (20 + number, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{number}.JPEG")
    return root


@pytest.fixture(params=["digits", "folder"])
def spec(request, folder):
    return "digits" if request.param == "digits" else f"folder:{folder}"


def options(spec):
    kind = spec.partition(":")[0]
    return {"train_images": NUM_TRAIN[kind] if kind == "digits" else None, "image_size": SIZE[kind]}


def augmentations(spec):
    return [name for name in get_args(Augmentation) if spec != "digits" or name != "random-resized-crop"]


@pytest.fixture
def opened(spec):
    sources = []

    def open_with(augment="none", num_threads=0):
        sources.append(open_source(spec, augment=augment, loading=Loading(num_threads=num_threads), **options(spec)))
        return sources[-1]

    yield open_with
    for source in sources:
        source.close()


def keys_of(ids):
    return np.asarray(ids, dtype=np.uint64) * np.uint64(7_919) + np.uint64(1)


def test_planning_sees_what_training_gets(spec, opened):
    facts, source = describe(spec, **options(spec)), opened()
    assert source.facts == facts
    assert facts.num_train == NUM_TRAIN[spec.partition(":")[0]]
    split = source.split(5)
    assert (len(split.train), len(split.val)) == (facts.num_train, facts.num_val)
    assert len(source.labels) == facts.num_train + facts.num_val
    assert sorted(set(source.labels.tolist())) == list(range(facts.num_classes))
    assert source.evaluation_images(split.val[:3]).result().shape == (3, *facts.image_shape)


def test_no_image_both_trains_and_validates(opened):
    for seed in (0, 1, 2**63 - 1):
        split = opened().split(seed)
        assert sorted([*split.train, *split.val]) == list(range(len(opened().labels)))
        assert np.array_equal(split.train, opened().split(seed).train)


def test_an_image_is_a_function_of_its_id_and_key(spec, opened):  # D3
    for augment in augmentations(spec):
        ids = opened().split(0).train[:6]
        images = opened(augment).training_images(ids, keys_of(ids)).result()
        assert images.dtype == torch.float32
        assert torch.isfinite(images).all()
        backwards = opened(augment, num_threads=2).training_images(ids[::-1].copy(), keys_of(ids[::-1])).result()
        assert torch.equal(images.flip(0), backwards)
        each = (opened(augment).training_images(ids[n : n + 1], keys_of(ids[n : n + 1])) for n in range(6))
        assert torch.equal(images, torch.cat([image.result() for image in each]))


def test_a_key_changes_an_image_exactly_when_it_is_augmented(spec, opened):
    for augment in augmentations(spec):
        ids = opened().split(0).train[:6]
        one, other = (opened(augment).training_images(ids, keys_of(ids) + np.uint64(shift)).result() for shift in (0, 1))
        assert torch.equal(one, other) == (augment == "none")


def test_evaluation_is_never_augmented(spec, opened):
    for augment in augmentations(spec):
        ids = opened().split(0).val[:4]
        assert torch.equal(opened(augment).evaluation_images(ids).result(), opened().evaluation_images(ids).result())


def test_images_are_normalised(opened):
    source = opened()
    images = source.evaluation_images(source.split(0).train).result()
    assert abs(images.mean()) < 1.5
    assert 0.3 < images.std() < 3


def test_published_counts_have_no_images():
    facts = describe("imagenet")
    assert (facts.num_train, facts.num_val, facts.num_classes) == (1_281_167, 50_000, 1_000)
    with pytest.raises(UsageError, match="Use folder:PATH"):
        open_source("imagenet")
