"""The benchmarks measure what they say, and the tables of the docs are those of the results that are kept."""

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results"
PAGES = {"exactness": "cpu.json", "speed": "speed-cpu.json"}
COMPARED = {"reduction": {"tree"}, "modes": {"fast none", "fast fp16", "fast bf16"}, "precision": {"bf16"}}
CONTENDERS = {
    "training": ("plain bf16", "widestep bf16"),
    "loader": (
        "decode, packed jpeg",
        "decode and crop, packed jpeg",
        "widestep, packed jpeg",
        "widestep uint8, packed jpeg",
    ),
    "resident": ("widestep",),
    "emulation": ("plain", "widestep"),
    "memory": ("widestep 15",),
}


@pytest.fixture
def benchmarks(program):
    def run(*arguments):
        command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
        environment = program.environment()
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)

    return run


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def numbers(found):
    """All numbers within lists and dictionaries."""
    if isinstance(found, dict | list):
        held = found.values() if isinstance(found, dict) else found
        return [number for one in held for number in numbers(one)]
    return [found] if isinstance(found, int | float) else []


def in_order(spread):
    return 0 < spread["low"] <= spread["median"] <= spread["high"]


@pytest.mark.processes
def test_every_benchmark_measures(benchmarks, tmp_path):
    outs = {page: tmp_path / "new" / f"{page}.json" for page in PAGES}
    with ThreadPoolExecutor() as pool:  # to be over sooner
        ended = list(pool.map(lambda page: benchmarks("--quick", "--page", page, "--out", outs[page]), PAGES))
    assert [done.returncode for done in ended] == [0, 0], [done.stderr for done in ended]
    assert [done.stdout.count("\n\n|") for done in ended] == [5, 6]  # tables, one a benchmark and one more of fast mode
    rows = {}
    for out in outs.values():
        results = json.loads(out.read_text())
        assert {"processor", "num_cores", "torch", "capability", "bf16_units", "peers"} <= set(results["hardware"])
        rows |= {name: found["rows"] for name, found in results["benchmarks"].items()}
    assert all(math.isfinite(number) and number >= 0 for number in numbers(rows))
    for name, wanted in {**COMPARED, "blocks": {"8", "norms"}}.items():
        ratios = [row["ratio"] for row in rows[name] if "ratio" in row]
        assert wanted == {key for ratio in ratios for key in ratio}
        assert all(in_order(spread) for ratio in ratios for spread in ratio.values())
    check_reduction(rows["reduction"])
    for name, wanted in CONTENDERS.items():
        [row] = rows[name]
        assert set(row["contenders"]) == set(wanted), row["absent"]
        check_contenders(row)
    [commands] = rows["startup"]
    assert set(commands["commands"]) == {"python, nothing", "widestep --help"}, commands["absent"]

    documents = {page: (ROOT / "docs" / f"{page}.md").read_bytes() for page in PAGES}
    assert benchmarks("--render", outs["speed"]).returncode == 2
    assert {page: (ROOT / "docs" / f"{page}.md").read_bytes() for page in PAGES} == documents


def check_reduction(rows):
    sent = {row["case"]["blocks"]: row["bytes_per_process"] for row in rows}  # 100,000 numbers, 2 processes  # W2
    assert sent[8]["all_reduce"] == pytest.approx(400_000, rel=0.01)
    assert sent[8]["tree"] == pytest.approx(400_000, rel=0.01)  # half of one partial sum, and half of the result
    assert sent[40]["tree"] == pytest.approx(700_000, rel=0.01)  # half of 2 or 3 partial sums, and half of the result


def check_contenders(row):
    for name, found in row["contenders"].items():
        assert in_order(found["images_per_second"]), name
        assert 100 < found["peak_mb"]["process"] < 2_000, "a process that has imported torch"
        for ratios in found["against"].values():
            assert in_order(ratios["times_as_fast"])


