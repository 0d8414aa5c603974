"""Images that are damaged, odd or hostile: each is named with the reason, or converted by rule; `data check` lists all."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from widestep.data.loading import Loading
from widestep.data.source import open_source

RNG = np.random.default_rng(11)
NOISE = RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)


def encoded(image, form="JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    """A black PNG of any size, of which not more than 9,000 rows are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze, row = zlib.compressobj(1), b"\0" * (1 + 3 * width)
    rows = b"".join(squeeze.compress(row) for _ in range(min(height, 9000))) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


JPEG = encoded(NOISE)
DAMAGED = {  # what is wrong with it -> the file and words of the reason
    "cut short": (JPEG[: len(JPEG) // 2], r"Truncated File Read|Premature end of JPEG file"),
    "cut in its header": (JPEG[:100], r".+"),
    "zeroed in part": (JPEG[:650] + bytes(50) + JPEG[700:], r"Corrupt JPEG data"),
    "zeroed": (bytes(len(JPEG)), r"not a JPEG, PNG, WebP or BMP image"),
    "empty": (b"", r"not a JPEG, PNG, WebP or BMP image"),
    "an HTML page": (b"<!DOCTYPE html><html>404 Not Found</html>", r"not a JPEG, PNG, WebP or BMP image"),
    "random bytes": (RNG.bytes(3000), r"not a JPEG, PNG, WebP or BMP image"),
    "a GIF": (encoded(NOISE, "GIF"), r"not a JPEG, PNG, WebP or BMP image"),
    "a bomb": (png(9000, 9000), r"9,000 x 9,000 pixels, and at most 50,000,000"),
    "a larger bomb": (png(200, 1_000_000), r"more than 50,000,000 pixels"),
    "grey of 16 bits": (encoded(Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257), "PNG"), r"more than 8 bits"),
    "20,000 pixels wide": (png(20000, 1), r"20,000 x 1 pixels, one side is over 100 times the other"),
    "a PNG cut short": (encoded(NOISE, "PNG")[:-200], r".+"),
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("val", 1)):
        for name in ("ant", "bee"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / "photos" / split / name / f"{number}.jpg").write_bytes(JPEG)
    return tmp_path / "photos"


def training(photos: Path) -> list[str]:
    words = "train --recipe digits --train-images none --image-size 16 --grid 1x2x2 --epochs 1ep --warmup 0 --decay-at 1st"
    return [*words.split(), "--data", f"folder:{photos}", "--out", str(photos.parent / "out")]


@pytest.mark.parametrize("kind", DAMAGED)
def test_training_ends_with_the_name_the_reason_and_what_to_do(photos, command, kind):
    """Rows 62, 64, 69."""
    content, words = DAMAGED[kind]
    path = photos / "train/bee/1.jpg"
    path.write_bytes(content)
    found = command(*training(photos))
    assert found.code == 3
    reason = re.escape(f"widestep: Every image must decode. '{path}' does not: ") + f".*(?:{words})"
    remedy = re.escape(f"Replace or remove it. `widestep data check folder:{photos}` lists every damaged image")
    assert re.match(rf"{reason}.*\. {remedy}", found.stderr.splitlines()[-1])
    assert "Traceback" not in found.stderr


def test_with_the_image_replaced_the_same_command_trains(photos, command):
    """Nothing was saved that other images went into; its environment tells of the images of now."""
    path, began = photos / "train/bee/1.jpg", photos.parent / "out/environment.json"
    path.write_bytes(JPEG[:-300])
    assert command(*training(photos)).code == 3
    before = json.loads(began.read_text())["data_fingerprint"]
    failed = json.loads((photos.parent / "out/history.jsonl").read_text().splitlines()[-1])
    assert (failed["event"], failed["processes"], failed["runs"]) == ("failed", 1, 1)
    assert failed["seconds"] > 0  # what it cost is in the report
    path.write_bytes(encoded(NOISE[::-1]))
    assert command(*training(photos)).code == 0
    assert json.loads(began.read_text())["data_fingerprint"] != before


def test_a_damaged_validation_image_ends_training_too(photos, command):
    (photos / "val/ant/0.jpg").write_bytes(JPEG[:-300])
    found = command(*training(photos))
    assert (found.code, "val/ant/0.jpg" in found.stderr.splitlines()[-1]) == (3, True)


def test_check_lists_all_at_once(photos, command):
    """Row 62: every damaged image with its reason, and one line on stderr."""
    for number, (content, _) in enumerate(DAMAGED.values()):
        (photos / f"train/bee/x{number:02}.jpg").write_bytes(content)
    (photos / "val/ant/0.jpg").write_bytes(b"")
    found = command("data", "check", f"folder:{photos}")
    num_damaged = len(DAMAGED) + 1
    assert found.code == 3
    assert f"damaged    {num_damaged}" in found.stdout.splitlines()
    for number, (_, words) in enumerate(DAMAGED.values()):
        assert re.search(rf"  {re.escape(str(photos))}/train/bee/x{number:02}\.jpg: .*(?:{words})", found.stdout)
    assert f"by class: bee {num_damaged - 1}, ant 1" in found.stdout
    (said,) = found.stderr.splitlines()
    assert said.startswith(
        f"widestep: Every image of a data set must be whole. In folder:{photos} {num_damaged} are not (listed above), the "
        f"first is '{photos}/train/bee/x00.jpg' ("
    )
    record = json.loads(command("data", "check", f"folder:{photos}", "--json").stdout)
    assert len(record["damaged"]) == num_damaged
    assert record["damaged_by_class"] == {"ant": 1, "bee": num_damaged - 1}


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(NOISE, exif=exif.tobytes())


def animated(form: str) -> bytes:
    frames = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)


