"""The benchmarks measure what they say, and the tables of docs/exactness.md are those of the results that are kept."""

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT, KEPT = ROOT / "docs" / "exactness.md", ROOT / "benchmarks" / "results" / "cpu.json"
COMPARED = {"reduction": {"tree"}, "modes": {"fast none", "fast fp16", "fast bf16"}, "precision": {"bf16"}}


@pytest.fixture
def benchmarks(program):
    def run(*arguments):
        command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
        environment = program.environment()
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)

    return run


@pytest.fixture
def fill():
    return runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))["fill"]


def numbers(found):
    """All numbers within lists and dictionaries."""
    if isinstance(found, dict | list):
        held = found.values() if isinstance(found, dict) else found
        return [number for one in held for number in numbers(one)]
    return [found] if isinstance(found, int | float) else []


@pytest.mark.processes
def test_every_benchmark_measures(benchmarks, tmp_path):
    out = tmp_path / "new" / "quick.json"
    done = benchmarks("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n\n|") == 5  # tables, of which fast mode has two
    results = json.loads(out.read_text())
    assert {"processor", "num_cores", "torch", "capability", "bf16_units"} <= set(results["hardware"])
    rows = {name: found["rows"] for name, found in results["benchmarks"].items()}
    assert all(math.isfinite(number) and number >= 0 for number in numbers(rows))
    for name, wanted in {**COMPARED, "blocks": {"8", "norms"}}.items():
        ratios = [row["ratio"] for row in rows[name] if "ratio" in row]
        assert wanted == {key for ratio in ratios for key in ratio}
        assert all(0 < spread["low"] <= spread["median"] <= spread["high"] for ratio in ratios for spread in ratio.values())
    sent = {
        row["case"]["blocks"]: row["bytes_per_process"] for row in rows["reduction"]
    }  # 100,000 numbers, 2 processes  # W2
    assert sent[8]["all_reduce"] == pytest.approx(400_000, rel=0.01)
    assert sent[8]["tree"] == pytest.approx(400_000, rel=0.01)  # half of one partial sum, and half of the result
    assert sent[40]["tree"] == pytest.approx(700_000, rel=0.01)  # half of 2 or 3 partial sums, and half of the result

    before = DOCUMENT.read_bytes()
    assert benchmarks("--render", out).returncode == 2
    assert DOCUMENT.read_bytes() == before


def test_the_docs_show_the_results_that_are_kept(fill):
    results, document = json.loads(KEPT.read_text()), DOCUMENT.read_text(encoding="utf-8")
    assert not results["quick"]
    assert fill(document, results) == document, "run: python -m benchmarks --render benchmarks/results/cpu.json"
    with pytest.raises(ValueError, match="place for modes"):
        fill(document.replace("<!-- modes -->", ""), results)
