import subprocess
import sys

import pytest

from widestep.data.facts import DataFacts, describe
from widestep.data.source import open_source
from widestep.errors import DataError, UsageError

TREE = {"train/a/1.jpg": b"1", "train/a/2.jpg": b"", "train/b/1.jpg": b"", "val/b/1.jpg": b""}


def test_digits():
    facts = describe("digits")
    assert (facts.name, facts.num_train, facts.num_val, facts.num_classes) == ("digits", 898, 899, 10)
    assert facts.image_shape == (1, 8, 8)
    assert describe("digits", train_images=960, image_size=8).num_val == 837
    assert describe("digits", train_images=960).fingerprint == facts.fingerprint


@pytest.mark.parametrize("train_images", [10, 1787])
def test_digits_limits_are_allowed(train_images):
    assert describe("digits", train_images=train_images).num_train == train_images


@pytest.mark.parametrize("train_images", [9, 1788, 0, -1])
def test_digits_outside_the_limits(train_images):
    with pytest.raises(UsageError, match=rf"10 to 1,787.*{train_images}"):
        describe("digits", train_images=train_images)


def test_digits_keep_their_size():
    with pytest.raises(UsageError, match=r"8x8.*image_size = 16"):
        describe("digits", image_size=16)


def test_imagenet():
    assert describe("imagenet") == DataFacts("imagenet", 1_281_167, 50_000, 1_000, (3, 224, 224), "published counts")
    assert describe("imagenet", image_size=160).image_shape == (3, 160, 160)


def test_folder(tree):
    root = tree(TREE)
    facts = describe(f"folder:{root}", image_size=32)
    assert (facts.num_train, facts.num_val, facts.num_classes, facts.image_shape) == (3, 1, 2, (3, 32, 32))
    assert facts.name == f"folder:{root}"
    assert len(facts.fingerprint) == 64
    assert describe(f"folder:{root}").image_shape == (3, 224, 224)


def test_folder_in_the_home_directory(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree(TREE).parent))
    assert describe("folder:~/set").num_train == 3


@pytest.mark.parametrize("spec", ["imagenet", "folder:somewhere"])
def test_only_digits_are_divided(spec):
    with pytest.raises(UsageError, match=r"train_images.*own training images.*100"):
        describe(spec, train_images=100)


@pytest.mark.parametrize("size", [7, 2049, 0, -224])
def test_image_size_has_limits(size):
    with pytest.raises(UsageError, match=rf"from 8 to 2,048.*{size}"):
        describe("imagenet", image_size=size)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digit", "perhaps you meant 'digits'"),
        ("IMAGENET", "perhaps you meant 'imagenet'"),
        ("foldr:/x", "perhaps you meant 'folder:/x'"),
        ("folder", "perhaps you meant 'folder:PATH'"),
        ("folder:", "'folder:' without a path"),
        ("zzz", "Got 'zzz'."),
        ("", "Got ''."),
    ],
)
def test_unknown_spec_lists_the_forms(spec, words):
    with pytest.raises(UsageError) as caught:
        describe(spec)
    assert "digits, imagenet" in str(caught.value)
    assert "folder:PATH" in str(caught.value)
    assert words in str(caught.value)


def test_bare_path_is_recognised(tmp_path):
    with pytest.raises(UsageError, match=f"perhaps you meant 'folder:{tmp_path}'"):
        describe(str(tmp_path))


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        describe(f"folder:{tmp_path}/nowhere")


def test_planning_does_not_import_torch():
    code = (
        "import sys, widestep.data.facts, widestep.data.stores.layout, widestep.data.augment; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("sizes", "image_size"),
    [([(32, 32)] * 3, 32), ([(64, 64)], 64), ([(65, 65)], 224), ([(32, 30)], 224), ([(32, 32), (33, 33)], 224)],
)
def test_small_squares_of_one_size_keep_it(tree, picture, encoded, sizes, image_size):
    images = {f"train/{label}/{n}.png": encoded(picture(*size), "PNG") for label in "ab" for n, size in enumerate(sizes)}
    root = tree({**images, "val/a/1.png": b"", "train/b/9.jpg": b"no image: training will say so"})
    assert describe(f"folder:{root}").image_shape == (3, image_size, image_size)
    assert describe(f"folder:{root}", image_size=48).image_shape == (3, 48, 48)


def test_relative_paths_start_from_the_directory_of_data(tree, monkeypatch, tmp_path):
    """The name, and so the fingerprint, stays as it was given; absolute paths and the home directory are left alone."""
    root = tree(TREE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WIDESTEP_DATA", str(root.parent))
    assert describe("folder:set").name == "folder:set"
    assert describe("folder:set").num_train == describe(f"folder:{root}").num_train == 3
    assert open_source("folder:set").facts == describe("folder:set")
    monkeypatch.setenv("HOME", str(root.parent.parent))
    monkeypatch.setenv("WIDESTEP_DATA", f"~/{root.parent.name}")
    assert describe("folder:set").num_train == describe(f"folder:~/{root.parent.name}/set").num_train == 3


def test_nobodys_home_is_no_fault_of_ours():
    with pytest.raises(DataError, match="~nosuchuser/set"):
        describe("folder:~nosuchuser/set")


def test_a_relative_path_without_data_says_where_it_starts(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"nothing at 'cifar10', where the parquet data set.* WIDESTEP_DATA"):
        describe("parquet:cifar10")
    monkeypatch.setenv("WIDESTEP_DATA", "../elsewhere")
    (tmp_path / "cifar10").mkdir()  # is not where it is looked for
    with pytest.raises(
        DataError, match=r"nothing at '../elsewhere/cifar10', .*, or WIDESTEP_DATA, where relative paths start"
    ):
        describe("parquet:cifar10")
