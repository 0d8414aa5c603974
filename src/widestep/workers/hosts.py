"""Where process 0 of a job is: the first host of a scheduler's list, and the address it is reached at; free of torch."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping

_ASKING_SECONDS = 20.0


def first_host(launcher: str, env: Mapping[str, str]) -> str:
    """Return the name of the host of process 0 as the scheduler knows it; empty when it does not say.

    Parameters
    ----------
    launcher
        Who started the processes: srun numbers them from the first node of the step, jsrun from the first compute host.
    """
    if launcher == "srun":
        return _first_of_slurm(env.get("SLURM_STEP_NODELIST", ""))
    if launcher == "jsrun":
        return _first_of_lsf(env.get("LSB_MCPU_HOSTS", ""))
    return ""


def _first_of_slurm(nodes: str) -> str:
    """Return the first name of a list such as `n[01-03,7],login1` or `rack[0-1]node[2-3]`."""
    named = re.match(r"(?:[^,\[\]]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", named[0]) if named else ""


def _first_of_lsf(hosts: str) -> str:
    """Return the first compute host of a list such as `batch2 1 a01n05 42 a01n06 42`.

    Where jobs are launched from a node of its own, that one comes first, with fewer slots than those that compute.
    """
    words = hosts.split()
    pairs = [(name, int(slots)) for name, slots in zip(words[::2], words[1::2], strict=False) if slots.isdecimal()]
    if len(pairs) > 1 and pairs[0][1] < pairs[1][1]:
        return pairs[1][0]
    return pairs[0][0] if pairs else ""


def reachable(address: str, launcher: str) -> str:
    """Return an address as the network knows it: SLURM's nodes may have names that are only SLURM's own."""
    if launcher != "srun":
        return address
    try:
        socket.getaddrinfo(address, None)
    except OSError:
        found = re.search(r"\bNodeAddr=(\S+)", _said(["scontrol", "show", "node", "--oneliner", "--", address]))
        return found[1] if found else address
    return address


def seconds_left(job: str) -> float | None:
    """Ask SLURM how many seconds a job has left; None when it has no end or nobody answers."""
    end = _said(["squeue", "--noheader", "--format=%e", f"--jobs={job}"], SLURM_TIME_FORMAT="%s").strip()
    return float(end) - time.time() if end.isdecimal() else None


def _said(command: list[str], **variables: str) -> str:
    env = {**os.environ, **variables}
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=_ASKING_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
