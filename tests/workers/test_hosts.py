"""Where process 0 is: lists of hosts as schedulers write them, and what SLURM says when it is asked."""

import time
from pathlib import Path

import pytest

from widestep.workers.hosts import first_host, reachable, seconds_left
from widestep.workers.launched import seconds_of_job


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n[1-3]", "n1"),
        ("n[01-03,7],login1", "n01"),
        ("node07,node[09-12]", "node07"),
        ("rack[0-1]node[2-3]", "rack0node2"),
        ("gpu-[003,005]-ib", "gpu-003-ib"),
        ("", ""),
    ],
)
def test_the_first_node_of_a_step(nodes: str, first: str) -> None:
    assert first_host("srun", {"SLURM_STEP_NODELIST": nodes, "SLURM_NODELIST": "elsewhere"}) == first


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("batch2 1 a01n05 42 a01n06 42", "a01n05"),  # jobs are launched from a node of its own
        ("a01n05 42 a01n06 42", "a01n05"),
        ("a01n05 16", "a01n05"),
        ("", ""),
        ("a01n05", ""),
    ],
)
def test_the_first_compute_host_of_lsf(hosts: str, first: str) -> None:
    assert first_host("jsrun", {"LSB_MCPU_HOSTS": hosts}) == first


def test_other_launchers_do_not_say() -> None:
    assert first_host("mpirun", {"SLURM_STEP_NODELIST": "n[1-3]", "LSB_MCPU_HOSTS": "a 1"}) == ""


@pytest.fixture
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Commands of SLURM that print a text; their arguments are kept."""

    def say(text: str, code: int = 0) -> Path:
        for name in ("squeue", "scontrol"):
            path = tmp_path / name
            path.write_text(f'#!/bin/sh\necho "$0 $*" "$SLURM_TIME_FORMAT" > {tmp_path}/asked\necho "{text}"\nexit {code}\n')
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return tmp_path / "asked"

    return say


def test_a_name_of_slurms_own_has_an_address(slurm_says) -> None:
    asked = slurm_says("NodeName=widestep-none-7 Arch=x86_64 NodeAddr=10.77.0.7 NodeHostName=host7 Port=0")
    assert reachable("widestep-none-7.invalid", "srun") == "10.77.0.7"
    assert asked.read_text().endswith("scontrol show node --oneliner -- widestep-none-7.invalid \n")


def test_a_name_that_the_network_knows_stays(slurm_says) -> None:
    asked = slurm_says("NodeAddr=10.77.0.7")
    assert reachable("localhost", "srun") == "localhost"
    assert reachable("widestep-none-7.invalid", "torchrun") == "widestep-none-7.invalid"
    assert not asked.exists()


def test_nobody_answers(slurm_says) -> None:
    slurm_says("NodeAddr=10.77.0.7", code=1)
    assert reachable("widestep-none-7.invalid", "srun") == "widestep-none-7.invalid"
    assert seconds_left("12") is None


def test_the_end_of_a_job_is_asked_for_where_it_is_not_set(slurm_says) -> None:
    asked = slurm_says(str(int(time.time()) + 600))
    assert 595 < (seconds_of_job({"SLURM_JOB_ID": "12"}) or 0) <= 600
    assert "--jobs=12 %s" in asked.read_text()
    step = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}
    assert 595 < (seconds_of_job(step) or 0) <= 600


def test_one_process_asks_for_all(slurm_says) -> None:
    asked = slurm_says(str(int(time.time()) + 600))
    assert seconds_of_job({"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3"}) is None
    assert not asked.exists()


@pytest.mark.parametrize("text", ["NONE", "N/A", ""])
def test_a_job_without_an_end(slurm_says, text: str) -> None:
    slurm_says(text)
    assert seconds_left("12") is None
