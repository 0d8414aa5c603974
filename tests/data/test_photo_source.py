import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from widestep.data import photo_source
from widestep.data.decode import open_picture
from widestep.data.loading import NOTHING, Kept, Loading
from widestep.data.source import open_source
from widestep.errors import DataError, UsageError
from widestep.plan.randomness import Stream, uniforms_of_keys

AUGMENTATIONS = ["none", "flip", "shift-flip", "random-resized-crop"]
SIZE = 56
MEAN, STD = np.array([0.485, 0.456, 0.406])[:, None, None], np.array([0.229, 0.224, 0.225])[:, None, None]
KEYS = Stream(5, "augment").keys(np.arange(7), 0)


def normalised(pixels):
    return (pixels.transpose(2, 0, 1) / 255 - MEAN) / STD


@pytest.fixture
def photographs(tree, picture, encoded):
    """Seven images, every way of decoding among them; ids 0..4 train, 5 and 6 validate."""
    sizes = [(64, 64), (90, 70), (64, 80), (120, 65), (70, 100), (64, 64), (200, 64)]
    pictures = [picture(*size, phase=place) for place, size in enumerate(sizes)]
    content = {
        "train/a/0.png": encoded(pictures[0], "PNG"),
        "train/a/1.jpeg": encoded(pictures[1]),
        "train/b/2.JPEG": encoded(pictures[2], "PNG"),
        "train/b/3.jpg": encoded(pictures[3][:, :, 0]),
        "train/c/4.bmp": encoded(pictures[4], "BMP"),
        "val/a/5.png": encoded(pictures[5], "PNG"),
        "val/c/6.webp": encoded(pictures[6], "WEBP", lossless=True),
    }
    return tree(content), pictures


@pytest.fixture
def opened(photographs):
    sources = []

    def open_folder(augment: str = "none", num_threads: int = 0, gib_in_memory: float = 2.0, kept=None, **options):
        loading = Loading(num_threads=num_threads, gib_in_memory=gib_in_memory, kept=kept)
        options = {"image_size": SIZE, "evaluation_resize": 64, "loading": loading, **options}
        sources.append(open_source(f"folder:{photographs[0]}", augment=augment, **options))
        return sources[-1]

    yield open_folder
    for source in sources:
        source.close()


def test_ids_labels_and_split(opened):
    source = opened()
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 0, 2]
    assert source.labels.dtype == torch.int64
    for seed in (0, 1):
        train, val = source.split(seed)
        assert train.tolist() == [0, 1, 2, 3, 4]
        assert val.tolist() == [5, 6]
        assert train.dtype == val.dtype == np.int64
    assert (source.facts.num_train, source.facts.num_val, source.facts.num_classes) == (5, 2, 3)
    assert source.facts.image_shape == (3, 56, 56)


def test_evaluation_images_by_hand(opened, photographs):
    """A short side of 64 = 56 * 8 / 7 is only cut: 4 pixels at the edges, 12 and 72 along the long sides."""
    images = opened().evaluation_images(np.array([6, 0, 2, 5])).result()
    assert images.shape == (4, 3, 56, 56)
    assert images.dtype == torch.float32
    pictures = photographs[1]
    expected = [pictures[6][4:60, 72:128], pictures[0][4:60, 4:60], pictures[2][12:68, 4:60], pictures[5][4:60, 4:60]]
    np.testing.assert_allclose(images, np.stack([normalised(view) for view in expected]), atol=2e-6)


def test_training_images_without_augmentation(opened):
    source, ids = opened(), np.arange(5)
    assert torch.equal(source.training_images(ids, KEYS[:5]).result(), source.evaluation_images(ids).result())


def test_shift_flip_by_hand(opened, photographs):
    images = opened("shift-flip").training_images(np.array([0, 5, 0, 5, 0, 5, 0]), KEYS).result()
    for m, (flip, across, down) in enumerate(uniforms_of_keys(KEYS, 3)):
        padded = np.pad(photographs[1][0 if m % 2 == 0 else 5][4:60, 4:60], ((4, 4), (4, 4), (0, 0)))
        view = padded[int(down * 9) :, int(across * 9) :][:56, :56]
        np.testing.assert_allclose(images[m], normalised(view[:, ::-1] if flip < 0.5 else view), atol=2e-6)


@pytest.mark.parametrize("gib_in_memory", [0.0, 2.0])
def test_flip_by_hand(opened, photographs, gib_in_memory):
    """The images that shift-flip flips with the same keys, whole."""
    ids = np.array([0, 5, 0, 5, 0, 5, 0])
    images = opened("flip", gib_in_memory=gib_in_memory).training_images(ids, KEYS).result()
    flips = uniforms_of_keys(KEYS, 3)[:, 0] < 0.5
    assert 0 < flips.sum() < 7
    for m, flip in enumerate(flips):
        view = photographs[1][ids[m]][4:60, 4:60]
        np.testing.assert_allclose(images[m], normalised(view[:, ::-1] if flip else view), atol=2e-6)