WHOLE = Image.fromarray(NOISE)
GREY = np.repeat(NOISE[:, :, :1], 3, axis=2)
ODD = {  # what it is -> the file, and the pixels that stand for it
    "grey": (encoded(NOISE[:, :, 0], "PNG"), GREY),
    "grey with transparency": (encoded(Image.fromarray(NOISE[:, :, 0]).convert("LA"), "PNG"), GREY),
    "black and white": (encoded(Image.fromarray(NOISE[:, :, 0] > 99), "PNG"), 255 * np.uint8(GREY > 99)),
    "with transparency": (encoded(WHOLE.convert("RGBA"), "PNG"), NOISE),
    "palette": (encoded(WHOLE.quantize(), "PNG"), np.asarray(WHOLE.quantize().convert("RGB"))),
    "turned by EXIF": (turned(), np.asarray(Image.open(io.BytesIO(JPEG)))),
    "an animated PNG": (animated("PNG"), NOISE),
    "an animated WebP": (animated("WEBP"), NOISE),
    "one pixel": (encoded(NOISE[:1, :1], "PNG"), NOISE[:1, :1]),
    "CMYK": (encoded(WHOLE.convert("CMYK"), quality=95), None),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_images_are_converted_by_rule(photos, command, kind):
    """Row 69."""
    content, expected = ODD[kind]
    (photos / "train/ant/0.jpg").write_bytes(content)
    found = command("data", "check", f"folder:{photos}")
    assert (found.code, found.stderr) == (0, "")
    source = open_source(f"folder:{photos}", image_size=24, evaluation_resize=24)
    pixels = source.evaluation_images(np.array([0])).result()[0].permute(1, 2, 0).numpy()
    source.close()
    shown = np.rint((pixels * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]) * 255)
    if kind == "CMYK":  # what is bright stays bright
        assert np.corrcoef(shown.ravel(), reference(NOISE).ravel())[0, 1] > 0.9
    else:
        assert abs(shown - reference(expected)).max() <= 2


def reference(pixels: np.ndarray) -> np.ndarray:
    """The centre of 24 x 24 pixels, made by Pillow."""
    height, width = pixels.shape[:2]
    size = 24 * width // min(height, width), 24 * height // min(height, width)
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), dtype=float)
    left, top = round((size[0] - 24) / 2), round((size[1] - 24) / 2)
    return resized[top : top + 24, left : left + 24]


CHECKING = """
import re, sys
from widestep.cli.main import run
code = run(["data", "check", sys.argv[1]])
status = open("/proc/self/status").read()  # the resource usage would count whoever started this process
print(code, re.search(r"VmHWM:\\s+(\\d+)", status)[1])
"""


@pytest.mark.processes
def test_a_bomb_takes_no_memory(photos, program):
    """Row 64: the peak of a process that checks a bomb of 243 MB is that of one that checks none."""

    def checked():
        words = [sys.executable, "-c", CHECKING, f"folder:{photos}"]
        done = subprocess.run(words, env=program.environment(), capture_output=True, text=True, timeout=600, check=True)
        return tuple(map(int, done.stdout.splitlines()[-1].split()))

    code, before = checked()
    assert code == 0
    (photos / "train/ant/0.png").write_bytes(DAMAGED["a bomb"][0])
    code, after = checked()
    assert code == 3
    assert after < before + 50_000


