"""`widestep data`: check, pack and order, as people and programs see them."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from widestep.data import digits
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight images for training and four for validation, 24 pixels high, 30 wide, one of them PNG."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for split, count in (("train", 4), ("val", 2)):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (24, 30 + number, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG" if number == 3 else "JPEG")
                (root / split / label / f"{number}.jpg").write_bytes(buffer.getvalue())
    return root


@pytest.fixture
def copy(photos, empty):
    """A copy to damage."""
    return shutil.copytree(photos, empty / "copy")


def test_check_in_words(say, photos):
    found = say(f"data check folder:{photos} --threads 2")
    assert (found.code, found.stderr) == (0, "")
    assert found.lines[0] == f"data       folder:{photos}: 8 training and 4 validation images"
    assert re.fullmatch(r"           fingerprint [0-9a-f]{64}", found.lines[1])
    assert found.lines[2] == "classes    2; training images a class: 4 to 4, median 4"
    assert found.lines[4] == "height     24 to 24, median 24"
    assert found.lines[5] == "width      30 to 33, median 31"
    assert found.lines[6] == "formats    JPEG 10, PNG 2; 2 only Pillow decodes, which is slower"
    assert found.lines[7:] == ["damaged    0"]


def test_check_as_json(say, photos):
    found = json.loads(say(f"data check folder:{photos} --json").stdout)
    assert (found["num_train"], found["num_val"]) == (8, 4)
    assert found["classes"] == [{"name": "cat", "train": 4, "val": 2}, {"name": "dog", "train": 4, "val": 2}]
    sizes = sorted(path.stat().st_size for path in photos.glob("*/*/*.jpg"))
    assert found["bytes"] == {"min": sizes[0], "median": (sizes[5] + sizes[6]) / 2, "max": sizes[-1]}
    assert found["width"] == {"min": 30, "median": 31.0, "max": 33}
    assert (found["formats"], found["num_slow"]) == ({"JPEG": 10, "PNG": 2}, 2)
    assert (found["damaged"], found["content_sha256"]) == ([], None)


def test_check_names_every_damaged_image(say, copy):
    cut, text, nothing = paths = [copy / name for name in ("train/cat/1.jpg", "train/dog/0.jpg", "val/cat/0.jpg")]
    cut.write_bytes(cut.read_bytes()[:-200])
    text.write_bytes(b"<html>")
    nothing.write_bytes(b"")
    found = say(f"data check folder:{copy}")
    assert found.code == 3
    assert "damaged    3" in found.lines
    named = [line for line in found.lines if line.startswith("  /")]
    assert [line.strip().partition(": ")[0] for line in named] == [str(path) for path in paths]
    record = json.loads(say(f"data check folder:{copy} --json --threads 3").stdout)
    assert [(damage["image"], damage["name"]) for damage in record["damaged"]] == [
        (image, str(path)) for image, path in zip([1, 4, 8], paths, strict=True)
    ]
    assert all(damage["reason"] for damage in record["damaged"])
    assert "not a JPEG" in record["damaged"][1]["reason"]


def test_hash_shows_what_the_fingerprint_cannot(say, copy):
    """A pixel of a PNG changed, the size of the file the same: row 63 of what can go wrong."""

    def look():
        return json.loads(say(f"data check folder:{copy} --hash --json").stdout)

    before, path = look(), copy / "train/cat/0.jpg"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    after = look()
    assert before["content_sha256"] != after["content_sha256"]
    assert before["fingerprint"] == after["fingerprint"]
    assert say(f"data check folder:{copy} --hash").lines[7] == f"content    {after['content_sha256']}"


def test_pack_then_check_then_the_same_content(say, photos, empty):
    found = say(f"data pack folder:{photos} out --short-side original")
    assert (found.code, found.stderr) == (0, "")
    size = sum(path.stat().st_size for path in photos.glob("*/*/*.jpg"))
    assert re.fullmatch(rf"packed     packed:out: 12 images, {size:,} bytes, [\d,]+ images/s", found.lines[0])
    content = [json.loads(say(f"data check {spec} --hash --json").stdout) for spec in (f"folder:{photos}", "packed:out")]
    assert content[0]["content_sha256"] == content[1]["content_sha256"]
    again = say(f"data pack folder:{photos} out")
    assert again.code == 2
    assert "There is a complete one in 'out'" in again.stderr


def test_pack_as_json_and_check_of_damaged_shards(say, photos, empty):
    found = json.loads(say(f"data pack folder:{photos} out --short-side 16 --store raw --json --threads 1").stdout)
    assert (found["data"], found["num_images"], found["num_found_done"]) == ("packed:out", 12, 0)
    widths = [20, 20, 21, 22] * 2 + [20, 20] * 2
    assert found["num_bytes"] == sum(16 * width * 3 for width in widths)
    assert found["images_per_second"] > 0
    path = empty / "out/val-00000.bin"
    path.write_bytes(bytes(path.stat().st_size))
    checked = say("data check packed:out")
    assert checked.code == 3
    assert "formats    raw pixels 12" in checked.lines
    assert checked.lines[-1] == "  out/val-00000.bin: its SHA-256 is not the one in the index"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("data check digits", "a data set on disk is needed"),
        ("data check imagenet", "a data set on disk is needed"),
        ("data check foldr:x", "perhaps you meant 'folder:x'"),
        ("data check folder:PHOTOS --threads 0", "--threads is 1 or more. Got 0."),
        ("data pack folder:PHOTOS out --short-side big", "a number of pixels, or original. Got 'big'"),
        ("data pack folder:PHOTOS out --short-side 4", "from 8 to 8,192"),
        ("data pack folder:PHOTOS out --store png", "--store is jpeg or raw"),
        ("data pack folder:PHOTOS out --quality 101", "--quality is from 1 to 100"),
        ("data order --epoch 36", "--epoch is from 0 to 35 in this training. Got 36."),
        ("data order --epoch -1", "--epoch is from 0"),
        ("data order --step 30", "--step is from 0 to 29 in epoch 0. Got 30."),
        ("data order --nonsense 3", "--nonsense is no option"),
    ],
)
def test_usage(say, photos, empty, words, said):
    found = say(words.replace("PHOTOS", str(photos)))
    assert (found.code, found.stdout) == (2, "")
    assert said in found.stderr
    assert not (empty / "out").exists()


def test_a_missing_data_set_is_code_3(say):
    for form in ("folder", "parquet", "tar", "packed"):
        assert say(f"data check {form}:nowhere").code == 3


def test_order_of_photographs_by_hand(say, photos, empty):  # D1
    """Worker w of W takes positions w, w + W, ... of the epoch's permutation."""
    fields = {"data": f"folder:{photos}", "grid": "1x2x2", "epochs": "3ep", "warmup": "1ep", "tail": "short"}
    plan = RunPlan(Recipe(**fields, decay_at=["2ep"], train_images=None), 8)
    recipe = "grid = '1x2x2'\nepochs = '3ep'\nwarmup = '1ep'\ntail = 'short'\ndecay_at = ['2ep']\n"
    (empty / "mine.toml").write_text(f"data = 'folder:{photos}'\n{recipe}")
    seen = []
    for epoch in range(3):
        for step in range(2):
            found = json.loads(say(f"data order --recipe mine.toml --epoch {epoch} --step {step} --json").stdout)
            assert (found["epoch"], found["step"], found["step_of_training"]) == (epoch, step, 2 * epoch + step)
            workers = [worker["images"] for worker in found["workers"]]
            assert np.array(workers).T.ravel().tolist() == plan.ids_at(2 * epoch + step).tolist()
            names = {n: worker["names"][k] for worker in found["workers"] for k, n in enumerate(worker["images"])}
            assert all(names[n] == f"{photos}/train/{'cat' if n < 4 else 'dog'}/{n % 4}.jpg" for n in names)
            seen += [image for own in workers for image in own]
    assert [sorted(seen[at : at + 8]) for at in (0, 8, 16)] == [list(range(8))] * 3


