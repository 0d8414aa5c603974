"""Several jobs on one host at once: each finds a port of its own, and all end with the same weights."""

import json

import pytest

pytestmark = pytest.mark.processes

TINY = "--recipe digits --grid 2x1x10 --workers-per-forward 1 --train-images 100 --epochs 2ep --decay-at 1ep --warmup 0ep"


def test_eight_jobs_of_two_processes_at_once_all_finish(program, power_cut, tmp_path):  # row 30
    words = [*TINY.split(), "--device", "cpu", "--processes", 2, "--json", "--out"]
    jobs = [program.start("train", *words, tmp_path / str(number)) for number in range(8)]
    try:
        found = [job.communicate(timeout=600) for job in jobs]
    finally:
        for job in jobs:
            power_cut(job)
    assert [job.returncode for job in jobs] == [0] * 8, found
    results = [json.loads(stdout) for stdout, _ in found]
    assert len({result["weights_sha256"] for result in results}) == 1
    assert [result["interruptions"] for result in results] == [0] * 8
