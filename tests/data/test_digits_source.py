import numpy as np
import pytest
import torch

from widestep.data import digits
from widestep.data.source import open_source
from widestep.errors import UsageError
from widestep.plan.randomness import Stream, uniforms_of_keys


def opened(augment: str = "none", train_images: int | None = None):
    return open_source("digits", augment=augment, train_images=train_images)


def keys_of(ids, epoch: int = 0):
    return Stream(0, "augment").keys(np.asarray(ids), epoch)


def test_images_are_normalised():
    source = opened()
    images = source.evaluation_images(np.arange(1797)).result()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert abs(images.double().mean()) < 1e-6
    assert abs(images.double().std(correction=0) - 1) < 1e-6
    # Paper (0 - 4.884165) / 6.016788 and ink (16 - 4.884165) / 6.016788.
    np.testing.assert_allclose([images.min(), images.max()], [-0.8117562, 1.8474700], rtol=1e-6)
    assert source.labels.dtype == torch.int64
    assert source.labels.tolist() == digits.load().labels.tolist()


def test_training_images_without_augmentation():
    source, ids = opened(), np.array([5, 1796, 0, 5])
    images = source.training_images(ids, keys_of(ids)).result()
    assert torch.equal(images, source.evaluation_images(ids).result())
    assert torch.equal(images[0], images[3])
    pixels = digits.load().pixels[ids].astype(np.float64)
    np.testing.assert_allclose(images[:, 0], (pixels - 4.884165) / 6.016788, rtol=1e-6)


def test_shift_flip_by_hand():
    """Every output pixel is the pixel of the old image it came from, or paper outside."""
    source, ids = opened("shift-flip"), np.arange(40)
    images = source.training_images(ids, keys_of(ids)).result()
    expected = np.zeros((40, 8, 8))
    for m, (flip, across, down) in enumerate(uniforms_of_keys(keys_of(ids), 3)):
        for y in range(8):
            for x in range(8):
                row, column = y + int(down * 9) - 4, (7 - x if flip < 0.5 else x) + int(across * 9) - 4
                if 0 <= row < 8 and 0 <= column < 8:
                    expected[m, y, x] = digits.load().pixels[ids[m], row, column]
    np.testing.assert_allclose(images[:, 0], (expected - 4.884165) / 6.016788, rtol=1e-6)
    assert images.is_contiguous()


def test_flip_by_hand():
    source, ids = opened("flip"), np.arange(40)
    images = source.training_images(ids, keys_of(ids)).result()
    flips = uniforms_of_keys(keys_of(ids), 3)[:, 0] < 0.5
    plain = source.evaluation_images(ids).result()
    assert 0 < flips.sum() < 40
    for m, flip in enumerate(flips):
        assert torch.equal(images[m], plain[m].flip(2) if flip else plain[m])


def test_augmentation_depends_on_the_key_alone():
    """# D3"""
    source, ids = opened("shift-flip"), np.arange(100, 160)
    keys = keys_of(ids)
    together = source.training_images(ids, keys).result()
    order = np.random.default_rng(0).permutation(60)
    assert torch.equal(source.training_images(ids[order], keys[order]).result(), together[torch.from_numpy(order)])
    alone = torch.cat([source.training_images(ids[m : m + 1], keys[m : m + 1]).result() for m in range(60)])
    assert torch.equal(alone, together)
    assert not torch.equal(source.training_images(ids, keys_of(ids, epoch=1)).result(), together)


@pytest.mark.parametrize("augment", ["none", "flip", "shift-flip"])
def test_any_array_of_ids_is_taken(augment):
    """Slices with steps, other integers and read-only arrays, without a warning."""
    source, ids = opened(augment), np.arange(30)
    expected = source.training_images(ids[1::3].copy(), keys_of(ids[1::3])).result()
    frozen = ids[1::3].copy()
    frozen.setflags(write=False)
    for form in (ids[1::3], ids[1::3].astype(np.int32), frozen):
        assert torch.equal(source.training_images(form, keys_of(form)).result(), expected)


def test_batches_do_not_share_memory():
    source = opened()
    source.training_images(np.arange(3), keys_of(range(3))).result().zero_()
    assert source.evaluation_images(np.arange(3)).result().abs().sum() > 0


def test_split():
    source = opened(train_images=960)
    train, val = source.split(seed=7)
    assert (len(train), len(val)) == (source.facts.num_train, source.facts.num_val) == (960, 837)
    counts = torch.bincount(source.labels[torch.from_numpy(train)])
    assert counts.tolist() == [95, 97, 94, 98, 97, 97, 97, 96, 93, 96]
    assert not np.array_equal(train, source.split(seed=8).train)


def test_no_random_resized_crop():
    with pytest.raises(UsageError, match=r"photographs.*8x8.*shift-flip"):
        opened("random-resized-crop")


def test_close_does_no_harm():
    opened().close()
