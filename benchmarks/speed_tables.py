"""From the numbers of the benchmarks of speed to tables in Markdown: docs/speed.md and the terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.markdown import milliseconds, ratio, sides, table

Row = Mapping[str, Any]


def training(rows: Sequence[Row]) -> str:
    """Images a second of every contender, and which share it takes of what the device could do."""
    rates = rows[0]["rates"]
    products, copies = _spread(rates["matmul_tflops"], "{:.3g}"), _spread(rates["copy_tb_per_second"], "{:.3g}")
    tables = [_contenders(row, f"{row['case']['model']}, {row['case']['images']} of {sides(row['case'])}") for row in rows]
    measured = f"The device alone: bfloat16 products {products} TFLOP/s; copies {copies} TB/s, read and written."
    return "\n\n".join([measured, *tables])


def loader(rows: Sequence[Row]) -> str:
    """Processor time an image and images a second, on one core and two."""

    def lines(row: Row) -> list[tuple[str, ...]]:
        return [
            (
                name,
                _spread(found["cpu_microseconds"], "{:,.0f}"),
                _against(found, "torchvision", "times_less_cpu"),
                _share_of_decoding(name, found),
                _spread(found["images_per_second"], "{:,.0f}"),
            )
            for name, found in row["contenders"].items()
        ] + [*row["absent"].items()]

    def head(row: Row) -> tuple[str, ...]:
        cores = "one core" if row["case"]["cores"] == 1 else f"{row['case']['cores']} workers or threads"
        less = "times less than torchvision"
        return (f"on {cores}", "CPU microseconds an image", less, "of decoding alone; and cropping", "images/s")

    return "\n\n".join(table(head(row), lines(row)) for row in rows)


def resident(rows: Sequence[Row]) -> str:
    """Images a second from memory."""

    def said(case: Row) -> str:
        return f"{case['images']:,} images of 3x{case['side']}x{case['side']}"

    return "\n\n".join(_contenders(row, said(row["case"])) for row in rows)


def emulation(rows: Sequence[Row]) -> str:
    """The time of a step as a multiple of plain accumulation's, and the memory of both."""

    def line(row: Row) -> tuple[str, ...]:
        case, found = row["case"], row["contenders"]
        grid = f"{case['workers']} x {case['images']}"
        if set(found) != {"plain", "widestep"}:
            return (case["model"], grid, *(f"{name}: {why}" for name, why in row["absent"].items()))
        faster = found["widestep"]["against"]["plain"]["times_as_fast"]
        slower = {"median": 1 / faster["median"], "low": 1 / faster["high"], "high": 1 / faster["low"]}
        rate = _spread(found["plain"]["images_per_second"], "{:,.0f}")
        return (
            f"{case['model']}, {sides(case)}, {case['precision']}",
            grid,
            rate,
            ratio(slower, 3),
            *(_megabytes(found[name]["peak_mb"]) for name in ("plain", "widestep")),
        )

    head = ("network", "workers x images", "plain, images/s", "widestep, time", "plain, MB", "widestep, MB")
    return table(head, map(line, rows))


def startup(rows: Sequence[Row]) -> str:
    """Seconds of commands."""
    [row] = rows
    found = [
        (name, milliseconds(seconds["cpu_seconds"]["median"]), milliseconds(seconds["seconds"]["median"]))
        for name, seconds in row["commands"].items()
    ]
    return table(("command", "CPU", "wall"), [*found, *row["absent"].items()])


def memory(rows: Sequence[Row]) -> str:
    """Peaks, a table a row."""

    def lines(row: Row) -> list[tuple[str, str]]:
        held = [(name, _megabytes(found["peak_mb"])) for name, found in row["contenders"].items()]
        return [*held, *row["absent"].items()]

    def said(row: Row) -> str:
        return f"{row['case']['model']}, {row['case']['images']} of {sides(row['case'])} a worker"

    return "\n\n".join(table((said(row), "peak MB"), lines(row)) for row in rows)


def _contenders(row: Row, said: str) -> str:
    """Return a table of who is how fast; with the rates of the device, also of the share that is used of them."""
    rates = row.get("rates")

    def line(name: str, found: Row) -> tuple[str, ...]:
        compared = "; ".join(f"{ratio(times['times_as_fast'])} of {other}" for other, times in found["against"].items())
        speed = found["images_per_second"]
        shares = (_shares(row["case"], rates, speed["median"]),) if rates else ()
        return (name, _spread(speed, _form(speed["median"])), compared, *shares, _megabytes(found["peak_mb"]))

    lines = [line(name, found) for name, found in row["contenders"].items()]
    lines += [(name, why) for name, why in row["absent"].items()]
    shares = ("of bf16 products; of copies",) if rates else ()
    return table((said, "images/s", "times as fast", *shares, "peak MB"), lines)


def _shares(case: Row, rates: Row, speed: float) -> str:
    """Say which shares of the device's arithmetic and of its memory's speed some images a second take."""
    arithmetic = speed * case["flop_an_image"] / (rates["matmul_tflops"]["median"] * 1e12)
    traffic = speed * case["bytes_an_image"] / (rates["copy_tb_per_second"]["median"] * 1e12)
    return f"{arithmetic:.0%}; {traffic:.0%}"


def _share_of_decoding(name: str, found: Row) -> str:
    """Say which share of a loader's processor time decoding alone would have been; and decoding with cropping."""
    if not name.startswith("widestep"):
        return ""
    form = name.partition(", ")[2]
    shares = [found["against"].get(f"{what}, {form}") for what in ("decode", "decode and crop")]
    return "; ".join("-" if share is None else f"{share['times_less_cpu']['median']:.0%}" for share in shares)


def _against(found: Row, other: str, what: str) -> str:
    return ratio(found["against"][other][what]) if other in found["against"] else ""


def _megabytes(peak: Mapping[str, float]) -> str:
    """Say the memory of a process, and that of those it started."""
    children = f" + {peak['children']:,.0f}" if peak.get("children") else ""
    return f"{peak.get('device', peak.get('process', 0.0)):,.0f}{children}"


def _form(median: float) -> str:
    """Return how to write a rate with three digits at least."""
    return "{:,.0f}" if median >= 100 else "{:.3g}"


def _spread(found: Mapping[str, float], form: str) -> str:
    return f"{form.format(found['median'])} ({form.format(found['low'])}-{form.format(found['high'])})"


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "training": training,
    "loader": loader,
    "resident": resident,
    "emulation": emulation,
    "startup": startup,
    "memory": memory,
}
