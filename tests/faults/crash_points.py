"""Every call that changes the disk, of a save, a run and a study, made to fail in every way. Run as a program: see `main`.

A child is forked for each case and does what a run does; its n-th call is its last (kill), half its last (half), refused
once or from then on (ENOSPC, EIO), or takes half the bytes (short). It tells through a pipe what it was assured of. Then the
parent goes on with what is left, as the same command would, and looks whether all of that is there.
"""

import errno
import io
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from scenarios import SCENARIOS, Scenario

MODES = ("kill", "half", "enospc-once", "enospc", "eio-once", "eio", "short")
CALLS = ("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "ftruncate", "link")
CHANGING = os.O_CREAT | os.O_WRONLY | os.O_RDWR | os.O_TRUNC


class Disk:
    """Counts the calls that change the disk, and lets one of them fail."""

    def __init__(self, nth: int, mode: str) -> None:
        self.num_calls, self.nth, self.mode = 0, nth, mode
        for name in CALLS:
            setattr(os, name, self._around(name, getattr(os, name)))
        real = io.open

        def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if isinstance(file, (str, Path)) and set(mode) & set("wax+"):
                self._meet(None, None)
            return real(file, mode, *arguments, **options)

        io.open = opened  # type: ignore[assignment]

    def _around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & CHANGING:
                return real(*arguments, **options)
            taken = self._meet(real if name == "write" else None, arguments)
            return real(*arguments, **options) if taken is None else taken

        return call

    def _meet(self, write: Callable[..., int] | None, arguments: Any) -> int | None:
        self.num_calls += 1
        past = self.num_calls - 1 - self.nth
        if past == 0 and self.mode in ("kill", "half"):
            if write is not None and self.mode == "half":
                write(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if past == 0 and self.mode == "short" and write is not None and len(arguments[1]) > 1:
            return write(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        if past == 0 or (past > 0 and not self.mode.endswith("-once")):
            number = {"enospc": errno.ENOSPC, "eio": errno.EIO}.get(self.mode.removesuffix("-once"))
            if number is not None:
                raise OSError(number, os.strerror(number))
        return None


def in_child(scenario: Scenario, directory: Path, nth: int, mode: str) -> tuple[int, list[str], int]:
    """Return a child's exit status, what it was assured of, and how many calls it made (when it lived to tell)."""
    heard, told = os.pipe()
    tell = os.write
    child = os.fork()
    if child == 0:
        code = 99
        with suppress(BaseException):
            disk = Disk(nth, mode)
            code = scenario.act(directory, lambda text: tell(told, f"{text}\n".encode()))
            tell(told, f"calls {disk.num_calls}\n".encode())
        os._exit(code)
    os.close(told)
    with os.fdopen(heard, encoding="utf-8") as pipe:
        lines = pipe.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = [int(line.split()[1]) for line in lines if line.startswith("calls ")]
    return status, [line for line in lines if not line.startswith("calls ")], calls[0] if calls else 0


def campaign(scenario: Scenario, place: Path, modes: tuple[str, ...], stride: int) -> dict[str, Any]:
    prepared = place / f"{scenario.name}-prepared"
    scenario.prepare(prepared)
    trial = place / f"{scenario.name}-trial"

    def tried(nth: int, mode: str) -> tuple[int, list[str], int]:
        shutil.rmtree(trial, ignore_errors=True)
        if prepared.exists():
            shutil.copytree(prepared, trial)
        return in_child(scenario, trial, nth, mode)

    status, assured, num_calls = tried(-1, "none")
    problems = [] if status == 0 else [f"without any fault it ended with {status}"]
    problems += [f"without any fault: {text}" for text in scenario.look(trial, assured)]
    outcomes: Counter[str] = Counter()
    for mode in modes:
        for nth in range(0, num_calls, stride):
            status, assured, _ = tried(nth, mode)
            where = f"{mode} at call {nth + 1} of {num_calls}"
            outcomes[f"{mode}: {status}"] += 1
            allowed = {"kill": (-9,), "half": (-9,), "short": (0,), "enospc-once": scenario.once, "eio-once": scenario.once}
            if status not in allowed.get(mode, (0, 5)):
                problems.append(f"{where}: it ended with {status}")
            problems += [
                f"{where}: {text} (ended with {status}, assured of {assured})" for text in scenario.look(trial, assured)
            ]
    return {"calls": num_calls, "cases": sum(outcomes.values()), "outcomes": outcomes, "problems": problems}


def main() -> None:
    """`crash_points.py PLACE [STRIDE] [SCENARIO ...]` prints what was found as JSON."""
    place, stride = Path(sys.argv[1]), int(sys.argv[2])
    place.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[3:] or list(SCENARIOS)
    print(json.dumps({name: campaign(SCENARIOS[name], place, MODES, stride) for name in wanted}))


if __name__ == "__main__":
    main()
