"""Cost: device-seconds worked out by hand from what runs wrote down, shared runs once, lost attempts not counted."""

import json

import pytest

from widestep.report.cost import cost_table, study_cost
from widestep.report.results import read_study
from widestep.study import study as studies


def event(kind, minute, **facts):
    return {"event": kind, "time": f"2026-01-01T10:{minute:02d}:00+00:00", "process": 1, **facts}


def spent(seconds, processes=1, runs=1):
    return {"seconds": seconds, "processes": processes, "runs": runs}


@pytest.fixture
def study(tmp_path, small_text, fakes):
    plan = studies.changed(studies.parse(small_text), seeds=2)
    directory = fakes.study(tmp_path / "s", plan, lambda cell, seed, rng: fakes.planned(800))
    cells = {arm: plan.cells(arm) for arm in plan.arms}

    def write(arm, cell, seed, events, device="cpu"):
        trial = directory / "trials" / cells[arm][cell].fingerprint(seed)
        (trial / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
        (trial / "environment.json").write_text(json.dumps({"device": device, "processor": "Fake CPU"}))

    return directory, write


def test_device_hours_are_worked_out_and_summed(study):
    directory, write = study
    write("batch", 0, 0, [event("started", 0), event("stopped", 10, **spent(600, 4)), event("resumed", 20),
                          event("complete", 30, **spent(600, 2))])  # fmt: skip
    write("batch", 1, 0, [event("started", 5), event("complete", 15, **spent(1200, 1, 12))], "NVIDIA Fake")
    write("rule", 1, 0, [event("started", 40), event("resumed", 50), event("complete", 55, **spent(300))])
    cost = study_cost(read_study(directory))
    assert cost.arms["batch"].device_seconds == 600 * 4 + 600 * 2 + 1200 / 12
    assert cost.arms["rule"].device_seconds == 300
    assert (cost.total.num_runs, cost.total.num_recorded, cost.total.num_lost) == (3, 2, 1)
    assert cost.total.device_hours == pytest.approx(4000 / 3600)
    assert cost.elapsed_seconds == 55 * 60
    assert cost.devices == ["Fake CPU", "NVIDIA Fake"]
    assert cost.record()["total"]["device_seconds"] == 4000
    table = cost_table(cost)
    assert table.rows[-1][:3] == ["total", "3", "1.11"]
    assert "1 attempt has no recorded end" in table.words
    assert "Energy: not measured." in table.words
    assert "55.0 min" in table.words


def test_a_run_that_two_arms_share_costs_once(study):
    directory, _ = study
    # the second setting of `batch` and the third of `warm-10` are 10 workers with the recipe's own warmup
    plan = read_study(directory).study
    shared = {cell.fingerprint(0) for cell in plan.cells("batch")} & {cell.fingerprint(0) for cell in plan.cells("warm-10")}
    assert len(shared) == 1
    (directory / "trials" / shared.pop() / "history.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in (event("started", 0), event("complete", 1, **spent(60))))
    )
    cost = study_cost(read_study(directory))
    assert (cost.arms["batch"].num_runs, cost.arms["warm-10"].num_runs, cost.total.device_seconds) == (1, 0, 60)


@pytest.mark.parametrize(
    "facts", [{}, {"seconds": "9", "processes": 1, "runs": 1}, {"seconds": -1, "processes": 1, "runs": 1}, {"seconds": 5}]
)
def test_what_is_not_recorded_is_not_guessed(study, facts):
    directory, write = study
    write("batch", 0, 0, [event("started", 0), {**event("complete", 1, **facts), "time": "yesterday"}])
    cost = study_cost(read_study(directory))
    assert (cost.total.device_seconds, cost.total.num_lost) == (0, 1)
    assert cost_table(cost).rows[-1][2] == "–"


def test_damaged_or_absent_records_cost_nothing(study):
    directory, write = study
    assert cost_table(study_cost(read_study(directory))).rows == []
    write("batch", 0, 0, [event("started", 0), event("complete", 1, **spent(60))])
    trial = next(path.parent for path in directory.glob("trials/*/history.jsonl"))
    (trial / "history.jsonl").write_bytes(b"\xff\xfe\n{")
    assert study_cost(read_study(directory)).total.device_seconds == 0
