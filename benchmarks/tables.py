"""From the numbers of the benchmarks to tables in Markdown, and into the places that the pages of the docs have for them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import speed_tables
from benchmarks.markdown import milliseconds, ratio, sides, table

Row = Mapping[str, Any]


def tables(name: str, rows: Sequence[Row]) -> str:
    """Return the tables of one benchmark. A ratio is the median over rounds, with the quartiles in brackets."""
    return _TABLES[name](rows)


def fill(document: str, results: Mapping[str, Any]) -> str:
    """Put tables and machine between the comments `<!-- NAME -->` and `<!-- end -->` of a document.

    Raises
    ------
    ValueError
        When a place is missing.
    """
    texts = {name: tables(name, measured["rows"]) for name, measured in results["benchmarks"].items()}
    texts["machine"] = _machine(results)
    for name, text in texts.items():
        place = re.compile(rf"<!-- {name} -->\n(.*?)<!-- end -->", re.DOTALL)
        found = place.search(document)
        if found is None:
            raise ValueError(f"The document must have a place for {name}: <!-- {name} --> and <!-- end -->. It has none.")
        begin, end = found.span(1)
        document = f"{document[:begin]}{text}\n{document[end:]}"
    return document


def _reduction(rows: Sequence[Row]) -> str:
    found = {(row["case"]["processes"], row["case"]["values"], row["case"]["blocks"]): row for row in rows}
    blocks = list(dict.fromkeys(key[2] for key in found))

    def line(processes: int, values: int) -> tuple[str, ...]:
        held = [found[processes, values, number] for number in blocks]
        sent = [held[0]["bytes_per_process"]["all_reduce"], *(row["bytes_per_process"]["tree"] for row in held)]
        return (
            str(processes),
            f"{values:,}",
            milliseconds(held[0]["seconds"]["all_reduce"]["median"]),
            *(ratio(row["ratio"]["tree"]) for row in held),
            " / ".join(f"{number / 1e6:.3g}" for number in sent),
        )

    head = (
        "processes",
        "numbers",
        "all-reduce",
        *(f"tree, {number} blocks" for number in blocks),
        "MB a process sends (same order)",
    )
    return table(head, (line(*key) for key in dict.fromkeys(key[:2] for key in found)))


def _modes(rows: Sequence[Row]) -> str:
    timed, parted = [row for row in rows if "seconds" in row], [row for row in rows if "of_way" in row]
    ways, steps = list(timed[0]["ratio"]), list(parted[0]["of_weights"])
    speed = table(
        ("network, images, workers a pass", "reproducible, steps/s", *ways),
        (
            (
                f"{row['case']['model']}, {sides(row['case'])}, {row['case']['k']}",
                f"{1 / row['seconds']['reproducible']['median']:.3g}",
                *(ratio(row["ratio"][way]) for way in ways),
            )
            for row in timed
        ),
    )
    found = {(row["case"]["model"], row["case"]["one"], row["case"]["other"]): row["of_weights"] for row in parted}
    models, pairs = list(dict.fromkeys(key[0] for key in found)), list(dict.fromkeys(key[1:] for key in found))
    deviation = table(
        ("weights of", "against", *(f"{model}: after {', '.join(steps)} steps" for model in models)),
        (
            (*map(_on, pair), *(", ".join(f"{found[model, *pair][step]:.0e}" for step in steps) for model in models))
            for pair in pairs
        ),
    )
    return f"{speed}\n\n{deviation}"


def _blocks(rows: Sequence[Row]) -> str:
    loops = [row for row in rows if "norms" in row["case"]]
    norms = {(row["case"]["grid"], str(row["case"]["k"])): row["ratio"]["norms"] for row in rows if "k" in row["case"]}
    sizes = sorted({int(k) for row in loops for k in row["seconds"]})

    def cell(row: Row, k: str) -> str:
        if k not in row["seconds"]:
            return ""
        time = ratio(row["ratio"][k]) if k in row["ratio"] else milliseconds(row["seconds"][k]["median"])
        return f"{time}; {ratio(norms[row['case']['grid'], k])}"

    return table(
        ("grid", *(f"k = {k}" for k in sizes)),
        ((row["case"]["grid"], *(cell(row, str(k)) for k in sizes)) for row in loops),
    )


def _precision(rows: Sequence[Row]) -> str:
    def network(case: Row) -> str:
        return f"{case['model']}{' zero_gamma' if case['zero_gamma'] else ''}, {case['images']} of {sides(case)}"

    return table(
        ("network, images", "float32", "bf16", "gradient, worst tensor", "rounded images alone"),
        (
            (
                network(row["case"]),
                milliseconds(row["seconds"]["fp32"]["median"]),
                ratio(row["ratio"]["bf16"]),
                f"{row['gradient_difference']['whole']:.1%}, {row['gradient_difference']['largest_of_a_tensor']:.0%}",
                f"{row['gradient_difference']['images_rounded']:.1%}",
            )
            for row in rows
        ),
    )


_TABLES = {
    "reduction": _reduction,
    "modes": _modes,
    "blocks": _blocks,
    "precision": _precision,
    **speed_tables.TABLES,
}


def _machine(results: Mapping[str, Any]) -> str:
    held = results["hardware"]
    units = ", ".join(held["bf16_units"]) or "none"
    return (
        f"{results['date']}: {held['processor']}, {held['num_cores']} cores, {held['capability']}, bfloat16 units: {units}; "
        f"torch {held['torch']}, one thread a process; load before: {held['load_before']}."
    )


def _on(way: str) -> str:
    """Turn `fast fp16 2` into words."""
    name, processes = way.rsplit(" ", 1)
    return f"{name} on {processes}"