@pytest.mark.parametrize("page", PAGES)
def test_the_docs_show_the_results_that_are_kept(page):
    from benchmarks.tables import fill

    kept, document = KEPT / PAGES[page], (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    results = json.loads(kept.read_text())
    assert not results["quick"]
    assert fill(document, results) == document, f"run: python -m benchmarks --render {kept.relative_to(ROOT)}"
    shown = next(iter(results["benchmarks"]))
    with pytest.raises(ValueError, match=f"place for {shown}"):
        fill(document.replace(f"<!-- {shown} -->", ""), results)


CONTENDERS_OF_A_TEST = """
import sys, time
from pathlib import Path

now = 0.0
time.perf_counter = lambda: now

def enter(settings):
    who, log = settings["who"], Path(settings["log"])
    if who == "missing":
        import no_such_package
    if who == "noisy":
        print("{not an answer}")
    if who == "hangs":
        time.sleep(60)

    def turn():
        global now
        with log.open("a") as file:
            file.write(who + "\\n")
        if who == "fails" and log.read_text().count(who) == 3:
            raise ValueError("the third\\ntime")
        if who == "dies" and log.read_text().count(who) == 2:
            sys.exit("gone")
        now += 0.02 * settings["slow"]
        return {"turns": log.read_text().count(who)}

    return turn
"""


@pytest.mark.processes
def test_contenders_take_turns_and_fail_alone(tmp_path, monkeypatch):
    from benchmarks import contest

    (tmp_path / "contenders_of_a_test.py").write_text(CONTENDERS_OF_A_TEST)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(tmp_path)]))
    log = tmp_path / "log.txt"
    names = ("a", "noisy", "fails", "dies", "missing")
    settings = {name: {"who": name, "log": str(log), "slow": 3 if name == "a" else 1} for name in names}
    found = contest.contest("contenders_of_a_test", settings, 3, warming=2)
    assert {name: outcome.failure for name, outcome in found.items()} == {
        "a": None,
        "noisy": None,
        "fails": "ValueError: the third",
        "dies": "ended with 1: gone",
        "missing": "not installed: no_such_package",
    }
    assert [len(found[name].seconds) for name in ("a", "noisy", "fails", "dies")] == [3, 3, 1, 0]
    assert found["noisy"].facts == {"turns": 4}
    measured = [line for line in log.read_text().split() if line in ("a", "noisy")][2:]
    assert measured == ["a", "noisy", "noisy", "a", "a", "noisy"]
    assert all(outcome.peak_mb["process"] > 5 for name, outcome in found.items() if name in ("a", "noisy"))

    row = contest.ranking({"case": 1}, found, 10, {"noisy": ["a", "missing"]})
    assert set(row["contenders"]) == {"a", "noisy"}
    assert set(row["absent"]) == {"fails", "dies", "missing"}
    against = row["contenders"]["noisy"]["against"]
    assert set(against) == {"a"}
    assert against["a"]["times_as_fast"]["median"] == pytest.approx(3)  # 60 against 20 ms
    assert row["contenders"]["a"]["images_per_second"]["median"] == pytest.approx(10 / 0.06)


@pytest.mark.processes
def test_no_round_begins_that_would_end_too_late(tmp_path, monkeypatch):
    """Rounds of 10 s within 35: a fourth one would end after 40."""
    from benchmarks import contest

    (tmp_path / "contenders_of_a_test.py").write_text(CONTENDERS_OF_A_TEST)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(tmp_path)]))
    now, ask = [0.0], contest._ask

    def slow_ask(process, what, outcome):
        ask(process, what, outcome)
        now[0] += 10.0 if what == "turn" else 0.0

    monkeypatch.setattr(contest, "_ask", slow_ask)
    monkeypatch.setattr(contest.time, "monotonic", lambda: now[0])
    settings = {"who": "a", "log": str(tmp_path / "log.txt"), "slow": 1}
    [outcome] = contest.contest("contenders_of_a_test", {"a": settings}, 9, within=35.0).values()
    assert (outcome.failure, len(outcome.seconds)) == (None, 3)


