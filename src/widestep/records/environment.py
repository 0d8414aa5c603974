"""The environment a run took place in: what besides the recipe can change a bit, and what explains its speed."""

import hashlib
import os
import platform
import re
import socket
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import widestep
from widestep.errors import EnvironmentFault

LEAST_TORCH = (2, 10)
"""The first release whose safe loader has no known hole."""

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
        "source": source_digest(),
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "host": socket.gethostname(),
    }


@cache
def source_digest() -> str:
    """Return a digest of this package's Python files: a checkout changes without a new version."""
    root = Path(widestep.__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def require_torch() -> None:
    """Refuse to compute where torch is absent or too old, without importing it.

    Raises
    ------
    EnvironmentFault
        Names the version that is there and the one that is needed.
    """
    wanted = f"{LEAST_TORCH[0]}.{LEAST_TORCH[1]}"
    try:
        found = metadata.version("torch")
    except metadata.PackageNotFoundError:
        raise EnvironmentFault(
            f"Training needs torch {wanted} or later. It is not installed; run pip install 'torch>={wanted}'."
        ) from None
    match = re.match(r"(\d+)\.(\d+)", found)
    if match is None or (int(match[1]), int(match[2])) < LEAST_TORCH:
        raise EnvironmentFault(
            f"widestep {widestep.__version__} needs torch {wanted} or later. This is {found}; run pip install "
            f"'torch>={wanted}'."
        )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
