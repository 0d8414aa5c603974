"""Whatever call to the disk is the last, or refused: what was assured is there, the run goes on (rows 6-8, 38, 43; G2)."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "crash_points.py"
LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def found(program: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every call (long) or every eleventh (short) of every scenario, in every way to fail."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(dir=memory)) if memory.is_dir() else tmp_path_factory.mktemp("crash")
    try:
        command = [sys.executable, str(PROGRAM), str(place), "1" if LONG else "11"]
        done = subprocess.run(command, env=program.environment(), capture_output=True, text=True, check=False, timeout=1500)
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("scenario", ["start", "saves", "study"])
def test_nothing_assured_is_lost_at_any_call(found: dict[str, Any], scenario: str) -> None:  # rows 6, 7, 8
    assert found[scenario]["problems"] == []
    assert found[scenario]["calls"] > 50
    assert found[scenario]["cases"] == 7 * len(range(0, found[scenario]["calls"], 1 if LONG else 11))


def test_every_way_to_fail_was_met(found: dict[str, Any]) -> None:
    """Kills end a process, a disk that stays full ends a run with 5, and a short write ends nothing (rows 35, 38)."""
    for scenario in found.values():
        outcomes = scenario["outcomes"]
        num_cases = scenario["cases"] // 7
        assert outcomes["kill: -9"] == outcomes["half: -9"] == outcomes["short: 0"] == num_cases
        for disk in ("enospc", "eio"):  # only the last word of a lock may go unsaid
            assert outcomes[f"{disk}: 5"] + outcomes.get(f"{disk}: 0", 0) == num_cases
            assert outcomes.get(f"{disk}: 0", 0) <= 1
