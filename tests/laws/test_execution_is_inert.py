"""Promise: nothing in an execution changes a weight, a loss or a rate."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from widestep.plan.execution import Execution

FIELDS = {
    "grid": "1x5x6",
    "train_images": 200,
    "tail": "short",
    "epochs": "2",
    "augment": "shift-flip",
    "dropout": 0.1,
    "workers_per_forward": 2,
    "scaling": "none",
    "base_lr": 0.05,
}
USUAL = {
    "processes": 1,
    "device": "cpu",
    "loader_threads": 0,
    "gib_in_memory": 2.0,
    "checkpoint_every": "auto",
    "keep_checkpoints": 2,
    "restarts": 3,
    "hang_timeout": "300s",
    "join_timeout": "300s",
    "time_limit": "none",
    "check_replicas_every": 100,
    "log_every": 1,
    "tensorboard": "true",
    "log_to": "",
    "compare_batchnorm": "false",
    "digests": "false",
}
OTHER = {
    "out": "elsewhere/deep/run",
    "processes": 2,
    "device": "auto",
    "loader_threads": 3,
    "gib_in_memory": 0.0,
    "checkpoint_every": "1st",
    "keep_checkpoints": 1,
    "restarts": 0,
    "hang_timeout": "20s",
    "join_timeout": "20s",
    "time_limit": "1d",
    "check_replicas_every": 3,
    "log_every": 4,
    "tensorboard": "false",
    "log_to": "wandb,mlflow",
    "compare_batchnorm": "true",
    "digests": "true",
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run of the usual execution, once it has been made."""
    return {"directory": tmp_path_factory.mktemp("usual") / "run"}


@pytest.mark.processes
@pytest.mark.parametrize("name", Execution.model_fields)
def test_a_field_of_the_execution_is_inert(
    trained: Callable[..., Any], trained_here: Callable[..., Any], usual: dict[str, Any], tmp_path: Path, name: str
) -> None:
    assert name in OTHER, f"a new field of the execution needs another value here: {name}"
    if name == "device" and torch.cuda.is_available():
        pytest.skip("another kind of device is another environment, not another execution")
    if name == "log_to" and not all(map(find_spec, ("wandb", "mlflow"))):
        pytest.skip("the packages wandb and mlflow are not installed")
    if "run" not in usual:
        usual["run"] = trained_here(usual["directory"], FIELDS, **USUAL)
    execution = {key: value for key, value in {**USUAL, name: OTHER[name]}.items() if key != "out"}
    directory = tmp_path / (OTHER["out"] if name == "out" else "run")
    run = (trained if name == "processes" else trained_here)(directory, FIELDS, **execution)
    expected = usual["run"]
    assert (run.weights_sha256, run.final, run.best) == (expected.weights_sha256, expected.final, expected.best)
    assert (run.epochs, run.outcome) == (expected.epochs, expected.outcome)
    if name == "log_every":  # every fourth of the 7 steps of an epoch, and its last
        assert run.steps == [3, 6, 7, 11, 13]
        assert run.metrics == [record for record in expected.metrics if record["step"] in run.steps]
    else:
        assert (run.metrics, run.ledger) == (expected.metrics, expected.ledger)


def test_usual_and_other_values_differ() -> None:
    usual = Execution.model_validate({k: None if v == "none" else str(v) for k, v in USUAL.items()})
    other = Execution.model_validate({key: str(value) for key, value in OTHER.items()})
    assert all(getattr(usual, name) != getattr(other, name) for name in Execution.model_fields)