def test_order_of_the_digits(say):
    """Of the default recipe: 960 training images drawn by class; ids are those among all 1,797."""
    found = json.loads(say("data order --epoch 1 --step 2 --json").stdout)
    ids = [image for worker in found["workers"] for image in worker["images"]]
    assert found["step_of_training"] == 32
    assert len(set(ids)) == len(ids) == 32
    assert max(ids) < digits.NUM_IMAGES
    assert found["workers"][0]["names"][0] == f"digit {ids[0]}"
    lines = say("data order --epoch 1 --step 2").lines
    assert lines[0] == "epoch 1, step 2 (step 32 of training): 32 images, 4 worker(s)"
    assert lines[1].split() == ["worker", "0", "image", "0", "id", str(ids[0]), "digit", str(ids[0])]
    assert len(lines) == 33


def test_order_of_published_counts(say):
    found = json.loads(say("data order --recipe poster --grid 1x2x3 --step 4 --json").stdout)
    first = found["workers"][1]
    assert first["names"] == [f"training image {image}" for image in first["images"]]
    assert len(first["images"]) == 3


def test_order_where_workers_join(say):
    """Two workers for two epochs of 448 steps, then four."""
    words = "data order --grid 1x2x1 --worker-ramp 2ep:4 --train-images 896 --json --epoch"
    assert json.loads(say(f"{words} 1 --step 447").stdout)["step_of_training"] == 895
    found = json.loads(say(f"{words} 3 --step 1").stdout)
    assert (found["step_of_training"], len(found["workers"])) == (2 * 448 + 224 + 1, 4)


def test_relative_data_may_lie_anywhere(say, copy, monkeypatch):
    """What was recorded in one directory is compared in another; what is packed is called as it is found again."""
    monkeypatch.setenv("WIDESTEP_DATA", str(copy.parent))
    assert say("data check folder:copy --record recorded").code == 0
    elsewhere = copy.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.move(copy, elsewhere / "copy")
    assert say("data check folder:copy").code == 3
    monkeypatch.setenv("WIDESTEP_DATA", str(elsewhere))
    found = say("data check folder:copy --compare recorded")
    assert (found.code, found.stderr) == (0, "")
    spec = json.loads(say("data pack folder:copy out --json").stdout)["data"]
    assert spec == f"packed:{copy.parent / 'out'}"
    assert say(f"data check {spec}").code == 0
