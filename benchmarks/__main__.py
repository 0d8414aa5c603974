"""The command: `python -m benchmarks [NAMES] [--quick] [--out FILE]`, or `--render FILE` to fill the tables of the docs."""

import argparse
import json
import time
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.tables import fill, tables
from benchmarks.wanted import Wanted

PAGES = {
    "exactness": ("reduction", "modes", "blocks", "precision"),
    "speed": ("training", "loader", "resident", "emulation", "startup", "memory"),
}
"""Which benchmarks a page of the docs shows; each is the module of its name."""
BENCHMARKS = tuple(name for shown in PAGES.values() for name in shown)
ON_GPU = ("training", "resident", "emulation", "memory")
"""Those that can measure a GPU."""
DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    """Run benchmarks, print their tables and write one JSON file; or put such a file's tables into the docs."""
    parser = _parser()
    given = parser.parse_args()
    if given.page is not None:
        given.names += PAGES[given.page]
    allowed = BENCHMARKS if given.device == "cpu" else ON_GPU
    if unknown := [name for name in given.names if name not in allowed]:
        parser.error(f"a benchmark of {given.device} is one of {', '.join(allowed)}; got {', '.join(unknown)}")
    if given.render is not None:
        results = json.loads(given.render.read_text(encoding="utf-8"))
        page = next((name for name, shown in PAGES.items() if set(shown) == set(results["benchmarks"])), None)
        if results["quick"] or page is None:
            parser.error(f"a page shows all its benchmarks at full size; {given.render} holds others, or those of --quick")
        document = DOCS / f"{page}.md"
        document.write_text(fill(document.read_text(encoding="utf-8"), results), encoding="utf-8")
        return
    _measure(given, list(given.names or allowed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which ones: {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--page", choices=PAGES, help="those that a page of the docs shows")
    parser.add_argument("--quick", action="store_true", help="small sizes, a minute: shows that everything works")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=f"of cuda: {', '.join(ON_GPU)}")
    parser.add_argument("--gpu", action="store_true", help="with --quick: what is measured on a GPU, on this processor")
    parser.add_argument("--model", metavar="NAME", help="training and emulation of this network only")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="DIR/train/CLASS/*.jpg to load; they are drawn otherwise")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers and the machine as JSON")
    parser.add_argument("--add", action="store_true", help="keep what FILE holds of other benchmarks")
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing; put FILE's tables into their page")
    return parser


def _measure(given: argparse.Namespace, names: list[str]) -> None:
    """Run benchmarks; what was measured is kept when a later one fails."""
    gpu = given.gpu or given.device == "cuda"
    wanted = Wanted(given.quick, given.device, gpu, given.photos and given.photos.resolve(), given.model)
    results: dict[str, Any] = {"date": date.today().isoformat(), "quick": given.quick, "hardware": describe(given.device)}
    results["benchmarks"] = {}
    if given.add and given.out is not None and given.out.exists():
        results["benchmarks"] = json.loads(given.out.read_text(encoding="utf-8"))["benchmarks"]
    for name in names:
        began = time.monotonic()
        rows = import_module(f"benchmarks.{name}").run(wanted)
        if given.add and given.model is not None:  # of other networks
            rows = [*results["benchmarks"].get(name, {"rows": []})["rows"], *rows]
        results["benchmarks"][name] = {"seconds": round(time.monotonic() - began, 1), "rows": rows}
        print(f"{name}: {results['benchmarks'][name]['seconds']} s\n\n{tables(name, rows)}\n", flush=True)
        if given.out is not None:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
