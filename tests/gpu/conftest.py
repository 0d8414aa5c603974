"""What the tests on a GPU share. Without one they are skipped; `WIDESTEP_TEST_DEVICE=cpu` runs them on the processor."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image


@dataclass(frozen=True)
class Trained:
    """What a run wrote that must not depend on how it was executed."""

    weights_sha256: str
    metrics: list[dict[str, Any]]
    epochs: str
    ledger: str
    final: bytes

    @property
    def losses(self) -> list[float]:
        return [record["loss"] for record in self.metrics]


def read(directory: Path) -> Trained:
    metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    for record in metrics:
        del record["seconds"]
    return Trained(
        json.loads((directory / "result.json").read_text())["weights_sha256"],
        metrics,
        (directory / "epochs.csv").read_text(),
        (directory / "ledger.jsonl").read_text(),
        (directory / "checkpoints/final.safetensors").read_bytes(),
    )


@pytest.fixture(scope="session")
def device() -> str:
    """The device that is tested."""
    wanted = os.environ.get("WIDESTEP_TEST_DEVICE", "cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU that torch can use; WIDESTEP_TEST_DEVICE=cpu runs the same on the processor")
    return wanted


@pytest.fixture(scope="session")
def small_images(device: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """96 training and 20 validation images of 40x40 pixels, two classes: a data set's name."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for image in range(116):
        place = root / ("train" if image < 96 else "val") / f"class{image % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 128, (40, 40, 3)) + 100 * (image % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{image:03d}.png")
    return f"folder:{root}"


@pytest.fixture(autouse=True)
def packages_for_all(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes that a test starts find the packages that this one was given besides those of its Python."""
    environment, given = program.environment, os.environ.get("PYTHONPATH", "")

    def with_packages(**extra: str) -> dict[str, str]:
        found: dict[str, str] = environment(**extra)
        return {**found, "PYTHONPATH": os.pathsep.join(filter(None, (found["PYTHONPATH"], given)))}

    monkeypatch.setattr(program, "environment", with_packages)


@pytest.fixture
def words(options: Any, device: str) -> Callable[..., list[str]]:
    """Return the words of a command that trains on the device."""

    def written(directory: Path, fields: dict[str, Any], **execution: Any) -> list[str]:
        given = {"tensorboard": "false", "device": device, **execution, "out": directory}
        return options({**fields, **given})

    return written


@pytest.fixture
def trained(program: Any, command: Any, words: Any) -> Callable[..., Trained]:
    """Train to the end: one process within this one, several (and what is compiled, afresh) in processes of their own."""

    def train(directory: Path, fields: dict[str, Any], **execution: Any) -> Trained:
        within = execution.get("processes", 1) == 1 and "compile" not in fields
        given = words(directory, fields, **execution)
        found = command("train", *given) if within else program("train", *given, timeout=600)
        assert found.code == 0, found.stderr
        return read(directory)

    return train
