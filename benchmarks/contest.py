"""Contenders of one benchmark, each in a process of its own, that take turns.

A process of its own gives every contender its own memory, torch settings and allocator, as its users have them; taking turns
lets all of them meet the same machine, which others use as well. A contender that fails or is not installed is reported and
costs the others nothing.

A module with contenders has `enter(settings) -> turn`: it prepares, and returns a function that does the measured work once
and returns when it is done (with facts to be reported, if there are any).
"""

import gc
import importlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.resources import cpu_seconds, peak_mb
from benchmarks.spread import Row, spread
from widestep.workers.launched import die_with_parent

Settings = Mapping[str, Any]
Turn = Callable[[], dict[str, Any] | None]
_ROOT = Path(__file__).resolve().parent.parent
_LEAST_PATIENCE = 30.0
"""Seconds to wait, after all time is used up, for a contender that was ready before."""


@dataclass
class Outcome:
    """What was measured of a contender, a number a round; or why it could not be."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mb: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None


def contest(
    module: str, contenders: Mapping[str, Settings], rounds: int, *, within: float = 3600.0, warming: int = 1
) -> dict[str, Outcome]:
    """Let every contender warm up with a turn, then take `rounds` measured turns, one after the other.

    Parameters
    ----------
    within
        Seconds within which all rounds but the first end, and after which who is not ready is left out.
    warming
        Contenders that prepare at the same time.
    """
    outcomes = {name: Outcome() for name in contenders}
    deadline = time.monotonic() + within
    with tempfile.TemporaryDirectory() as folder:
        entered = {
            name: _Process(module, settings, Path(folder) / f"{place}.txt", deadline)
            for place, (name, settings) in enumerate(contenders.items())
        }
        try:
            with ThreadPoolExecutor(warming) as pool:
                list(pool.map(lambda name: _ask(entered[name], "warm", outcomes[name]), entered))
            longest = 0.0
            for turn in range(rounds):
                began = time.monotonic()
                if turn and began + longest > deadline:
                    break
                for name in entered if turn % 2 == 0 else reversed(entered):
                    _ask(entered[name], "turn", outcomes[name])
                longest = max(longest, time.monotonic() - began)
            for name, process in entered.items():
                _ask(process, "end", outcomes[name])
        finally:
            for process in entered.values():
                process.close()
    return outcomes


def ranking(
    case: Mapping[str, object], outcomes: Mapping[str, Outcome], images: int, against: Mapping[str, Sequence[str]]
) -> Row:
    """Return a row of results: images a second, processor time and memory of every contender, and ratios to others.

    Parameters
    ----------
    images
        In a turn.
    against
        With whom a contender is compared, round by round.
    """
    measured = {name: outcome for name, outcome in outcomes.items() if outcome.failure is None}

    def compared(own: Outcome, other: Outcome) -> dict[str, object]:
        return {
            "times_as_fast": spread(_ratios(other.seconds, own.seconds)),
            "times_less_cpu": spread(_ratios(other.cpu_seconds, own.cpu_seconds)),
        }

    def standing(name: str, own: Outcome) -> dict[str, object]:
        return {
            "images_per_second": spread([images / seconds for seconds in own.seconds]),
            "cpu_microseconds": spread([seconds / images * 1e6 for seconds in own.cpu_seconds]),
            "peak_mb": own.peak_mb,
            "against": {other: compared(own, measured[other]) for other in against.get(name, ()) if other in measured},
        }

    return {
        "case": dict(case),
        "rounds": max((len(outcome.seconds) for outcome in measured.values()), default=0),
        "contenders": {name: standing(name, outcome) for name, outcome in measured.items()},
        "absent": {name: outcome.failure for name, outcome in outcomes.items() if outcome.failure is not None},
    }


def _ratios(others: Sequence[float], own: Sequence[float]) -> list[float]:
    return [other / max(mine, 1e-9) for other, mine in zip(others, own, strict=True)]


def _ask(process: "_Process", what: str, outcome: Outcome) -> None:
    """Have a contender do something and note what comes of it."""
    if outcome.failure is not None:
        return
    answer = process.ask(what)
    outcome.failure = answer.get("failure")
    if "seconds" in answer:
        outcome.seconds.append(answer["seconds"])
        outcome.cpu_seconds.append(answer["cpu_seconds"])
    outcome.peak_mb = answer.get("peak_mb", outcome.peak_mb)
    outcome.facts |= answer.get("facts", {})
    if outcome.failure is not None:
        process.close()


class _Process:
    """A contender's process, seen from outside."""

    def __init__(self, module: str, settings: Settings, log: Path, deadline: float) -> None:
        self._deadline, self._log = deadline, log
        with log.open("wb") as said:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.contest", module, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env={**os.environ, "OMP_NUM_THREADS": str(settings.get("threads", 1))},
                cwd=_ROOT,
                text=True,
            )

    def ask(self, what: str) -> dict[str, Any]:
        """Send a word and wait for the answer."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(f"{what}\n")
            self._child.stdin.flush()
        except OSError:
            return {"failure": self._last_words()}
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._child.stdout, selectors.EVENT_READ)
            least = 0.0 if what == "warm" else _LEAST_PATIENCE
            if not waiting.select(max(self._deadline - time.monotonic(), least)):
                return {"failure": "took too long"}
        line = self._child.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failure": self._last_words()}
        return answer

    def close(self) -> None:
        """End the process, whatever it does."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # what was written to a process that has ended
                continue

    def _last_words(self) -> str:
        code = self._child.wait()
        said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"ended with {code}: {said[-1] if said else 'without a word'}"


def main() -> None:
    """Be a contender: answer the words `warm`, `turn` and `end`."""
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints does not get between the answers
    module, settings = sys.argv[1], json.loads(sys.argv[2])
    device = settings.get("device", "cpu")
    turn: Turn | None = None
    for word in sys.stdin:
        if word.strip() == "end":
            return _say(answers, {"peak_mb": peak_mb(device)})
        try:
            if turn is None:
                turn = importlib.import_module(module).enter(settings)
                _say(answers, {"facts": turn() or {}})
            else:
                _say(answers, _timed(turn, device))
        except ModuleNotFoundError as error:
            return _say(answers, {"failure": f"not installed: {error.name}"})
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on and it is reported
            import traceback

            traceback.print_exc()
            return _say(answers, {"failure": f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}"})
    return None


def _timed(turn: Turn, device: str) -> dict[str, Any]:
    gc.collect()
    if device == "cuda":
        turn()  # takes the memory that the last turn left to the other contenders
    used, began = cpu_seconds(), time.perf_counter()
    facts = turn()
    seconds = time.perf_counter() - began
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
    return {"seconds": seconds, "cpu_seconds": cpu_seconds() - used, "facts": facts or {}}


def _say(answers: IO[str], answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
