"""Run directories compared: everything that must not depend on how a recipe was executed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Kept:
    """What a run wrote, without the times in it."""

    weights_sha256: str
    metrics: list[dict[str, Any]]
    epochs: str
    ledger: str
    final: bytes
    best: bytes
    outcome: dict[str, Any]

    @property
    def steps(self) -> list[int]:
        return [record["step"] for record in self.metrics]


_TIMES = ("images_per_second", "wall_seconds", "interruptions")


def read_kept(directory: Path) -> Kept:
    result = json.loads((directory / "result.json").read_text())
    metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    for record in metrics:
        del record["seconds"]
    return Kept(
        weights_sha256=result["weights_sha256"],
        metrics=metrics,
        epochs=(directory / "epochs.csv").read_text(),
        ledger=(directory / "ledger.jsonl").read_text(),
        final=(directory / "checkpoints/final.safetensors").read_bytes(),
        best=(directory / "checkpoints/best.safetensors").read_bytes(),
        outcome={name: value for name, value in result.items() if name not in _TIMES},
    )


@pytest.fixture(scope="session")
def kept() -> Callable[[Path], Kept]:
    return read_kept


@pytest.fixture
def trained(program: Any, options: Any) -> Callable[..., Kept]:
    """Run `widestep train` in processes of its own to the end, and return what it wrote."""

    def train(directory: Path, fields: dict[str, Any], **execution: Any) -> Kept:
        found = program("train", *options({**fields, **execution, "out": directory}))
        assert found.code == 0, found.stderr
        return read_kept(directory)

    return train


@pytest.fixture
def trained_here(command: Any, options: Any) -> Callable[..., Kept]:
    """Run `widestep train` within this process to the end, and return what it wrote."""

    def train(directory: Path, fields: dict[str, Any], **execution: Any) -> Kept:
        found = command("train", *options({**fields, **execution, "out": directory}))
        assert found.code == 0, found.stderr
        return read_kept(directory)

    return train
