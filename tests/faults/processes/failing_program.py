"""`widestep` with faults: python failing_program.py FAULTS ARGUMENTS, where FAULTS is a list of faults as JSON.

A fault happens to one process (or, with a negative number, to all) when it has taken so many steps, or at the moment when it
begins with something else: `{"process": 1, "step": 7, "how": "kill"}`, `{"process": 0, "phase": "saving", "how": "raise"}`.
It happens in the first attempt alone, unless it says otherwise.
"""

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

from widestep.__main__ import main
from widestep.cli import train as command
from widestep.workers.pulse import Pulse

FAULTS: list[dict[str, Any]] = json.loads(sys.argv[1])
HERE: dict[str, int] = {"process": -2, "attempt": 0}
_be_one = command._take_part
_beat = Pulse.beat


def take_part(wanted: Any, as_json: bool, launch: Any, pulse: Any, **options: Any) -> int:
    HERE.update(process=launch.process, attempt=launch.attempt)
    return _be_one(wanted, as_json, launch, pulse, **options)


def beat(pulse: Pulse, phase: Any, step: int | None = None) -> None:
    _beat(pulse, phase, step)
    for fault in FAULTS:
        if _is_due(fault, pulse, phase):
            fault["done"] = True
            _HOW[fault["how"]](fault)


def _is_due(fault: dict[str, Any], pulse: Pulse, phase: str) -> bool:
    if fault["process"] not in (HERE["process"], -1) or HERE["attempt"] >= fault.get("attempts", 1):
        return False
    if fault.get("phase", phase) != phase or pulse.step < fault.get("step", 0):
        return False
    return not fault.get("done") or fault["how"] in ("slow", "flip")


def _flip(fault: dict[str, Any]) -> None:
    """Change the lowest bit of one number of a tensor, from then on unless it is set again."""
    if fault.get("flipped"):
        return
    from widestep.train import loop

    for frame in _frames():
        found = frame.f_locals.get("self")
        if isinstance(found, loop._Loop) and found.live:
            state = found.live[0].state
            tensor = state.replicated()[fault["tensor"]]
            flat = tensor.detach().view(-1)
            bits = flat[fault.get("place", 0) :][:1].view(__import__("torch").int32)
            bits ^= 1 << fault.get("bit", 0)
            fault["flipped"] = True
            return


def _frames() -> Any:
    frame: Any = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _hold_the_lock(fault: dict[str, Any]) -> None:
    """Sleep without letting any other thread of Python run."""
    while True:
        ctypes.PyDLL(None).sleep(1000)


def _eat(fault: dict[str, Any]) -> None:
    """Ask for more memory than there is, and touch all of it."""
    held = []
    while True:
        held.append(b"x" * (32 << 20))


def _fail(fault: dict[str, Any]) -> None:
    raise RuntimeError("this was made to fail")


_HOW: dict[str, Any] = {
    "kill": lambda fault: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda fault: os.kill(os.getpid(), signal.SIGSEGV),
    "stop": lambda fault: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda fault: time.sleep(1000),
    "hold the lock": _hold_the_lock,
    "exit 0": lambda fault: os._exit(0),
    "exit 1": lambda fault: os._exit(1),
    "raise": _fail,
    "eat memory": _eat,
    "slow": lambda fault: time.sleep(fault["seconds"]),
    "flip": _flip,
    "signal": lambda fault: os.kill(os.getpid(), fault["number"]),
    "signal the launcher": lambda fault: os.kill(os.getppid(), fault["number"]),
}

if __name__ == "__main__":
    command._take_part = take_part
    Pulse.beat = beat  # type: ignore[method-assign]
    sys.argv[1:] = sys.argv[2:]
    main()
