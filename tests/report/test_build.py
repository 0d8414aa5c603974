"""Whole reports on disk: the shipped study with every kind of trouble, a partial one, hostile names, and single runs."""

import csv
import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from widestep.errors import EnvironmentFault, StoreError, UsageError
from widestep.plan.plain import csv_text
from widestep.report.build import build_report, build_run_report, summary_lines
from widestep.study import study as studies


def poster_outcome(fakes):
    """Accuracies like those of digits; one collapse, one divergence, one trial that never ran."""

    def outcome(cell, seed, rng):
        warmup, workers = float(cell.recipe.warmup.amount), cell.recipe.grid.num_workers
        if cell.arm == "digits-iter" and warmup == 0:
            return fakes.planned(84) if seed != 104 else fakes.planned(0, "diverged")
        if cell.arm == "digits-iter" and (warmup, seed) == (20, 111):
            return None
        base = {4: 98.8, 10: 98.2, 20: 98.3, 30: 98.1, 40: 97.5}[workers]
        base -= {"linear": 0, "per-worker": 0, "sqrt": 0.1, "none": 28}[cell.recipe.scaling]
        base -= 2 * (workers == 40 and warmup > 2)
        return fakes.planned(int(np.clip(round((base + rng.normal(0, 0.4)) * 8.37), 0, 837)))

    return outcome


@pytest.fixture(scope="module")
def poster(tmp_path_factory, fakes):
    study = studies.parse(studies.source_text("poster-digits"))
    directory = fakes.study(tmp_path_factory.mktemp("poster") / "s", study, poster_outcome(fakes))
    start = time.process_time()
    summary = build_report(directory)
    return directory, summary, time.process_time() - start


def test_the_shipped_study_is_reported_whole(poster):
    directory, summary, _ = poster
    assert (summary.num_trials, summary.num_complete, summary.num_diverged, summary.num_missing) == (204, 202, 1, 1)
    assert summary.page == directory / "report" / "index.html"
    names = {f"figure-{number}.{kind}" for number in range(1, 9) for kind in ("svg", "png", "csv")}
    names |= {f"claim-{number}.{kind}" for number in range(1, 7) for kind in ("svg", "png", "csv")}
    assert {path.name for path in (directory / "report" / "figures").iterdir()} == names
    text = summary.page.read_text()
    assert "202 of 204 trials complete" in text
    assert "1 diverged" in text
    assert "the loss is not finite at step 12" in text
    assert "secret-host-name" not in text
    assert "Fake CPU" in text


def test_the_shipped_study_takes_seconds(poster):
    assert poster[2] < 15


def test_findings_are_written_as_reported(poster):
    directory, summary, _ = poster
    records = json.loads((directory / "report" / "findings.json").read_text())
    assert [record["claim"] for record in records] == ["a", "b", "c", "d", "e", "b-iter", "warmup-slope"]
    said = {record["claim"]: record["verdict"] for record in records}
    assert said["a"] == said["c"] == said["b-iter"] == "supported"
    assert said["e"] == "contradicted"
    assert [finding.record() for finding in summary.findings] == records[:-1]
    assert (records[-1]["kind"], records[-1]["slope"]["batches"]) == ("slope", [80, 320])
    assert json.loads((directory / "report" / "audit.json").read_text())["num_runs"] == 204


