"""The environment a run took place in: what besides the recipe can change a bit, and what explains its speed."""

import os
import platform
import socket
from importlib import metadata
from typing import Any

import widestep

_PACKAGES = ("torch", "numpy", "pillow", "simplejpeg", "safetensors")


def environment() -> dict[str, Any]:
    """Return versions and processor of this machine, without importing any of the packages.

    Only the names listed here are recorded: environment variables can hold secrets.
    """
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "widestep": widestep.__version__,
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "host": socket.gethostname(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
