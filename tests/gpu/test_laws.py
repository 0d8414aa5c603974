"""The promises of the README on a GPU: processes that share it, kills, virtual workers, and every setting of speed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running_jobs import is_free, steps_saved

pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings("default"),  # of the torch that the GPU's machine has: another than the one we develop with
]

SMALL = {
    "train_images": "none",
    "workers_per_forward": 1,
    "model": "cifar-resnet20",
    "image_size": 32,
    "augment": "shift-flip",
    "grid": "1x4x6",
    "epochs": "2ep",  # 4 steps of 24 images each
    "base_lr": 0.01,
    "optimizer": "nesterov",
    "evaluate_every": "1ep",
}
PHOTOGRAPHS = {**SMALL, "model": "resnet18", "image_size": 64, "augment": "random-resized-crop", "grid": "1x4x4"}
BF16 = {"precision": "bf16", "memory_format": "channels_last"}
COMPILED = {"compile": "default"}
RECIPES: dict[str, dict[str, Any]] = {
    "cifar-resnet20": SMALL,
    "resnet18, crops": PHOTOGRAPHS,
    "contiguous, two workers a pass, norms": {
        **SMALL,
        "memory_format": "contiguous",
        "workers_per_forward": 2,
        "worker_norms": "true",
    },
    "bfloat16": {**PHOTOGRAPHS, **BF16},
    "TF32, channels last": {**SMALL, "memory_format": "channels_last", "tf32": "true"},
    "dropout, LARS, short tail": {**SMALL, "dropout": 0.2, "optimizer": "lars-tf", "tail": "short", "grid": "1x5x7"},
    "a stack of three digits networks": {
        "data": "digits",
        "stack": 3,
        "seed": 4,
        "grid": "1x4x8",
        "train_images": 200,
        "epochs": "2ep",
        "workers_per_forward": 4,
    },
    "compiled": {**SMALL, **COMPILED},
    "compiled, bfloat16": {**SMALL, **COMPILED, **BF16},
}


def with_data(fields: dict[str, Any], small_images: str) -> dict[str, Any]:
    return {"data": small_images, **fields}


@pytest.mark.parametrize("name", RECIPES)
def test_processes_that_share_the_device_change_no_byte(name: str, small_images: str, trained: Any, tmp_path: Path) -> None:
    fields = with_data(RECIPES[name], small_images)
    alone = trained(tmp_path / "one", fields)
    assert len(alone.metrics) >= 6
    assert trained(tmp_path / "two", fields, processes=2, loader_threads=0) == alone


def test_virtual_workers_are_real_ones(small_images: str, trained: Any, tmp_path: Path) -> None:
    """Four workers on one process, and four processes of one worker each."""
    fields = with_data({**SMALL, "epochs": "3st"}, small_images)
    assert trained(tmp_path / "real", fields, processes=4) == trained(tmp_path / "virtual", fields)


def test_images_kept_on_the_device_are_the_images_of_the_files(small_images: str, trained: Any, tmp_path: Path) -> None:
    fields = with_data(SMALL, small_images)
    assert trained(tmp_path / "files", fields, gib_in_memory=0) == trained(tmp_path / "kept", fields)


def test_the_same_command_gives_the_same_bytes_with_cuda_graphs(small_images: str, trained: Any, tmp_path: Path) -> None:
    fields = with_data({**SMALL, "compile": "reduce-overhead"}, small_images)
    first = trained(tmp_path / "first", fields)
    assert trained(tmp_path / "again", fields) == first
    eager = trained(tmp_path / "eager", with_data(SMALL, small_images))
    assert first.losses[:3] == pytest.approx(eager.losses[:3], rel=0.02)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_killed_run_goes_on_to_the_same_bytes(
    program: Any,
    until: Callable[..., None],
    power_cut: Callable[..., None],
    words: Any,
    small_images: str,
    trained: Any,
    tmp_path: Path,
    compiled: bool,
) -> None:
    fields = with_data({**SMALL, "epochs": "24st", **(COMPILED if compiled else {})}, small_images)
    expected, directory = trained(tmp_path / "whole", fields), tmp_path / "run"
    fields_of_execution = {"checkpoint_every": "2st"}
    child = program.start("train", *words(directory, fields, processes=2, **fields_of_execution), heard=False)
    try:
        until(lambda: steps_saved(directory) >= 6 or child.poll() is not None, "6 steps saved")
    finally:
        power_cut(child)
    until(lambda: is_free(directory), "the processes of the killed job die too")
    assert (directory / "STATUS").read_text() == "running\n", "the run was over before it could be killed"
    assert trained(directory, fields, **fields_of_execution) == expected
    assert [record["step"] for record in expected.metrics] == list(range(24))


@pytest.mark.parametrize("processes", [1, 2])
def test_fast_mode_is_near_reproducible_mode(small_images: str, trained: Any, tmp_path: Path, processes: int) -> None:
    """NCCL refuses two processes on one GPU, so they meet over gloo there."""
    fields = with_data({**SMALL, "epochs": "4st"}, small_images)
    exact = trained(tmp_path / "exact", fields)
    fast = trained(tmp_path / "fast", {**fields, "mode": "fast"}, processes=processes)
    assert fast.losses == pytest.approx(exact.losses, rel=1e-2)


def test_the_device_and_the_processor_agree_to_rounding(
    small_images: str, trained: Any, device: str, tmp_path: Path
) -> None:
    fields = with_data({**SMALL, "epochs": "2st"}, small_images)
    there, here = trained(tmp_path / "there", fields), trained(tmp_path / "here", fields, device="cpu")
    assert there.losses == pytest.approx(here.losses, rel=1e-3)
    where = json.loads((tmp_path / "there" / "environment.json").read_text())["device"]
    assert (where == "cpu") == (device == "cpu")