def test_figure_tables_hold_n(poster):
    for number in (2, 6):
        with (poster[0] / "report" / "figures" / f"figure-{number}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {int(row["n"]) for row in rows if row.get("seed", "all") == "all"} == {12}


def test_reporting_again_gives_the_same_bytes(poster):
    directory = poster[0]
    files = [path for path in (directory / "report").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    build_report(directory)
    assert {path: path.read_bytes() for path in files} == before


def test_a_long_name_of_a_claim_leaves_room_for_its_numbers(poster):
    summary = poster[1]
    first = dataclasses.replace(summary.findings[0], claim="a" * 120)
    lines = summary_lines(dataclasses.replace(summary, findings=[first, *summary.findings[1:]]))
    assert lines[1].split()[1] == "a" * 23 + "…"
    assert lines[1].split()[-3:] == summary_lines(summary)[1].split()[-3:]


def test_summary_lines_fit_a_terminal(poster):
    lines = summary_lines(poster[1])
    assert lines[0] == "202 of 204 complete, 1 diverged, 1 missing"
    assert lines[-1].startswith("report: ")
    assert all(len(line) <= 100 for line in lines[:-1])
    assert len({line.index("n=") for line in lines[1:-1] if line.startswith("supported")}) <= 3
    assert lines[1].startswith("supported     a ")
    assert "points [" in lines[1]
    assert lines[1].endswith("n=12")


def test_a_partial_report_says_what_is_missing(tmp_path, small_text, fakes):
    study = studies.changed(studies.parse(small_text), seeds=4)
    directory = fakes.study(tmp_path / "s", study, lambda cell, seed, rng: fakes.planned(800) if seed == 1 else None)
    summary = build_report(directory)
    text = summary.page.read_text()
    assert (summary.num_complete, summary.num_missing) == (12, 36)
    assert "This report is partial: 36 of 48 trials have no result yet" in text
    assert text.count("not started") == 36
    assert "n = 1: no interval" in text
    assert all(finding.interval is None for finding in summary.findings)
    assert "n=1" in summary_lines(summary)[1]


def test_a_report_before_anything_ran(tmp_path, small_text, fakes):
    study = studies.changed(studies.parse(small_text), seeds=2)
    summary = build_report(fakes.study(tmp_path / "s", study, lambda *trial: None))
    assert summary.num_complete == 0
    assert {finding.verdict for finding in summary.findings} == {"undecided"}
    assert (tmp_path / "s" / "report" / "figures" / "figure-4.svg").exists()


def test_hostile_texts_of_a_study(tmp_path, small_text, fakes):
    bad = "<script>alert(1)</script>"
    text = small_text.replace("A small study", bad).replace('"By epoch"', f'"={bad}\\u001b[31m"')
    text = text.replace("Accuracy falls with the batch.", bad).replace("Warmup at 40 workers", bad)
    text = text.replace("margin = 0.5", f'margin = 0.5\nnotes = ["{bad}"]')
    study = studies.changed(studies.parse(text), seeds=2)
    summary = build_report(fakes.study(tmp_path / "s", study, lambda cell, seed, rng: fakes.planned(800 + seed)))
    page = summary.page.read_text()
    assert page.count("<script") == 3  # ours
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page


def test_cells_that_a_spreadsheet_would_run_are_guarded():
    rows = [["=1+1", -0.5], ["+x", 3], ["-x", 1e-9], ["@x", None], ["\tx", 0], ["fine", -2]]
    assert csv_text(["a", "b"], rows).splitlines()[1:] == ["'=1+1,-0.5", "'+x,3", "'-x,1e-09", "'@x,", "'\tx,0", "fine,-2"]


def test_a_report_that_cannot_be_written(tmp_path, small_text, fakes):
    study = studies.changed(studies.parse(small_text), seeds=2)
    directory = fakes.study(tmp_path / "s", study, lambda *trial: None)
    (directory / "report").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="report"):
        build_report(directory)


@pytest.fixture
def runs(tmp_path, small_text, fakes):
    study = studies.parse(small_text)
    found = []
    for place, arm in (("one/run", "batch"), ("two/run", "warm-40"), ("stopped", "rule")):
        directory = tmp_path / place
        fakes.run(directory, study.cells(arm)[0].recipe, fakes.planned(810), np.random.default_rng(1))
        found.append(directory)
    (found[2] / "result.json").unlink()
    (found[2] / "STATUS").write_text("running\n")
    return found


def test_single_runs(runs, tmp_path):
    summary = build_run_report(runs, tmp_path / "out")
    text = summary.page.read_text()
    assert (summary.num_trials, summary.num_complete, summary.num_missing, summary.findings) == (3, 2, 1, [])
    assert "Not complete: stopped (running)." in text
    assert str(runs[0]) in text  # two runs of one name are told apart by their paths
    assert "96.77" in text  # 810 of 837
    for name in ("figure-1.svg", "figure-1.png", "figure-1.csv", "figure-2.csv"):
        assert (tmp_path / "out" / "figures" / name).exists()
    with (tmp_path / "out" / "figures" / "figure-2.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file) if row["setting"] == "stopped"]
    assert max(rates) == pytest.approx(0.045 * 40)
    assert "<code>warmup</code>" in text
    assert summary_lines(summary)[0] == "2 of 3 complete, 1 missing"


def plant(run, lr, weights):
    """Give a fake run a ledger of one rate throughout, and weights."""
    path = run / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"weights_sha256": weights}))
    groups = [{"name": "all", "lr": lr, "weight_decay": 5e-5, "momentum": 0.9, "num_tensors": 161}]
    lines = [json.dumps({"step": step, "groups": groups, "images": 320}) for step in range(result["steps"])]
    (run / "ledger.jsonl").write_text("\n".join(lines) + "\n")