@pytest.mark.processes
def test_a_contender_that_hangs_is_ended(tmp_path, monkeypatch):
    from benchmarks import contest

    (tmp_path / "contenders_of_a_test.py").write_text(CONTENDERS_OF_A_TEST)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(tmp_path)]))
    [outcome] = contest.contest("contenders_of_a_test", {"b": {"who": "hangs", "log": ""}}, 3, within=0.1).values()
    assert outcome.failure == "took too long"


def test_resources_of_children_are_counted():
    from benchmarks.resources import cpu_seconds, peak_mb

    spin = "import time\nbig = bytearray(200_000_000)\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    before = cpu_seconds()
    child = subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        child.stdout.readline()
        living = cpu_seconds() - before
        assert 200 < peak_mb("cpu")["children"] < 300
        child.stdin.close()
    assert living >= 0.28  # clock ticks of 10 ms
    assert cpu_seconds() - before >= 0.28, "also once it has ended"


def test_operations_and_traffic_of_networks():
    """ResNet-50 takes 4.089 billion multiplications an image of 224 pixels; convolutions put out 11.1 million numbers."""
    from benchmarks.roofline import TRAVERSALS, bytes_an_image, flop_an_image

    assert flop_an_image("resnet50", (3, 224, 224)) / 6 == pytest.approx(4.089e9, rel=1e-3)
    assert bytes_an_image("resnet50", (3, 224, 224)) / 2 / TRAVERSALS == pytest.approx(11.11e6, rel=1e-3)
    hidden = 16 * 32 * 32 * 7 + 32 * 16 * 16 * 6 + 64 * 8 * 8 * 6
    assert bytes_an_image("cifar-resnet20", (3, 32, 32)) == 2 * TRAVERSALS * hidden


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "cifar-resnet20", "digits-resnet"])
def test_the_plain_networks_are_the_same_functions_as_ours(name):
    import torch
    from benchmarks.plain_model import PlainResNet

    from widestep.models.build import build_model

    channels = 1 if name == "digits-resnet" else 3
    plain = PlainResNet(name, 10, channels).double().eval()
    ours = build_model(name, num_classes=10, image_shape=(channels, 32, 32)).double().eval()
    ours.initialise(0, 1)
    shapes = [[tuple(p.shape) for p in network.parameters()] for network in (plain, ours)]
    assert sorted(shapes[0]) == sorted(shapes[1])
    mine = [module for module in ours.modules() if getattr(module, "weight", None) is not None]
    theirs = [module for module in plain.modules() if getattr(module, "weight", None) is not None]
    assert len(mine) == len(theirs)
    with torch.no_grad():
        for module, source in zip(theirs, mine, strict=True):
            module.weight.copy_(source.weight.view_as(module.weight))
            if getattr(module, "bias", None) is not None and getattr(source, "bias", None) is not None:
                module.bias.copy_(source.bias.view_as(module.bias))
        images = torch.randn(2, channels, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(plain(images), ours(images)[:, 0])


@pytest.mark.processes
def test_the_script_for_a_gpu_spoils_no_results_where_it_cannot_measure(program, tmp_path):
    out = tmp_path / "gpu.json"
    out.write_text("kept")
    environment = program.environment(DEVICE="cpu", QUICK="1", PYTHON=sys.executable, OUT=str(out), SECONDS_IN_ALL="0")
    script = ["bash", str(ROOT / "benchmarks" / "gpu.sh")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "== packages to train: ended with no-time" in done.stdout
    assert out.read_text() == "kept"


def test_the_packages_that_are_missing_are_named():
    asked = [sys.executable, "-S", "-m", "benchmarks.needed", "train"]  # -S: a Python without packages
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False, env={"PATH": ""})
    assert done.returncode == 1
    assert done.stderr.startswith("to train, install: torch numpy pydantic safetensors pillow simplejpeg")
    assert "MISSING" in done.stdout
