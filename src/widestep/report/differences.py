"""A figure for every claim: the difference of each seed, the mean with its interval, the margin and the verdict."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from widestep.report.claims import Finding
from widestep.report.plotted import FigureData, Series


def claim_figures(findings: Sequence[Finding]) -> list[FigureData]:
    """Return one figure a finding that rests on comparisons, numbered as the claims are; equal findings give equal data."""
    return [_figure(number, one) for number, one in enumerate(findings, 1) if one.comparisons]


def _figure(number: int, finding: Finding) -> FigureData:
    series = [_series(one) for one in finding.comparisons]
    unit = finding.comparisons[0]["unit"]
    in_points = unit == "points"
    margin = f"; the grey band is the margin of {finding.margin:g} points" if in_points else ""
    caption = (
        "Dots are the differences of single seeds, the large mark is their mean with its "
        f"{100 * finding.level:g} % interval{margin}. What lies right of 0 speaks for the claim."
    )
    if finding.kind == "equivalent":
        caption = caption.replace("What lies right of 0 speaks", "An interval within the band speaks")
    return FigureData(
        number=number,
        kind="differences",
        title=finding.text,
        caption=caption,
        x_label=f"difference in final accuracy ({unit})" if in_points else f"difference ({unit})",
        y_label="",
        series=series,
        margin=finding.margin if in_points else None,
        verdict=finding.verdict,
        claim=finding.claim,
    )


def _series(one: Mapping[str, Any]) -> Series:
    """Return a comparison as one row of the figure; nothing is plotted while no seed is complete on both sides."""
    known = one["effect"] is not None
    low, high = one["interval"] or (math.nan, math.nan)
    return Series(
        label=f"{one['first']} minus {one['second']}",
        x=[0.0] if known else [],
        mean=[one["effect"]] if known else [],
        low=[low] if known else [],
        high=[high] if known else [],
        n=[one["n"]] if known else [],
        num_seeds=one["n"],
        seeds=[(seed, value) for seed, value in one["differences"]],
    )
