"""What a process and those it started have used: processor time and memory, as Linux counts them."""

import os
import resource
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM, _ENDED_USER, _ENDED_SYSTEM = 11, 12, 13, 14  # fields of /proc/PID/stat after the name, from 0
_PARENT = 1


def cpu_seconds() -> float:
    """Return processor seconds of this process, of those it started and of theirs, whether they have ended or not."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    fields = (_USER, _SYSTEM, _ENDED_USER, _ENDED_SYSTEM)
    return used + sum(sum(int(stat[field]) for field in fields) for stat in _started().values()) / _TICKS


def peak_mb(device: str) -> dict[str, float]:
    """Return the largest memory so far in 10**6 bytes: `process` and `children` (all that live, added up), or `device`."""
    if device == "cuda":
        import torch

        return {"device": torch.cuda.max_memory_allocated() / 1e6}
    return {"process": _highest(os.getpid()) / 1e6, "children": sum(map(_highest, _started())) / 1e6}


def _started() -> dict[int, list[str]]:
    """Return the living descendants of this process, each with its fields of /proc/PID/stat after the name."""
    found: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        found[int(path.parent.name)] = text.rpartition(")")[2].split()
    family, grown = {os.getpid()}, 0
    while grown < len(family):
        grown = len(family)
        family |= {process for process, stat in found.items() if int(stat[_PARENT]) in family}
    return {process: found[process] for process in family if process in found and process != os.getpid()}


def _highest(process: int) -> int:
    """Return the largest resident memory of a process in bytes; 0 when it has ended.

    What getrusage calls its maximum includes that of the program which started it.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