def test_random_resized_crop_by_hand(opened, photographs):
    """Cut and resized by Pillow alone; for images of 64 x 64 and 64 x 80 the first box that fits is found by hand."""
    ids = np.array([0, 2, 0, 2, 0, 2, 0])
    images = opened("random-resized-crop").training_images(ids, KEYS).result()
    for m, draws in enumerate(uniforms_of_keys(KEYS, 23)):
        image = Image.fromarray(photographs[1][ids[m]])
        areas = image.width * image.height * (0.08 + 0.92 * draws[3:13])
        aspects = (3 / 4) * (16 / 9) ** draws[13:]
        sides = [(round((a * r) ** 0.5), round((a / r) ** 0.5)) for a, r in zip(areas, aspects, strict=True)]
        width, height = next((w, h) for w, h in sides if w <= image.width and h <= image.height)
        left, top = int(draws[1] * (image.width - width + 1)), int(draws[2] * (image.height - height + 1))
        view = image.crop((left, top, left + width, top + height)).resize((56, 56), Image.Resampling.BILINEAR)
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws[0] < 0.5 else view
        np.testing.assert_allclose(images[m], normalised(np.asarray(view)), atol=2.01 / 255 / 0.224)  # two levels


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_threads_do_not_matter(opened, augment):
    """# D3"""
    ids = np.arange(7)
    expected = opened(augment, num_threads=0).training_images(ids, KEYS).result()
    for num_threads in (1, 4):
        assert torch.equal(opened(augment, num_threads).training_images(ids, KEYS).result(), expected)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_augmentation_depends_on_the_key_alone(opened, augment):
    """# D3"""
    source, ids = opened(augment), np.arange(7)
    together = source.training_images(ids, KEYS).result()
    assert torch.equal(source.training_images(ids[::-1], KEYS[::-1]).result(), together.flip(0))
    alone = torch.cat([source.training_images(ids[m : m + 1], KEYS[m : m + 1]).result() for m in range(7)])
    assert torch.equal(alone, together)
    others = source.training_images(ids, Stream(5, "augment").keys(ids, 1)).result()
    assert torch.equal(others, together) == (augment == "none")


@pytest.mark.parametrize("num_threads", [0, 3])
def test_first_damaged_file_is_named(opened, photographs, num_threads):
    source = opened("random-resized-crop", num_threads)
    for name in ("a/1.jpeg", "b/3.jpg"):
        path = photographs[0] / "train" / name
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"3\.jpg"):
        source.training_images(np.array([0, 3, 4, 1, 2]), KEYS[:5]).result()
    assert source.training_images(np.array([0, 2]), KEYS[:2]).result().shape == (2, 3, 56, 56)


def test_vanished_file_is_named(opened, photographs):
    source = opened()
    (photographs[0] / "val" / "a" / "5.png").unlink()
    with pytest.raises(DataError, match=r"5\.png"):
        source.evaluation_images(np.array([5])).result()


def test_closing_ends_the_threads(opened):
    source = opened(num_threads=2)
    source.evaluation_images(np.array([0])).result()
    source.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        source.evaluation_images(np.array([1])).result()


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_images_kept_in_memory_are_those_decoded_each_time(opened, augment, num_threads):
    """# D3: visited in any order, some for the second time, some twice in a batch."""
    kept, fresh = opened(augment, num_threads), opened(augment, num_threads, gib_in_memory=0.0)
    for ids in ([3, 1], [1, 0, 3, 1], [6, 2, 4, 5, 0, 1, 3], [2]):
        keys = Stream(9, "augment").keys(np.array(ids), len(ids))
        for _ in range(2):
            images = kept.training_images(np.array(ids), keys).result()
            assert torch.equal(images, fresh.training_images(np.array(ids), keys).result())
            assert torch.equal(
                kept.evaluation_images(np.array(ids)).result(), fresh.evaluation_images(np.array(ids)).result()
            )


@pytest.mark.parametrize(("gib_in_memory", "reads"), [(2.0, 1), (0.0, 2)])
def test_images_kept_in_memory_are_read_once(opened, photographs, monkeypatch, gib_in_memory, reads):
    source, read = opened(gib_in_memory=gib_in_memory), []
    stored = source._store.read
    monkeypatch.setattr(source._store, "read", lambda image: read.append(image) or stored(image))
    for _ in range(2):
        source.training_images(np.array([4, 2]), KEYS[:2]).result()
    assert sorted(read) == [2] * reads + [4] * reads


def test_what_is_kept_in_memory_cannot_be_spoilt(opened):
    source = opened("shift-flip")
    before = source.training_images(np.arange(5), KEYS[:5]).result()
    source.training_images(np.arange(5), KEYS[:5]).result().zero_()
    source.evaluation_images(np.arange(5)).result().zero_()
    assert torch.equal(source.training_images(np.arange(5), KEYS[:5]).result(), before)


def test_images_load_while_nobody_waits(opened, photographs):
    """The files may vanish once the images have been asked for and are on their way."""
    source = opened("random-resized-crop", num_threads=1)
    expected = opened("random-resized-crop").training_images(np.arange(5), KEYS[:5]).result()
    images = source.training_images(np.arange(5), KEYS[:5])
    source._threads.submit(lambda: None).result()  # the only thread has come to the end of what was asked before
    for path in (photographs[0] / "train").rglob("*.*"):
        path.unlink()
    assert torch.equal(images.result(), expected)