def test_a_jpeg_of_very_many_scans_is_not_decoded():
    """A progressive file of 10 million pixels that goes over them a thousand times would keep a thread for minutes."""
    from widestep.data.decode import UndecodableError, open_picture

    one = encoded(np.zeros((2500, 4000), np.uint8), progressive=True)
    start = one.rindex(b"\xff\xda")
    many = one[:start] + one[start:-2] * 200 + one[-2:]
    with pytest.raises(UndecodableError, match=r"it has 10,000,000 pixels in 2\d\d scans"):
        open_picture(many).decode()
    assert open_picture(one).decode().shape == (2500, 4000, 3)


def test_hashes_find_bytes_that_were_altered_in_silence(photos, command, tmp_path):
    """Row 63: an image that still decodes, and whose size and name are as before."""
    kept, path = tmp_path / "kept", photos / "train/ant/1.jpg"
    assert command("data", "check", f"folder:{photos}", "--record", kept).code == 0
    assert command("data", "check", f"folder:{photos}", "--compare", kept).code == 0
    path.write_bytes(encoded(NOISE, comment=b"x" * 10))
    size = path.stat().st_size
    assert command("data", "check", f"folder:{photos}", "--record", tmp_path / "other").code == 0
    path.write_bytes(encoded(NOISE, comment=b"y" * 10))
    assert path.stat().st_size == size
    (photos / "train/ant/2.jpg").rename(photos / "train/bee/9.jpg")
    plain = command("data", "check", f"folder:{photos}", "--hash")
    assert plain.code == 0
    found = command("data", "check", f"folder:{photos}", "--compare", tmp_path / "other")
    assert found.code == 3
    assert [line.strip() for line in found.stdout.splitlines() if line.startswith("  ")][-4:-1] == [
        f"{path}: its bytes are not those that were recorded",
        f"{photos}/train/bee/9.jpg: it was not there when the contents were recorded",
        "train: train/ant/2.jpg: it was recorded, and is not there any more",
    ]
    again = command("data", "check", f"folder:{photos}", "--record", kept)
    assert (again.code, "is not overwritten" in again.stderr) == (2, True)


@pytest.mark.parametrize("content", ["", "[]\n", '{"format": "x"}\n', None], ids=str)
def test_a_damaged_record_is_refused(photos, command, tmp_path, content):
    kept = tmp_path / "kept"
    assert command("data", "check", f"folder:{photos}", "--record", kept).code == 0
    kept.write_text(kept.read_text()[:-30] if content is None else content)
    found = command("data", "check", f"folder:{photos}", "--compare", kept)
    assert found.code == 6
    assert found.stderr.startswith(
        f"widestep: A record of contents is what `widestep data check --record FILE` wrote. '{kept}'"
    )


def test_copies_are_told(photos, command):
    """Rows 63, 70: equal images under other labels, and in training and validation."""
    found = command("data", "check", f"folder:{photos}", "--hash")
    assert found.code == 0
    assert "7 images are byte for byte an earlier one, 4 with another label, 2 validate what trains: " in found.stdout


@pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("a bug"), SystemExit(1)], ids=repr)
def test_an_exception_in_a_decoding_thread_reaches_the_training(photos, monkeypatch, error):
    """Row 11: nobody waits for a thread that has failed."""
    from widestep.data import photo_source

    def failing(*arguments):
        raise error

    monkeypatch.setattr(photo_source, "open_picture", failing)
    source = open_source(f"folder:{photos}", image_size=16, loading=Loading(num_threads=2))
    with pytest.raises(type(error)):
        source.evaluation_images(np.arange(6)).result()
    source.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("widestep-decode")]


def test_threads_that_cannot_start_are_the_environments_fault(photos, command, monkeypatch):
    """Row 11: at the limit of processes of a user."""

    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    found = command(*training(photos), "--loader-threads", 2)
    assert found.code == 5
    assert "must be able to start" in found.stderr.splitlines()[-1]


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_too_few_descriptors_are_not_a_damaged_image(photos, command, monkeypatch, policy):
    """Row 61: a process that may not open a file must neither blame the file nor train without it."""
    from widestep.data.stores import folder_store

    known = open

    def limited(path, *arguments, **options):
        if str(path).endswith("bee/1.jpg"):
            raise OSError(24, os.strerror(24), path)
        return known(path, *arguments, **options)

    monkeypatch.setattr(folder_store, "open", limited, raising=False)
    found = command(*training(photos), "--bad-images", policy)
    assert found.code == 5
    assert "Too many open files" in found.stderr.splitlines()[-1]
    assert "ulimit -n" in found.stderr.splitlines()[-1]
