"""The studies on CIFAR-10: what was never run on a GPU can be planned and begun everywhere, on images that are made here."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from widestep.plan.recipes import to_toml
from widestep.study.study import parse, source_text


def rows(number: int, rng: np.random.Generator) -> pyarrow.Table:
    images = []
    for _ in range(number):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    columns = pyarrow.array(images, pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))
    return pyarrow.table({"image": columns, "label": pyarrow.array(np.arange(number) % 10, pyarrow.int64())})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of data with 1,300 and 20 images of noise where CIFAR-10 would be."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (root / "cifar10-jpeg").mkdir()
    parquet.write_table(rows(1300, rng), root / "cifar10-jpeg/train.parquet")
    parquet.write_table(rows(20, rng), root / "cifar10-jpeg/test.parquet")
    return root


@pytest.fixture
def data(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIDESTEP_DATA", str(directory))


@pytest.mark.parametrize("name", ["poster-cifar10", "poster-cifar10-cpu"])
@pytest.mark.usefixtures("data")
def test_the_plan(say: Any, name: str, tmp_path: Path) -> None:
    """120 runs; what the audit knows before any: 'none-as-run' is linear scaling under another name."""
    found = say("study plan", name, "--out", tmp_path / "study", "--json")
    planned = json.loads(found.stdout)
    assert (planned["trials"], planned["to_run"]) == (120, 120)
    assert any("none-as-run" in one["text"] and "changes no planned rate" in one["text"] for one in planned["audit"])


@pytest.mark.parametrize(
    ("name", "arm"),
    [("poster-cifar10", "baseline"), ("poster-cifar10", "adascale-1200"), ("poster-cifar10-cpu", "lars-1200")],
)
@pytest.mark.usefixtures("data")
def test_the_first_step(command: Callable[..., Any], name: str, arm: str, tmp_path: Path) -> None:
    trial = parse(source_text(name)).cells(arm)[0]
    (tmp_path / "recipe.toml").write_text(to_toml(trial.recipe))
    found = command(
        "train", "--recipe", tmp_path / "recipe.toml", "--epochs", "1st", "--warmup", "0", "--out", tmp_path / "run"
    )
    assert found.code == 0, found.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["train_images_seen"] == trial.recipe.grid.global_batch
    assert result["val_images"] == 20
