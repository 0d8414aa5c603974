"""Figures as data: the plotted numbers recomputed from the files, n everywhere, ranges that show what matters."""

import csv
import io
import json
import math

import numpy as np
import pytest
from scipy import stats

from widestep.plan.grid import WorkerGrid
from widestep.plan.plain import csv_text
from widestep.report.figures import crowded_end, curves_range, figure_data, final_range, late_range, run_curves
from widestep.report.plotted import Series
from widestep.report.results import Curves, read_study
from widestep.study import study as studies

NAN = math.nan


@pytest.fixture(scope="module")
def study(small_text):
    return studies.changed(studies.parse(small_text), seeds=5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory, study, fakes):
    def outcome(cell, seed, rng):
        warmup, scaling = str(cell.recipe.warmup), cell.recipe.scaling
        if (warmup, seed) == ("0ep", 0):
            return fakes.planned(84)
        if (warmup, seed) == ("8ep", 1):
            return fakes.planned(500, "diverged")
        if scaling == "none" and seed > 0:
            return None
        return fakes.planned(800 + int(rng.integers(0, 20)))

    return fakes.study(tmp_path_factory.mktemp("figures"), study, outcome)


@pytest.fixture(scope="module")
def figures(directory):
    results = read_study(directory)
    return {spec.number: figure_data(results, spec) for spec in results.study.figures}


def test_layout_lists_the_grids(figures):
    assert figures[1].grids == [WorkerGrid(4, 1, 8), WorkerGrid(10, 1, 8), WorkerGrid(40, 1, 8)]
    assert figures[1].rows()[2] == ["40x1x8", 40, 1, 8, 40, 320]


def test_curves_are_means_and_intervals_over_seeds(directory, study, figures):
    cell = study.cells("batch")[1]
    table = []
    for seed in study.seeds:
        lines = (directory / "trials" / cell.fingerprint(seed) / "epochs.csv").read_text().splitlines()
        table.append([100 * float(row["val_accuracy"]) for row in csv.DictReader(lines)])
    ends = stats.ttest_1samp(table, 0.0, axis=0).confidence_interval(0.95)
    one = figures[2].series[1]
    assert one.x == list(range(1, 37))
    assert one.mean == pytest.approx(np.mean(table, axis=0))
    assert one.low == pytest.approx(ends.low)
    assert one.high == pytest.approx(ends.high)
    assert one.n == [5] * 36
    assert one.legend == "80 images a step (10x1x8), n = 5"


def test_legends_say_n_and_what_is_not_in_it(figures):
    assert [one.legend for one in figures[3].series] == [
        "no warmup, n = 5, 1 collapsed",
        "warmup 2 epochs, n = 5",
        "warmup 12 steps, n = 5",
        "warmup 8 epochs, n = 4, 1 diverged",
    ]
    assert [one.legend for one in figures[5].series][2] == "scaling none, n = 1, 4 missing"
    assert "Diverged and missing runs are counted and not in the means" in figures[3].caption
    assert "Collapsed runs (below 50 %) are in the means" in figures[3].caption


def test_final_accuracies_with_single_seeds(directory, study, figures):
    figure, cell = figures[4], study.cells("warm-40")[1]
    records = [json.loads((directory / "trials" / cell.fingerprint(seed) / "result.json").read_text()) for seed in range(5)]
    values = [100 * record["val_correct"] / 837 for record in records]
    one = figure.series[1]
    assert one.seeds == [(seed, pytest.approx(value)) for seed, value in enumerate(values)]
    assert one.mean == [pytest.approx(np.mean(values))]
    assert [one.x for one in figure.series] == [[0.0], [2.0], [4.0], [8.0]]  # 12 steps are 4 epochs
    assert figure.joined
    assert figure.x_label == "warmup (epochs)"
    assert figure.x_ticks[3] == (8.0, "8\nn = 4\n1 diverged")


