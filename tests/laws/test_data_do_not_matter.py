"""Promise: neither the form of the data nor the threads that decode them change a byte (D1, D3, D6)."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

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


def in_parquet(photographs: Path, root: Path) -> str:
    """The same files in the same order, as the columns of the Hugging Face hub."""
    root.mkdir()
    for part, name in (("train", "train-00000-of-00001"), ("val", "validation-00000-of-00001")):
        rows = [(path.read_bytes(), label) for label, path in numbered(photographs / part)]
        images = pyarrow.array(
            [{"bytes": data, "path": None} for data, _ in rows],
            pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
        )
        table = pyarrow.table({"image": images, "label": pyarrow.array([label for _, label in rows], pyarrow.int64())})
        parquet.write_table(table, root / f"{name}.parquet", row_group_size=5)
    return f"parquet:{root}"


def in_tar(photographs: Path, root: Path) -> str:
    """The same files in the same order, as shards of five images with WebDataset's names."""
    root.mkdir()
    for part in ("train", "val"):
        images = numbered(photographs / part)
        for shard in range(0, len(images), 5):
            with tarfile.open(root / f"waves-{part}-{shard:06}.tar", "w") as archive:
                for number, (label, path) in enumerate(images[shard : shard + 5], shard):
                    for suffix, data in (("jpg", path.read_bytes()), ("cls", str(label).encode())):
                        member = tarfile.TarInfo(f"{number:06}.{suffix}")
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
    return f"tar:{root}"


def numbered(part: Path) -> list[tuple[int, Path]]:
    """Labels and files in the order of a folder."""
    return [(label, path) for label, folder in enumerate(sorted(part.iterdir())) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("augment", ["random-resized-crop", "shift-flip"])
def test_the_form_of_the_data_does_not_matter(
    command: Any, trained_here: Callable[..., Any], photographs: Path, tmp_path: Path, augment: str
) -> None:
    packed = tmp_path / "packed"
    assert command("data", "pack", f"folder:{photographs}", str(packed), "--short-side", "original").code == 0
    forms = [in_parquet(photographs, tmp_path / "parquet"), in_tar(photographs, tmp_path / "tar"), f"packed:{packed}"]
    fields = {**FIELDS, "augment": augment}
    expected = trained_here(tmp_path / "0", {**fields, "data": f"folder:{photographs}"}, gib_in_memory=0)
    for number, data in enumerate(forms):
        for gib_in_memory in (0, 1):
            directory = tmp_path / f"{number}-{gib_in_memory}"
            found = trained_here(directory, {**fields, "data": data}, gib_in_memory=gib_in_memory, loader_threads=number)
            assert found.outcome["weights_sha256"] == expected.outcome["weights_sha256"], data
            assert [record["loss"] for record in found.metrics] == [record["loss"] for record in expected.metrics]


def test_smaller_images_are_other_images(
    command: Any, trained_here: Callable[..., Any], photographs: Path, tmp_path: Path
) -> None:
    """Packed with a short side of 40, with and without encoding: near, and not the same; pixels are not decoded twice."""
    weights = [trained_here(tmp_path / "folder", {**FIELDS, "data": f"folder:{photographs}"}).outcome["weights_sha256"]]
    for kind in ("jpeg", "raw"):
        packed = tmp_path / kind
        assert command("data", "pack", f"folder:{photographs}", str(packed), "--short-side", "40", "--store", kind).code == 0
        found = trained_here(tmp_path / f"run-{kind}", {**FIELDS, "data": f"packed:{packed}"})
        weights.append(found.outcome["weights_sha256"])
        assert found.outcome["val_images"] == 6
    assert len(set(weights)) == 3


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
    """It has saved states that the photographs of then went into."""
    copy, run = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(photographs, copy)
    words = options({**FIELDS, "data": f"folder:{copy}", "checkpoint_every": "1st", "out": run})
    assert command("train", *words).code == 0
    (run / "result.json").unlink()
    (run / "STATUS").write_text("running\n")
    (copy / "train/coarse/0.JPEG").unlink()
    found = command("train", *words)
    assert found.code == 3
    assert "files of" in found.stderr
    assert "have changed" in found.stderr
