"""What is looked at before the first step: the arithmetic of space, and that nothing begins that cannot end."""

import resource
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from widestep.errors import EnvironmentFault, UsageError
from widestep.plan.execution import Execution
from widestep.plan.recipe import Recipe
from widestep.records import machine, place
from widestep.train import preflight
from widestep.train.preflight import Need, check_before_training
from widestep.workers.world import World

KIB = 1024
DIGITS = Recipe()
Sizes = namedtuple("Sizes", "f_bavail f_frsize f_favail f_files")


@pytest.fixture
def free(monkeypatch):
    """`free(number)` bytes, everywhere."""

    def make(number):
        monkeypatch.setattr(place.os, "statvfs", lambda path: Sizes(number, 1, 10_000, 10_000))

    return make


def check(directory, *needs, recipe=DIGITS):
    directories = [directory / str(number) for number in range(len(needs))] if len(needs) > 1 else [directory]
    check_before_training(World(), directories, needs, recipe)


@pytest.mark.parametrize(
    ("optimizer", "moments"), [("sgd", 1), ("lars-torch", 1), ("adamw", 2), ("lamb", 2), ("rmsprop-sgd", 2)]
)
def test_what_a_run_needs(optimizer, moments):
    """1,000 trained numbers, 100 of statistics and 8 running ones, 4 bytes each; records of 500 steps, every second one."""
    recipe = Recipe(optimizer=optimizer, base_lr=0.01)
    trained, statistics = torch.zeros(1000), torch.zeros(100)
    state = SimpleNamespace(
        trained={"w": trained},
        weights=lambda: {"w": trained, "s": statistics},
        running=torch.zeros(4, 2, 1),
        plan=SimpleNamespace(recipe=recipe, total_steps=500),
    )
    need = Need.of(state, Execution(log_every=2))
    assert need.checkpoint_bytes == 4 * (1000 + 100 + 8 + moments * 1000)
    assert need.record_bytes == 250 * 420 + 128 * KIB


def test_two_checkpoints_and_the_records_must_fit(tmp_path, free):  # row 35, before the start
    need = Need(100 * KIB, 50 * KIB)
    free(250 * KIB)
    check(tmp_path / "run", need)
    free(250 * KIB - 1)
    with pytest.raises(EnvironmentFault, match=r"Two checkpoints and the records .* need 250 KiB and 250 KiB are free"):
        check(tmp_path / "another", need)
    assert not (tmp_path / "another").exists()


def test_what_is_there_already_does_not_count_twice(tmp_path, free):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-1.safetensors").write_bytes(bytes(120 * KIB))
    free(130 * KIB)
    check(tmp_path, Need(100 * KIB, 50 * KIB))
    (tmp_path / "checkpoints" / "step-2.safetensors").write_bytes(bytes(900 * KIB))
    free(100 * KIB - 1)  # another one must fit before an old one goes
    with pytest.raises(EnvironmentFault, match="need 100 KiB"):
        check(tmp_path, Need(100 * KIB, 50 * KIB))


def test_the_runs_of_a_stack_need_space_together(tmp_path, free):
    needs = [Need(100 * KIB, 50 * KIB)] * 3
    free(750 * KIB)
    check(tmp_path, *needs)
    free(749 * KIB)
    with pytest.raises(EnvironmentFault, match="need 750 KiB"):
        check(tmp_path, *needs)


def test_a_checkpoint_larger_than_files_may_be(tmp_path, monkeypatch):  # row 39
    monkeypatch.setattr(preflight.resource, "getrlimit", lambda which: (64 * KIB, resource.RLIM_INFINITY))
    monkeypatch.setattr(preflight, "require_descriptors", lambda needed: None)
    check(tmp_path / "run", Need(64 * KIB, 0))
    with pytest.raises(EnvironmentFault, match=r"takes 65 KiB\. Files may have 64 KiB at most \(ulimit -f\)"):
        check(tmp_path / "another", Need(65 * KIB, 0))
    assert not (tmp_path / "another").exists()


def test_names_that_cannot_be(tmp_path):  # row 58
    with pytest.raises(UsageError, match="--out must be a name"):
        check(tmp_path / ("n" * 256), Need(1, 1))


def test_shards_count_as_open_files(tmp_path, monkeypatch):  # row 61
    asked = []
    monkeypatch.setattr(preflight, "require_descriptors", asked.append)
    for number in range(7):
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / f"train-{number}.tar").touch()
    alone = machine.needed_descriptors(1)
    for data in ("digits", f"folder:{tmp_path}/shards", f"tar:{tmp_path}/shards", "tar:nowhere"):
        check(tmp_path / "run", Need(1, 1), recipe=DIGITS.model_copy(update={"data": data}))
    assert asked == [alone, alone, alone + 7, alone]


def test_a_run_that_may_begin_finds_its_directory_empty(tmp_path):
    check(tmp_path / "a" / "run", Need(KIB, KIB))
    assert list((tmp_path / "a" / "run").iterdir()) == []
