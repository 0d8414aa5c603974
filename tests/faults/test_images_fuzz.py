"""Images damaged at random: decoded, or refused with a reason; nothing else, nothing slow, and no more memory.

WIDESTEP_CHAOS=long: 1,000 originals for each of six ways to damage them (goal G11: 6,000 images).
"""

import io
import os
import random
import resource
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from widestep.data.decode import UndecodableError, open_picture

NUM_MUTANTS = 1000 if os.environ.get("WIDESTEP_CHAOS") == "long" else 60


def originals() -> list[bytes]:
    """Every form that is read: sequential, progressive, grey and CMYK JPEG, with and without markers; PNG, WebP, BMP."""
    rng = np.random.default_rng(6)
    waves = 127 + 100 * np.sin(np.arange(180 * 150 * 3).reshape(150, 180, 3) / 97)
    image = Image.fromarray(np.clip(waves + rng.normal(0, 9, waves.shape), 0, 255).astype(np.uint8))
    forms: list[tuple[Image.Image, str, dict[str, object]]] = [
        (image, "JPEG", {"quality": 85}),
        (image, "JPEG", {"progressive": True}),
        (image, "JPEG", {"restart_marker_rows": 1, "optimize": True}),
        (image.convert("L"), "JPEG", {}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {}),
        (image.quantize(), "PNG", {"transparency": 3}),
        (image.convert("RGBA"), "PNG", {}),
        (image, "WEBP", {"quality": 80}),
        (image.convert("RGBA"), "WEBP", {"lossless": True}),
        (image, "BMP", {}),
        (image.quantize(), "BMP", {}),
    ]
    found = []
    for picture, form, options in forms:
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        found.append(buffer.getvalue())
    return found


ORIGINALS = originals()


def flipped(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 3, 20])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def in_the_header(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(min(len(data), 700))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return bytes(data)


def truncated(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def zeroed(data: bytearray, rng: random.Random) -> bytes:
    start, size = rng.randrange(len(data)), rng.choice([1, 16, 512, 4096])
    return bytes(data[:start]) + bytes(min(size, len(data) - start)) + bytes(data[start + size :])


def spliced(data: bytearray, rng: random.Random) -> bytes:
    """Some bytes taken out, doubled, or from another file."""
    start, size, other = rng.randrange(len(data)), rng.randrange(1, 400), rng.choice(ORIGINALS)
    piece = rng.choice([b"", bytes(data[start : start + size]) * 2, other[start : start + size], rng.randbytes(size)])
    return bytes(data[:start]) + piece + bytes(data[start + size :])


def of_another_size(data: bytearray, rng: random.Random) -> bytes:
    """Height and width in the header replaced by others, up to what no memory holds."""
    sizes = [rng.choice([0, 1, 7, 300, 5_000, 40_000, 65_535]) for _ in range(2)]
    if data[:4] == b"\x89PNG":
        data[16:24] = b"".join(size.to_bytes(4) for size in sizes)
    elif data[:2] == b"\xff\xd8":
        frame = next((at for at in range(len(data) - 9) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC2)), 0)
        data[frame + 5 : frame + 9] = b"".join(size.to_bytes(2) for size in sizes)
    elif data[:2] == b"BM":
        data[18:26] = b"".join(size.to_bytes(4, "little") for size in sizes)
    else:
        data[24:30] = rng.randbytes(6)
    return bytes(data)


MUTATORS = [flipped, in_the_header, truncated, zeroed, spliced, of_another_size]


@pytest.mark.parametrize("mutate", MUTATORS, ids=lambda mutate: mutate.__name__)
def test_any_damage_is_refused_or_decodes(mutate):
    """Row 62, goal G11: the size that was said, or UndecodableError; the same a second time; in 10 s of the processor."""
    rng = random.Random(mutate.__name__)
    outcomes = {"decoded": 0, "refused": 0}
    for number in range(NUM_MUTANTS):
        data = mutate(bytearray(ORIGINALS[number % len(ORIGINALS)]), rng)
        began = time.thread_time()
        first, second = outcome_of(data), outcome_of(data)
        assert time.thread_time() - began < 10
        assert first == second
        outcomes["decoded" if isinstance(first, bytes) else "refused"] += 1
    print(mutate.__name__, outcomes)
    assert outcomes["refused"] > 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3 << 20


def outcome_of(data: bytes) -> bytes | str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's; they end no program
        try:
            picture = open_picture(data)
            pixels = picture.decode()
        except UndecodableError as error:
            return f"refused: {error}"
    assert (pixels.shape, pixels.dtype) == ((picture.height, picture.width, 3), np.uint8)
    return pixels.tobytes()


@pytest.mark.parametrize("original", range(len(ORIGINALS)))
def test_no_file_that_is_cut_short_is_taken_for_whole(original):
    """Whatever is missing of the image's data: every length of a small file would do, here are some of a larger one."""
    data, rng = ORIGINALS[original], random.Random(original)
    whole = outcome_of(data)
    assert isinstance(whole, bytes)
    for length in [rng.randrange(len(data) - 30) for _ in range(NUM_MUTANTS // 4)]:
        found = outcome_of(data[:length])
        assert isinstance(found, str) or found == whole
