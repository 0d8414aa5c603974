"""bad_images = skip: damaged images change the result in one way only, whatever runs the training."""

import io
import json
import os
import shutil
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from widestep.cli import console
from widestep.plan.recipe import Recipe
from widestep.plan.recipes import changed
from widestep.plan.runplan import RunPlan

CLASSES = ("ant", "bee", "cat")
RECIPE = {
    **{"recipe": "digits", "train_images": "none", "image_size": 16, "grid": "1x2x3", "epochs": "3ep", "warmup": 0},
    **{"decay_at": "2ep", "batchnorm_images": 6, "images_per_evaluation": 4, "bad_images": "skip"},
}


def photo(rng, side: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five training images and two validation images in each of three classes."""
    rng = np.random.default_rng(4)
    for split, count in (("train", 5), ("val", 2)):
        for name in CLASSES:
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / "photos" / split / name / f"{number}.jpg").write_bytes(photo(rng))
    return tmp_path / "photos"


@pytest.fixture
def train(command, options, tmp_path):
    """`train(folder, "name", field=value)` trains into a directory and returns the exit code, result.json and stderr."""

    def run(data, name, **fields):
        chosen = {**RECIPE, "data": data if ":" in str(data) else f"folder:{data}", "out": tmp_path / name, **fields}
        found = command("train", *options(chosen))
        path = tmp_path / name / "result.json"
        return found.code, json.loads(path.read_text()) if path.exists() else {}, found.stderr

    return run


def copy_of(photos: Path, name: str) -> Path:
    return Path(shutil.copytree(photos, photos.parent / name))


def cut(path: Path) -> None:
    """Leave half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


OUTCOME = ("weights_sha256", "val_correct", "val_images", "damaged_images")


def test_the_next_image_that_decodes_takes_the_place(photos, train):
    """Row 62. The same bytes as from a data set in which somebody had put it there."""
    repaired, damaged = copy_of(photos, "repaired"), copy_of(photos, "damaged")
    for number in (1, 2):
        (damaged / f"train/bee/{number}.jpg").write_bytes(b"<html>")
        shutil.copy(photos / "train/bee/3.jpg", repaired / f"train/bee/{number}.jpg")
    cut(damaged / "train/cat/0.jpg")
    shutil.copy(photos / "train/cat/1.jpg", repaired / "train/cat/0.jpg")
    code, expected, _ = train(repaired, "one", bad_images="error")
    assert code == 0
    for augment in ("none", "shift-flip", "random-resized-crop"):
        _, expected, _ = train(repaired, f"repaired-{augment}", augment=augment, bad_images="error")
        code, found, stderr = train(damaged, f"damaged-{augment}", augment=augment)
        assert (code, found["weights_sha256"]) == (0, expected["weights_sha256"])
        assert (found["damaged_images"], expected["damaged_images"]) == (3, 0)
        assert "3 damaged images: '" in stderr
        assert "train/bee/1.jpg'" in stderr
        assert "widestep data check folder:" in stderr
        assert "3 damaged images" in (photos.parent / f"damaged-{augment}" / "log.txt").read_text()


def shards(root: Path, samples: list[tuple[bytes, int]], val: list[tuple[bytes, int]]) -> Path:
    root.mkdir()
    for split, content in (("train", samples), ("val", val)):
        with tarfile.open(root / f"{split}-0.tar", "w") as archive:
            for number, (image, label) in enumerate(content):
                for name, data in ((f"{number:03}.jpg", image), (f"{number:03}.cls", b"%d" % label)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return root


def test_its_label_goes_with_it_and_after_the_last_comes_the_first(tmp_path, train):
    rng = np.random.default_rng(9)
    samples, val = [(photo(rng), number % 3) for number in range(12)], [(photo(rng), number) for number in range(3)]
    broken = [
        (data[:200], label) if number in (3, 4, 10, 11) else (data, label) for number, (data, label) in enumerate(samples)
    ]
    stand_in = {3: 5, 4: 5, 10: 0, 11: 0}
    repaired = [samples[stand_in.get(number, number)] for number in range(12)]
    _, expected, _ = train(f"tar:{shards(tmp_path / 'repaired', repaired, val)}", "one")
    code, found, _ = train(f"tar:{shards(tmp_path / 'damaged', broken, val)}", "two")
    assert code == 0
    assert found["weights_sha256"] == expected["weights_sha256"]
    assert found["damaged_images"] == 4


@pytest.fixture
def damaged(photos) -> Path:
    cut(photos / "train/ant/4.jpg")
    cut(photos / "train/bee/0.jpg")
    cut(photos / "train/cat/4.jpg")
    (photos / "val/bee/1.jpg").write_bytes(b"")
    return photos


@pytest.mark.parametrize(
    "fields",
    [{"loader_threads": 0}, {"loader_threads": 3}, {"gib_in_memory": 0}, {"gib_in_memory": 0, "loader_threads": 3}],
    ids=str,
)
@pytest.mark.parametrize("augment", ["shift-flip", "random-resized-crop"])
def test_threads_and_memory_change_nothing(damaged, train, augment, fields):
    expected = train(damaged, "one", augment=augment)[1]
    assert (expected["val_images"], expected["damaged_images"]) == (5, 4)
    found = train(damaged, "two", augment=augment, **fields)[1]
    assert [found[name] for name in OUTCOME] == [expected[name] for name in OUTCOME]


@pytest.mark.processes
@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_change_nothing(damaged, train, program, options, tmp_path, num_processes):
    """Row 62: each process sees only some of the damage, and all of it is counted."""
    for number in (1, 2, 3):
        for name in CLASSES:
            cut(damaged / f"train/{name}/{number}.jpg")
    fields = {"grid": "1x3x2", "augment": "shift-flip", "workers_per_forward": 1, "epochs": "1ep", "decay_at": "1st"}
    expected = train(damaged, "one", **fields)[1]
    chosen = {**RECIPE, **fields, "data": f"folder:{damaged}", "out": tmp_path / "two", "processes": num_processes}
    found = program("train", *options(chosen))
    assert found.code == 0, found.stderr
    result = json.loads((tmp_path / "two/result.json").read_text())
    assert [result[name] for name in OUTCOME] == [expected[name] for name in OUTCOME]
    assert f"{expected['damaged_images']} damaged images: " in found.stderr
    assert expected["damaged_images"] > 9


@pytest.fixture
def after_first_evaluation(monkeypatch):
    """Do something once, while training goes on after its first evaluation."""

    def arrange(action):
        known, waiting = console.ConsoleWatcher.evaluated, [action]

        def evaluated(self, *about):
            known(self, *about)
            if waiting:
                waiting.pop()()

        monkeypatch.setattr(console.ConsoleWatcher, "evaluated", evaluated)

    return arrange


def test_an_interruption_changes_nothing(damaged, train, after_first_evaluation):
    expected = train(damaged, "one", augment="random-resized-crop")[1]
    after_first_evaluation(lambda: signal.raise_signal(signal.SIGTERM))
    assert train(damaged, "two", augment="random-resized-crop")[0] == 75
    code, found, _ = train(damaged, "two", augment="random-resized-crop")
    assert code == 0
    assert [found[name] for name in OUTCOME] == [expected[name] for name in OUTCOME]


def test_what_was_met_before_an_interruption_is_counted(photos, train, after_first_evaluation):
    """An image that is taken in the first epoch and in no other."""
    fields = {"grid": "1x2x4", "decay_at": "2st", "batchnorm_recompute": "never"}
    plan = RunPlan(changed(Recipe(), {"epochs": "3ep", "warmup": "0", **fields}), 15)
    taken = [set(plan.ids_at(step).tolist()) for step in range(3)]
    lost = min(taken[0] - taken[1] - taken[2])
    cut(photos / f"train/{CLASSES[lost // 5]}/{lost % 5}.jpg")
    expected = train(photos, "one", **fields)[1]
    assert expected["damaged_images"] == 1
    after_first_evaluation(lambda: signal.raise_signal(signal.SIGTERM))
    assert train(photos, "two", **fields)[0] == 75
    code, found, _ = train(photos, "two", **fields)
    assert code == 0
    assert [found[name] for name in OUTCOME] == [expected[name] for name in OUTCOME]


def vanish(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def become_noise(path: Path) -> None:
    path.write_bytes(bytes(np.random.default_rng(0).integers(0, 256, path.stat().st_size, dtype=np.uint8)))


@pytest.mark.parametrize("change", [vanish, cut, empty, become_noise])
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_file_that_changes_in_mid_run(photos, train, after_first_evaluation, change, policy):
    """Row 71."""
    path = photos / "train/bee/2.jpg"
    path.write_bytes(photo(np.random.default_rng(1), side=160))  # so large that only a part of it is decoded later
    after_first_evaluation(lambda: change(path))
    fields = {"gib_in_memory": 0, "augment": "random-resized-crop", "bad_images": policy, "loader_threads": 0}
    code, result, stderr = train(photos, "one", epochs="8ep", **fields)
    if policy == "skip":
        assert (code, result["damaged_images"]) == (0, 1)
        assert "1 damaged image: " in stderr
    else:
        assert (code, result) == (3, {})
        assert os.fspath(path) in stderr.splitlines()[-1]


def test_evaluation_leaves_damaged_images_out(photos, train, command, tmp_path):
    """The means of batches are then those of the images that are left."""
    smaller = copy_of(photos, "smaller")
    (smaller / "val/ant/0.jpg").unlink()
    (photos / "val/ant/0.jpg").write_bytes(b"")
    for evaluation in ("exact", "batch-means"):
        _, expected, _ = train(smaller, f"smaller-{evaluation}", evaluation=evaluation)
        _, found, _ = train(photos, f"damaged-{evaluation}", evaluation=evaluation)
        assert found["weights_sha256"] == expected["weights_sha256"]
        for name in ("val_images", "val_correct", "val_accuracy"):
            assert found[name] == pytest.approx(expected[name], abs=0)
        assert found["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-6)
    again = command("eval", tmp_path / "damaged-exact", "--json")
    assert json.loads(again.stdout)["val_images"] == 5


def test_nothing_left_to_train_or_to_validate_on(photos, train):
    for path in photos.glob("train/*/*"):
        path.write_bytes(b"gone")
    code, _, stderr = train(photos, "one")
    assert code == 3
    last = stderr.splitlines()[-1]
    assert last.startswith("widestep: At least one training image must decode. None of the 15 does, beginning with '")
    for path in photos.glob("train/*/*"):
        path.write_bytes(photo(np.random.default_rng(int(path.stem))))
    for path in photos.glob("val/*/*"):
        path.write_bytes(b"gone")
    code, _, stderr = train(photos, "two")
    assert code == 3
    assert stderr.splitlines()[-1].startswith("widestep: At least one validation image must decode. None of the 6 does")


def test_a_file_that_cannot_be_read_from_the_start(photos, train, monkeypatch):
    """The first image, at which the size of the images is looked up, too."""
    from widestep.data.stores import folder_store

    known, path = open, photos / "train/ant/0.jpg"

    def failing(name, *arguments, **options):
        if str(name) == str(path):
            raise OSError(5, os.strerror(5), name)
        return known(name, *arguments, **options)

    monkeypatch.setattr(folder_store, "open", failing, raising=False)
    code, found, _ = train(photos, "one", image_size="none")
    assert (code, found["damaged_images"]) == (0, 1)
    code, _, stderr = train(photos, "two", image_size="none", bad_images="error")
    assert (code, f"'{path}' is not (Input/output error)" in stderr.splitlines()[-1]) == (3, True)


def test_without_damage_skipping_changes_nothing(photos, train):
    expected, found = (train(photos, policy, bad_images=policy)[1] for policy in ("error", "skip"))
    assert [found[name] for name in OUTCOME] == [expected[name] for name in OUTCOME]
    assert found["damaged_images"] == 0
