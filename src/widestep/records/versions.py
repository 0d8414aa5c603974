"""Which versions a process runs, and whether those of one job agree: mixed ones train to bytes that nobody can repeat."""

import socket
from collections.abc import Mapping, Sequence

from widestep.records.environment import environment

DECISIVE = ("widestep", "source", "torch", "numpy", "pillow", "simplejpeg")
"""What must be the same in all processes of a job; `source` stands for this package's own code."""

_SAID = (*DECISIVE, "safetensors", "python")


def versions() -> dict[str, str]:
    """Return the versions of this process by name, without importing any of the packages."""
    found = environment()
    return {name: str(found[name]) for name in _SAID}


def report() -> dict[str, object]:
    """Return what a process tells the others: its host and its versions."""
    return {"host": socket.gethostname(), "versions": versions()}


def differing(reports: Sequence[Mapping[str, Mapping[str, str]]], names: Sequence[str] = DECISIVE) -> str:
    """Say which versions differ between processes, and where; empty when none does.

    Parameters
    ----------
    reports
        Of every process in order, as `report` made them.

    Returns
    -------
    For example `torch is 2.13.0 on node1 (process 0, 1) and 2.10.0 on node2 (process 2)`.
    """
    said = []
    for name in names:
        places: dict[str, dict[str, list[int]]] = {}
        for process, one in enumerate(reports):
            places.setdefault(one["versions"].get(name, "unknown"), {}).setdefault(str(one["host"]), []).append(process)
        if len(places) > 1:
            said.append(f"{name} is " + " and ".join(f"{version} on {_hosts(hosts)}" for version, hosts in places.items()))
    return "; ".join(said)


def _hosts(hosts: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{host} (process {', '.join(map(str, processes))})" for host, processes in hosts.items())
