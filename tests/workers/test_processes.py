"""Real processes that talk over the loopback interface: sums, agreement, stops (statements W2, R1)."""

import json
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("processes_program.py")
SIZES = (2, 3, 4, 5)
CASES = [(1, (3,)), (2, (2, 5)), (3, (1, 7)), (4, (4, 1)), (7, (2, 3, 5)), (8, (12, 5)), (12, (61,)), (16, (1, 240))]

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, program: Any) -> dict[int, list[dict[str, Any]]]:
    """What the processes of jobs of 2, 3, 4 and 5 processes found, by the size of the job."""
    folder = tmp_path_factory.mktemp("reports")
    with ExitStack() as stack:
        jobs, descriptors = [], []
        for size in SIZES:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(size)
            descriptors.append(listener.fileno())
            jobs.append(f"{size}:{listener.getsockname()[1]}:{listener.fileno()}")
        children = [
            subprocess.Popen(
                [sys.executable, str(PROGRAM), str(folder), str(process), *jobs],
                env=program.environment(GLOO_SOCKET_IFNAME="lo"),
                pass_fds=descriptors if process == 0 else (),
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in range(max(SIZES))
        ]
    try:
        errors = [child.communicate(timeout=600)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0] * len(children), "\n".join(errors)
    return {size: [json.loads((folder / f"{size}-{process}.json").read_text()) for process in range(size)] for size in SIZES}


def by_halves(leaves: list[np.ndarray]) -> np.ndarray:
    """The sum of `test_tree.py`: the left half is the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    half = 2 ** ((len(leaves) - 1).bit_length() - 1)
    return by_halves(leaves[:half]) + by_halves(leaves[half:])


def leaf_value(leaf: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng([leaf, *shape])
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 5, shape)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: f"{CASES[case][0]} blocks")
def test_processes_sum_to_the_bytes_of_one(reports: dict[int, Any], size: int, case: int) -> None:  # W2
    num_blocks, shape = CASES[case]
    expected = by_halves([leaf_value(leaf, shape) for leaf in range(num_blocks)])
    assert expected.dtype == np.float32
    assert [report["sums"][case] for report in reports[size]] == [expected.tobytes().hex()] * size


@pytest.mark.parametrize("size", SIZES)
def test_aligned_blocks_cost_what_a_ring_costs(reports: dict[int, Any], size: int) -> None:  # W2
    """A ring all-reduce of n numbers sends 2 (P - 1)/P n of them from every process (P divides n = 840 here)."""
    ring = 4 * 2 * (size - 1) * 840 // size
    assert [report["bytes_sent"] for report in reports[size]] == [ring] * size


@pytest.mark.parametrize("size", SIZES)
def test_process_0_tells_the_others(reports: dict[int, Any], size: int) -> None:
    for report in reports[size]:
        assert report["told"] == {"words": ["Ä\U0001f600", None, 1.5]}
        assert report["broadcast"] == [[7.0] * 3] * 2


@pytest.mark.parametrize("size", SIZES)
def test_merged_is_exact(reports: dict[int, Any], size: int) -> None:  # D5
    expected = [1 / 3 + index % size for index in range(7)]
    assert all(report["merged"] == expected for report in reports[size])


@pytest.mark.parametrize("size", SIZES)
def test_all_end_with_the_exit_code_of_the_first_that_failed(reports: dict[int, Any], size: int) -> None:
    nobody, first, last, everybody = zip(*(report["agreed"] for report in reports[size]), strict=True)
    silent = ["AgreedFailure", 6, ""]
    assert list(nobody) == [["value", process] for process in range(size)]
    assert list(first) == list(everybody) == [["StoreError", 6, "process 0"]] + [silent] * (size - 1)
    by_last = ["StoreError", 6] if size % 2 else ["DataError", 3]
    assert list(last) == [["AgreedFailure", by_last[1], ""]] * (size - 1) + [[*by_last, f"process {size - 1}"]]


@pytest.mark.parametrize("size", SIZES)
def test_any_process_can_ask_all_to_stop_even_an_idle_one(reports: dict[int, Any], size: int) -> None:  # R1
    for report in reports[size]:
        assert report["wishes"] == [[True, False], [True, True], [False, False]] * 3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("case", "least", "most"),
    [("8 45 none", 0.0, 5e-6), ("2 10 none", 0.0, 5e-6), ("8 45 fp16", 1e-5, 2e-3), ("8 45 bf16", 1e-4, 2e-2)],
)
def test_fast_mode_is_near_and_compression_rounds(
    reports: dict[int, Any], size: int, case: str, least: float, most: float
) -> None:  # W3
    """Also where processes have several blocks, different numbers of them (45 images of 8 workers), or none (2 workers)."""
    for report in reports[size]:
        errors = report["fast"][case]
        assert least <= errors["gradient"] < most
        assert errors["moments"] < 5e-6
        assert errors["loss"] < 1e-6
    assert len({json.dumps(report["fast"][case]) for report in reports[size]}) == 1  # all processes have the same
