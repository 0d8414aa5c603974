"""The command: `python -m benchmarks [NAMES] [--quick] [--out FILE]`, or `--render FILE` to fill the tables of the docs."""

import argparse
import json
import time
from datetime import date
from pathlib import Path

from benchmarks import blocks, modes, precision, reduction
from benchmarks.machine import describe
from benchmarks.tables import fill, tables

BENCHMARKS = {"reduction": reduction.run, "modes": modes.run, "blocks": blocks.run, "precision": precision.run}
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "exactness.md"


def main() -> None:
    """Run benchmarks, print their tables and write one JSON file; or put such a file's tables into the docs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which ones: {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute: shows that everything works")
    parser.add_argument("--out", type=Path, help="write the numbers and the machine as JSON")
    parser.add_argument(
        "--render", type=Path, metavar="FILE", help=f"measure nothing; put the tables of FILE into {DOCUMENT.name}"
    )
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"a benchmark is one of {', '.join(BENCHMARKS)}; got {', '.join(unknown)}")
    if given.render is not None:
        results = json.loads(given.render.read_text(encoding="utf-8"))
        if results["quick"] or set(results["benchmarks"]) != set(BENCHMARKS):
            parser.error(f"the docs show all benchmarks at full size; {given.render} holds fewer, or those of --quick")
        DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")
        return
    results = {"date": date.today().isoformat(), "quick": given.quick, "hardware": describe(), "benchmarks": {}}
    for name in given.names or BENCHMARKS:
        began = time.monotonic()
        rows = BENCHMARKS[name](given.quick)
        results["benchmarks"][name] = {"seconds": round(time.monotonic() - began, 1), "rows": rows}
        print(f"{name}: {results['benchmarks'][name]['seconds']} s\n\n{tables(name, rows)}\n", flush=True)
        if given.out is not None:  # after each: what was measured is kept when a later one fails
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
