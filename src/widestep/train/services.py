"""Weights & Biases and MLflow, as tracking services; neither opens a connection unless its user has configured one."""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from widestep.train.tracking import Point, Service

_PROJECT = "widestep"
_MOST_PARAMETERS = 100
"""That MLflow takes in one call."""
_LONGEST_PARAMETER = 500


class Wandb:
    """Weights & Biases: offline, into RUN/wandb, unless WANDB_MODE says otherwise; `wandb sync` uploads it later."""

    def __init__(self, directory: Path, facts: Mapping[str, Any]) -> None:
        self._directory, self._facts = directory, facts
        self._run: Any = None

    def begin(self, known_as: str | None) -> str:
        """Begin or go on."""
        for place in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(place, str(self._directory / "wandb" / "own"))  # instead of the home directory
        import wandb

        name = known_as or secrets.token_hex(8)
        settings = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True)
        self._run = wandb.init(
            mode=os.environ.get("WANDB_MODE", "offline"),
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            dir=str(self._directory),
            id=name,
            name=self._directory.name,
            resume="allow",
            config=dict(self._facts),
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")
        return name

    def send(self, points: Sequence[Point]) -> None:
        """Hand numbers over, under an axis of our own: steps taken."""
        for point in points:
            self._run.log({"step": point.step, **point.values})

    def end(self, status: str) -> None:
        """End."""
        self._run.finish(exit_code=int(status == "diverged"))


class Mlflow:
    """MLflow: files in RUN/mlflow, unless MLFLOW_TRACKING_URI names another place."""

    def __init__(self, directory: Path, facts: Mapping[str, Any]) -> None:
        self._directory, self._facts = directory, facts
        self._client: Any = None
        self._id = ""

    def begin(self, known_as: str | None) -> str:
        """Begin or go on."""
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:  # plain files need no database, and the package asks to be told that they are wanted
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (self._directory / "mlflow").resolve().as_uri()
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=place)
        if known_as is None:
            self._id = self._created()
        else:
            self._id = known_as
            self._client.update_run(known_as, status="RUNNING")
        return self._id

    def _created(self) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        created: str = self._client.create_run(number, run_name=self._directory.name).info.run_id
        parameters = [Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in self._facts.items()]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(created, params=parameters[start : start + _MOST_PARAMETERS])
        return created

    def send(self, points: Sequence[Point]) -> None:
        """Hand numbers over."""
        from mlflow.entities import Metric

        now = int(1000 * datetime.now(UTC).timestamp())
        metrics = [Metric(name, value, now, point.step) for point in points for name, value in point.values.items()]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self._id, metrics=metrics[start : start + 1000])

    def end(self, status: str) -> None:
        """End; a run that has stopped may go on."""
        self._client.set_terminated(self._id, {"complete": "FINISHED", "diverged": "FAILED"}.get(status, "KILLED"))


SERVICE_OF: dict[str, Callable[[Path, Mapping[str, Any]], Service]] = {"wandb": Wandb, "mlflow": Mlflow}
"""By the names of `log_to`."""
