"""Runs computed side by side do not notice one another (the promise of the recipe's field `stack`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from widestep.errors import UsageError
from widestep.records.run import Run

Make = Callable[..., Any]
FIELDS = {"stack": 3, "dropout": 0.2, "augment": "shift-flip", "workers_per_forward": 2, "tail": "short"}


@pytest.fixture(scope="module")
def alone(small: Make, train_one: Make, content: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of seed 4 (slot 1) without companions."""
    directory = tmp_path_factory.mktemp("stack") / "alone"
    assert train_one(directory, small(seed=4, **FIELDS)).status == "complete"
    return content(directory)


def test_companions_change_no_byte(small: Make, train_runs: Make, content: Make, alone: Any, tmp_path: Path) -> None:
    others = {"zero": {"seed": 3, "base_lr": 0.3, "optimizer": "nesterov"}, "two": {"seed": 5, "weight_decay": 0.1}}
    runs = {tmp_path / "one": small(seed=4, **FIELDS)}
    runs |= {tmp_path / name: small(**FIELDS, **fields) for name, fields in others.items()}
    results = train_runs(runs)
    assert content(tmp_path / "one") == alone
    assert len({result.weights_sha256 for result in results}) == 3


@pytest.mark.parametrize("base_lr", [1e30, 1e4])
def test_a_diverging_companion_changes_no_byte(
    small: Make, train_runs: Make, content: Make, alone: Any, tmp_path: Path, base_lr: float
) -> None:
    runs = {
        tmp_path / "zero": small(seed=0, **FIELDS),
        tmp_path / "one": small(seed=4, **FIELDS),
        tmp_path / "two": small(seed=2, **FIELDS, base_lr=base_lr),
    }
    results = train_runs(runs)
    assert [result.status for result in results] == ["complete", "complete", "diverged"]
    assert content(tmp_path / "one") == alone


def test_runs_of_other_shapes_do_not_share_a_stack(small: Make, train_runs: Make, tmp_path: Path) -> None:
    for other in ({"seed": 1, "dropout": 0.1}, {"seed": 7}):
        with pytest.raises(UsageError, match="Runs of one stack share all fields"):
            train_runs({tmp_path / "a": small(**{**FIELDS, "seed": 4}), tmp_path / "b": small(**{**FIELDS, **other})})
    assert not Run(tmp_path / "a", small()).directory.exists()