def test_an_option_that_changed_nothing_is_in_the_report(tmp_path, small_text, fakes):
    """Linear, sqrt and none, of which sqrt was ignored."""
    text = small_text.replace("seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8]", "seeds = [3, 4]")
    study = studies.parse(text[: text.index("[arms.batch]")] + text[text.index("[arms.rule]") : text.index("[claims.a]")])
    directory = fakes.study(tmp_path / "s", study, lambda cell, seed, rng: fakes.planned(800 + seed))
    for cell in study.cells("rule"):
        for seed in study.seeds:
            lr = 0.045 if cell.recipe.scaling == "none" else 1.8
            plant(directory / "trials" / cell.fingerprint(seed), lr, f"{lr}, {seed}")
    summary = build_report(directory)
    said = (
        "scaling linear against sqrt changed nothing that was applied at any of the 108 recorded steps in 2 seeds; the "
        "weights are the same bytes (rule: scaling linear; rule: scaling sqrt)"
    )
    assert summary.audit == [said]
    page = summary.page.read_text()
    assert page.count(said) == 2  # at the top and under Audit
    assert "6 of 6 runs audited. " in page
    records = json.loads((directory / "report" / "findings.json").read_text())
    assert [(record["claim"], record["text"], record["n"]) for record in records] == [("audit", said, 2)]
    lines = summary_lines(summary)
    assert lines[1].startswith("audit  scaling linear against sqrt changed nothing")
    assert all(len(line) <= 100 for line in lines[:-1])
    assert " ".join(line.strip() for line in lines[1:-1]) == f"audit  {said}"


def test_single_runs_are_audited(runs, tmp_path, small_text, fakes):
    """Two runs that differ in the shape of a warmup; a third with another seed is not compared with them."""
    recipe = studies.parse(small_text).cells("rule")[0].recipe
    found = []
    for name, changes in (("a", {}), ("b", {"warmup_shape": "constant"}), ("c", {"seed": 1, "base_lr": 0.3})):
        found.append(tmp_path / name)
        fakes.run(found[-1], recipe.model_copy(update=changes), fakes.planned(810), np.random.default_rng(1))
        plant(found[-1], 1.8, "the same")
    summary = build_run_report(found, tmp_path / "out")
    (said,) = summary.audit
    assert said.startswith(
        "warmup_shape linear against constant changed nothing that was applied at any of the 108 recorded"
    )
    assert said.endswith("in 1 seed; the weights are the same bytes (a; b)")
    assert said in summary.page.read_text()


def test_single_runs_refuse_what_is_no_run(runs, tmp_path):
    with pytest.raises(UsageError, match="at least one run"):
        build_run_report([], tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds recipe\.toml"):
        build_run_report([tmp_path], tmp_path / "out")
    (runs[0] / "result.json").write_text("{")
    with pytest.raises(StoreError, match=r"result\.json"):
        build_run_report(runs, tmp_path / "out")


def test_reports_need_no_torch_and_no_global_plotting_state():
    code = "import sys, widestep.report.build; print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
