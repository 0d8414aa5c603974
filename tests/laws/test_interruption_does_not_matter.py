"""Promise: a run that is killed or stopped anywhere goes on, on any number of processes, to the same bytes (R1-R3)."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running_jobs import is_free, steps_saved

pytestmark = pytest.mark.processes

FIELDS = {
    "grid": "1x5x4",
    "train_images": 410,
    "tail": "short",  # 20 steps of 20 images, and one of 10
    "epochs": "8",
    "workers_per_forward": 2,
    "dropout": 0.1,
    "augment": "shift-flip",
    "optimizer": "nesterov",
    "base_lr": 0.01,
}
EXECUTION = {"checkpoint_every": "5st", "tensorboard": "false"}


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """The uninterrupted run, once it has been made."""
    return {}


@pytest.fixture
def expected(trained_here: Callable[..., Any], whole: dict[str, Any], tmp_path: Path) -> Any:
    if not whole:
        whole["run"] = trained_here(tmp_path / "whole", FIELDS)
    return whole["run"]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_a_killed_run_goes_on_with_other_processes(
    program: Any,
    options: Any,
    until: Any,
    power_cut: Any,
    trained: Any,
    trained_here: Any,
    expected: Any,
    tmp_path: Path,
    before: int,
    after: int,
) -> None:
    directory = tmp_path / "run"
    words = options({**FIELDS, **EXECUTION, "out": directory})
    child = program.start("train", *words, "--processes", before, heard=False)  # no broken pipe ends what survives the kill
    try:
        until(lambda: steps_saved(directory) >= 30, "30 steps saved")
    finally:
        power_cut(child)
    until(lambda: is_free(directory), "the processes of the killed job die too")
    assert (directory / "STATUS").read_text() == "running\n", "the run was over before it could be killed"
    resume = trained_here if after == 1 else trained
    assert resume(directory, {**FIELDS, **EXECUTION}, processes=after) == expected
    assert expected.steps == list(range(168))  # each step once
    assert not list(directory.rglob("*.tmp")), "what the kill left half written is cleared"
    events = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    assert [(event["event"], event["processes"]) for event in events[:2]] == [("started", before), ("resumed", after)]
    assert events[1]["step"] > 0
    assert json.loads((directory / "result.json").read_text())["interruptions"] == 1


def test_a_killed_process_is_replaced_without_anybody(
    program: Any, options: Any, until: Any, kept: Any, expected: Any, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    words = options({**FIELDS, **EXECUTION, "out": directory})
    child = program.start("train", *words, "--processes", 2)
    until(lambda: steps_saved(directory) >= 10, "10 steps saved")
    started = json.loads((directory / "history.jsonl").read_text().splitlines()[0])
    os.kill(started["process"], signal.SIGKILL)
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 0, stderr
    assert stderr.count("restart    process 0 of 2 was ended by SIGKILL at step ") == 1
    assert stderr.count("resumed    at step ") == 1
    assert kept(directory) == expected
    resumed = json.loads((directory / "history.jsonl").read_text().splitlines()[1])
    assert resumed["event"] == "resumed"
    assert resumed["because"].startswith("process 0 of 2 was ended by SIGKILL at step ")


@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_stopped_run_goes_on(
    program: Any,
    options: Any,
    until: Any,
    trained_here: Any,
    expected: Any,
    tmp_path: Path,
    processes: int,
    number: int,
) -> None:
    directory = tmp_path / "run"
    words = options({**FIELDS, **EXECUTION, "out": directory, "checkpoint_every": "60s"})
    child = program.start("train", *words, "--processes", processes)
    until(lambda: steps_saved(directory) >= 21, "an epoch is over")
    os.kill(child.pid, number)
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 75
    assert "everything is saved. The same command goes on from there." in stderr
    assert "Traceback" not in stderr
    assert (directory / "STATUS").read_text() == "stopped\n"
    stopped = json.loads((directory / "history.jsonl").read_text().splitlines()[-1])
    assert stopped["event"] == "stopped"
    assert steps_saved(directory) == stopped["step"]  # nothing of the work is lost
    assert trained_here(directory, FIELDS) == expected
    resumed = json.loads((directory / "history.jsonl").read_text().splitlines()[2])
    assert (resumed["event"], resumed["step"]) == ("resumed", stopped["step"])