def test_the_short_side_of_evaluation_can_be_chosen(opened, photographs):
    """Brought to 56 pixels, an image of 64 x 64 loses nothing at its edges; Pillow's resizing is within two levels."""
    image = opened(evaluation_resize=56).evaluation_images(np.array([0])).result()[0]
    expected = Image.fromarray(photographs[1][0]).resize((56, 56), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(image, normalised(np.asarray(expected)), atol=2.01 / 255 / 0.224)
    assert torch.equal(opened(evaluation_resize=None).evaluation_images(np.array([0])).result()[0], image)  # small images
    with pytest.raises(UsageError, match="evaluation_resize"):
        opened(evaluation_resize=55)


def test_skipping_does_not_depend_on_where_an_image_is_cropped(tree, picture, encoded):
    """An image with a restart marker after every row of blocks, damaged in one row: other rows would decode alone."""
    noisy = picture(400, 400) ^ np.random.default_rng(0).integers(0, 64, (400, 400, 3), dtype=np.uint8)
    whole = encoded(noisy, restart_marker_rows=1)
    last = whole.rindex(b"\xff\xd6")
    damaged = whole[: last + 40] + whole[last + 400 :]
    root = tree({"train/a/0.jpg": damaged, "train/b/1.jpg": whole, "val/a/2.jpg": whole})
    boxes = [Stream(1, "augment").keys(np.zeros(1, np.int64), epoch) for epoch in range(12)]
    decoded = 0
    for keys in boxes:
        options = {"augment": "random-resized-crop", "image_size": 32}
        strict = open_source(f"folder:{root}", **options)
        try:
            strict.training_images(np.array([0]), keys).result()
            decoded += 1
        except DataError:
            pass
        source = open_source(f"folder:{root}", bad_images="skip", **options)
        images = source.training_images(np.array([0]), keys)
        other = source.training_images(np.array([1]), keys)
        assert torch.equal(images.result(), other.result())
        assert (images.replaced(), other.replaced()) == ({0: 1}, {})
        strict.close()
        source.close()
    assert 0 < decoded < len(boxes)


def test_images_that_are_left_out_are_black(opened, photographs):
    (photographs[0] / "val/c/6.webp").write_bytes(b"")
    for gib_in_memory in (0.0, 2.0):
        source = opened(bad_images="skip", gib_in_memory=gib_in_memory)
        images = source.evaluation_images(np.array([5, 6]))
        black = torch.from_numpy((-MEAN / STD).astype(np.float32)).expand(3, SIZE, SIZE)
        assert torch.allclose(images.result()[1], black, atol=1e-6)
        assert images.replaced() == {1: NOTHING}


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows by each image that is decoded."""
    images: list[int] = []
    monkeypatch.setattr(photo_source, "open_picture", lambda stored: images.append(1) or open_picture(stored))
    return images


def test_runs_hand_decoded_images_on(opened, decoded):
    ids, kept = np.arange(7), Kept()
    expected = opened("flip").evaluation_images(ids).result()
    decoded.clear()
    assert torch.equal(opened("flip", kept=kept).evaluation_images(ids[:4]).result(), expected[:4])
    assert torch.equal(opened("flip", kept=kept).evaluation_images(ids).result(), expected)
    assert torch.equal(opened("shift-flip", kept=kept).evaluation_images(ids).result(), expected)
    assert len(decoded) == 7


@pytest.mark.parametrize(
    "other",
    [
        {"augment": "none"},  # has no border
        {"evaluation_resize": 60},
        {"image_size": 48},
        {"bad_images": "skip"},
    ],
)
def test_images_of_other_pixels_are_not_handed_on(opened, decoded, other):
    """In both orders; what each run sees is what it sees alone."""
    ids, settings = np.arange(7), ({"augment": "flip"}, {"augment": "flip", **other})
    alone = [opened(**one).evaluation_images(ids).result() for one in settings]
    for order in ((0, 1, 0), (1, 0, 1)):
        decoded.clear()
        kept = Kept()
        for one in order:
            assert torch.equal(opened(**settings[one], kept=kept).evaluation_images(ids).result(), alone[one])
        assert len(decoded) >= 14


def test_images_of_another_data_set_are_not_handed_on(opened, photographs, tmp_path):
    """Names and sizes are alike, pixels are not."""
    kept, other = Kept(), tmp_path / "other"
    shutil.copytree(photographs[0], other)
    before = (other / "train/c/4.bmp").read_bytes()
    (other / "train/c/4.bmp").write_bytes(before[: len(before) // 2] + bytes(3000) + before[len(before) // 2 + 3000 :])
    first = opened("none", kept=kept).evaluation_images(np.arange(7)).result()
    loading = Loading(kept=kept)
    source = open_source(f"folder:{other}", image_size=SIZE, evaluation_resize=64, loading=loading)
    second = source.evaluation_images(np.arange(7)).result()
    assert not torch.equal(first[4], second[4])
    assert torch.equal(first[:4], second[:4])
    source.close()
