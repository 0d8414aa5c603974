"""Data inside the page: text that no browser takes for markup, every curve once, single seeds within the budget."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.report import embedded as module
from widestep.report.embedded import ArmCurves, as_script, embedded
from widestep.report.plotted import FigureData, Series

NAN = math.nan


def series(label="a", runs=None):
    return Series(label, [1.0, 2.0], [50.0, 90.123456], [49.0, NAN], [51.0, NAN], [3, 1], 3, runs=runs or {})


def figure(number, *lines):
    return FigureData(number, "curves", "T", "C", "epoch", series=list(lines), y_range=(0.0, 100.0))


@given(st.text(), st.text())
def test_any_text_is_data(key, text):
    said = as_script({key: [text]})
    assert json.loads(str(said)) == {key: [text]}
    assert said.isascii()
    assert not set("<>&") & set(said)


def test_no_number_is_nothing_in_json():
    with pytest.raises(ValueError, match="JSON"):
        as_script([NAN])
    line = embedded([figure(2, series())], [])["curves"][0]
    assert line["low"] == [49.0, None]
    assert line["mean"] == [50.0, 90.123]


def test_a_curve_that_many_show_is_there_once():
    data = embedded(
        [figure(2, series("a"), series("b")), figure(3, series("b"))], [ArmCurves("arm", [series("b"), series("c")])]
    )
    assert [line["label"] for line in data["curves"]] == ["a", "b", "c"]
    assert data["figures"]["figure-2"]["curves"] == [0, 1]
    assert data["figures"]["figure-3"]["curves"] == [1]
    assert data["arms"] == [{"title": "arm", "curves": [1, 2]}]
    assert data["csv"]["figure-3"].startswith("setting,epoch,accuracy_percent,low,high,n")


def test_single_seeds_are_left_out_above_the_budget(monkeypatch):
    lines = [series("a", {7: [1.0, NAN], 8: [2.0, 3.0]})]
    monkeypatch.setattr(module, "MOST_SINGLE_VALUES", 4)
    assert embedded([figure(2, *lines)], [])["curves"][0]["runs"] == {"7": [1.0, None], "8": [2.0, 3.0]}
    monkeypatch.setattr(module, "MOST_SINGLE_VALUES", 3)
    assert embedded([figure(2, *lines)], [])["curves"][0]["runs"] == {}
