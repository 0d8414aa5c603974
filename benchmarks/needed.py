"""What this Python has of the packages that widestep, its tests and its peers need: `python -m benchmarks.needed PART`.

Ends with 1 when PART (`train`, `test`) cannot run here; needs nothing but the standard library.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

TRAIN = {"torch": "torch", "numpy": "numpy", "pydantic": "pydantic", "safetensors": "safetensors", "pillow": "PIL"}
TRAIN |= {"simplejpeg": "simplejpeg"}
TEST = {
    **TRAIN,
    "cyclopts": "cyclopts",
    "rich": "rich",
    "pytest": "pytest",
    "pytest-timeout": "pytest_timeout",
    "hypothesis": "hypothesis",
}
REST = {"scipy": "scipy", "matplotlib": "matplotlib", "jinja2": "jinja2", "pyarrow": "pyarrow"}
PEERS = {"torchvision": "torchvision", "timm": "timm"}
PARTS = {"train": TRAIN, "test": TEST}


def main() -> None:
    """Say what is there and what is missing."""
    part = sys.argv[1]
    print(f"python {sys.version.split()[0]}; " + "; ".join(f"{name} {_held(name)}" for name in {**TEST, **REST, **PEERS}))
    missing = [name for name, module in PARTS[part].items() if find_spec(module) is None]
    if missing:
        sys.exit(f"to {part}, install: {' '.join(missing)} (see the beginning of benchmarks/gpu.sh: WHEELS)")


def _held(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "MISSING"


if __name__ == "__main__":
    main()
