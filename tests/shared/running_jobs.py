"""How far a job that runs elsewhere has come, by its files and by the system's table of processes."""

import fcntl
import os
from pathlib import Path


def num_lines(path: Path) -> int:
    """Count the finished lines of a file that may not be there yet."""
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def steps_saved(directory: Path) -> int:
    """Count a run's records of steps flushed so far: at every save and every evaluation."""
    return num_lines(directory / "metrics.jsonl")


def is_free(directory: Path) -> bool:
    """Whether nobody holds the run's lock: killed processes may take a moment to die."""
    with (directory / ".lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _status(pid: int) -> list[str]:
    """Return what the system tells of a process: state, parent, ...; nothing when there is none."""
    try:
        return Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def state(pid: int) -> str:
    """Return the letter of a process's state: R, S, D, T (stopped), Z (dead, not waited for); `gone` without a process."""
    return (_status(pid) or ["gone"])[0]


def is_alive(pid: int) -> bool:
    """Whether a process has not ended."""
    return state(pid) not in ("Z", "X", "gone")


def living_children(pid: int) -> list[int]:
    """Return the living children of a process."""
    found = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return [child for child in found if _status(child)[1:2] == [str(pid)] and is_alive(child)]