def test_one_seed_is_a_point_without_interval(figures):
    one = figures[5].series[2]
    assert (one.n, one.num_missing) == ([1], 4)
    assert math.isnan(one.low[0])
    assert not figures[5].joined
    row = next(row for row in figures[5].rows() if row[0] == "scaling none")
    assert row[3:6] == [None, None, 1]


def test_tables_round_trip_through_csv(figures):
    for figure in figures.values():
        rows = list(csv.reader(io.StringIO(csv_text(figure.columns(), figure.rows()))))
        assert rows[0] == figure.columns()
        assert len(rows) == 1 + len(figure.rows())
        assert {len(row) for row in rows} == {len(rows[0])}
    assert "n" in figures[2].columns()
    assert "n" in figures[4].columns()


def series(label, mean, low=None, high=None, seeds=()):
    x = [float(index + 1) for index in range(len(mean))]
    return Series(label, x, mean, low or [NAN] * len(mean), high or [NAN] * len(mean), [3] * len(mean), 3, seeds=list(seeds))


def test_the_zoomed_range_is_that_of_the_last_two_thirds():
    curves = [series("a", [10.0, 50.0, 95.0, 96.0, 97.0, 97.5]), series("b", [12.0, 40.0, 93.0, 94.0, 95.0, 95.5])]
    low, high = late_range(curves, 1 / 3)  # epochs 3 to 6: 93 to 97.5, and 6 % room
    assert (low, high) == pytest.approx((93 - 0.27, 97.5 + 0.27))


def test_the_zoomed_range_leaves_out_collapsed_curves_unless_all_are():
    good, bad = series("a", [90.0] * 3 + [95.0] * 3), series("b", [10.0] * 6)
    low, _ = late_range([good, bad], 1 / 3, collapse_below=0.5)
    assert low > 89
    low, high = late_range([bad], 1 / 3, collapse_below=0.5)
    assert low < 10 < high


def test_the_final_range_holds_points_and_like_intervals_but_no_collapse():
    points = [
        series("a", [97.0], [96.5], [97.5], [(0, 96.8), (1, 97.2)]),
        series("b", [70.0], [-20.0], [160.0], [(0, 10.0)]),
    ]
    low, high = final_range(points, 0.5)
    assert 65 < low < 70
    assert 97.5 < high <= 100
    low, high = final_range([series("a", [10.0], seeds=[(0, 10.0)])], 0.5)
    assert low < 10 < high


def test_crowded_curves_get_an_inset():
    rising = [20.0, 60.0, 80.0, 90.0, 95.0, 97.0, 97.5, 98.0, 98.0]
    inset = crowded_end([series("a", rising), series("b", [value - 0.5 for value in rising])])
    assert inset.start == pytest.approx(6.0)
    assert inset.low < 97.0 < 98.0 < inset.high
    assert crowded_end([series("a", rising), series("b", [value * 0.6 for value in rising])]) is None
    assert crowded_end([series("a", rising)]) is None


def test_empty_ranges():
    assert curves_range([]) is None
    assert late_range([series("a", [])], 1 / 3) is None
    assert final_range([series("a", [])], 0.5) is None


def test_run_curves_leave_out_unknown_values():
    curves = Curves(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0]), np.array([0.1, NAN, 0.3]))
    figure = run_curves(2, "rates", {"r": curves}, "lr")
    assert (figure.series[0].x, figure.series[0].mean) == ([1.0, 3.0], [0.1, 0.3])
    assert figure.columns()[2] == "lr"


def test_equal_numbers_of_seeds_are_said_once(fakes, study, tmp_path):
    """At each setting where they differ (above); else beside the axis, because ticks may lie close together."""
    directory = fakes.study(tmp_path / "equal", study, lambda *_: fakes.planned(800))
    figure = figure_data(read_study(directory), study.figures[3])
    assert figure.x_label == f"warmup (epochs), n = {len(study.seeds)} each"
    assert [text for _, text in figure.x_ticks] == ["0", "2", "4", "8"]
