"""What the searches of a study tried and found: a table of the page, entries of findings.json, and search.csv."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from widestep.plan.plain import csv_text, plain
from widestep.report.page import Table
from widestep.study.searching import SearchSummary


def search_table(searches: Sequence[SearchSummary]) -> Table:
    """Return a row for each combination that is searched."""
    rows = [
        [
            plain(one.arm),
            plain(one.words) or "\N{EN DASH}",
            plain(one.best_words) or "\N{EN DASH}",
            "\N{EN DASH}" if one.accuracy is None else f"{one.accuracy:.2f}",
            f"{one.num_tried} of {one.num_trials}" + ("" if one.is_over else ", goes on"),
            str(one.num_pruned),
            str(one.num_diverged),
        ]
        for one in searches
    ]
    words = (
        "Settings tried for each combination, and the best by final validation accuracy (mean over seeds of its own, "
        "none of the study's). The accuracy of the best of many is flattering: what it is worth is told by the arm that "
        "runs it with the study's seeds. Given up: below the median of earlier runs at the same epoch. Where the best lies "
        "at an end of what was allowed, a better one may lie beyond. search.csv has every try."
    )
    headers = ["arm", "combination", "best", "accuracy %", "tried", "given up", "diverged"]
    return Table("Search", headers, rows, words, first_number=3)


def search_records(searches: Sequence[SearchSummary]) -> list[dict[str, Any]]:
    """Return the searches as entries of findings.json, under the keys that the findings on claims have."""
    empty = dict.fromkeys(("effect", "interval", "level", "p", "p_adjusted", "minimum_detectable_difference"))
    found = []
    for one in searches:
        about = " ".join(filter(None, [one.arm, one.words]))
        text = f"Search of {about}: best {one.best_words} of {one.num_tried} tried." if one.best else f"Search of {about}."
        words = {"claim": f"search {about}", "text": plain(text), "verdict": "supported" if one.is_over else "undecided"}
        found.append(words | empty | {"unit": "", "n": len(one.seeds), "test": "", "kind": "search", "search": asdict(one)})
    return found


def search_csv(searches: Sequence[SearchSummary]) -> str:
    """Return every try as a table: the arm, its combination, what was tried, and what it came to in percent."""
    fields = list(dict.fromkeys(name for one in searches for name in one.best or {}))
    rows = [
        [one.arm, one.words, *(each.get(name, "") for name in fields), each["status"], each["accuracy"]]
        for one in searches
        for each in one.tried
    ]
    return csv_text(["arm", "combination", *fields, "status", "accuracy"], rows)
