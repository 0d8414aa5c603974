"""Promise: a folder of photographs trains like any other data, and the threads that decode it change no byte (D3)."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

FIELDS = {
    "model": "resnet18",
    "image_size": 32,
    "train_images": "none",
    "augment": "random-resized-crop",
    "grid": "1x2x4",
    "workers_per_forward": 1,
    "tail": "short",  # 14 images: a step of 8 and one of 6
    "epochs": "2",
    "scaling": "none",
    "reference_batch": "none",
    "base_lr": 0.01,
    "images_per_evaluation": 4,
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of waves, 7 images each to train on and 3 to validate."""
    root = tmp_path_factory.mktemp("photographs")
    for part, number in (("train", 7), ("val", 3)):
        for label, wavelength in (("coarse", 17.0), ("fine", 5.0)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for image in range(number):
                y, x = np.mgrid[0 : 44 + image, 0 : 61 - image]
                waves = [np.sin(x / wavelength + image), np.cos(y / wavelength), np.sin((x + y) / wavelength)]
                pixels = np.stack([127 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.JPEG", quality=90)
    return root


@pytest.mark.processes
def test_decoder_threads_and_processes_do_not_matter(
    trained: Callable[..., Any], trained_here: Callable[..., Any], photographs: Path, tmp_path: Path
) -> None:
    fields = {**FIELDS, "data": f"folder:{photographs}"}
    expected = trained_here(tmp_path / "0", fields, loader_threads=0)
    assert trained_here(tmp_path / "3", fields, loader_threads=3) == expected
    assert trained(tmp_path / "processes", fields, loader_threads=1, processes=2) == expected
    assert [record["images"] for record in expected.metrics] == [8, 6, 8, 6]
    assert expected.outcome["val_images"] == 6


def test_a_damaged_photograph_ends_the_run_with_its_name(
    command: Any, options: Any, photographs: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(photographs, copy)
    damaged = copy / "train/fine/3.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:200])
    found = command("train", *options({**FIELDS, "data": f"folder:{copy}", "out": tmp_path / "run"}))
    assert found.code == 3
    assert str(damaged) in found.stderr


def test_photographs_that_changed_stop_a_resumed_run(command: Any, options: Any, photographs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(photographs, copy)
    damaged = copy / "train/fine/3.JPEG"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:200])
    words = options({**FIELDS, "data": f"folder:{copy}", "out": tmp_path / "run"})
    assert command("train", *words).code == 3
    damaged.write_bytes(whole)
    (copy / "train/coarse/0.JPEG").unlink()
    found = command("train", *words)
    assert found.code == 3
    assert "files of" in found.stderr
    assert "have changed" in found.stderr
