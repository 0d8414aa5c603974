"""Make the project's environment: a virtual environment with this package, editable, and what it needs.

Called by the Makefile with the Python of your choice (`make PYTHON=python3.12`). If that Python already has torch, a CUDA
build for example, the environment uses it through a path file and installs no other; otherwise torch comes at the version of
constraints.txt. Needs nothing but the standard library and pip.
"""

import argparse
import importlib.metadata
import importlib.util
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Create or complete the environment, and print which torch it has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--extra", default="", help="extra of pyproject.toml to install too, for example dev")
    given = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036 - this is where an older one is told
        sys.exit(f"widestep needs Python 3.11 or later. This is {sys.version.split()[0]}; run make with PYTHON=python3.12.")
    python = given.directory / "bin" / "python"
    if not python.exists():
        venv.create(given.directory, with_pip=True)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if importlib.util.find_spec("torch") is not None:
        share_packages(python)
        present = f"torch=={importlib.metadata.version('torch')}"
        lines = [present, *(line for line in lines if not line.startswith("torch=="))]
    constraints = given.directory / "constraints.txt"
    constraints.write_text("\n".join(lines) + "\n", encoding="utf-8")
    wanted = f"{ROOT}[{given.extra}]" if given.extra else str(ROOT)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, "--constraint", str(constraints), "--editable", wanted], check=True)
    report = "import torch; print('torch', torch.__version__, '- GPUs:', torch.cuda.device_count())"
    subprocess.run([str(python), "-c", report], check=True)


def share_packages(python: Path) -> None:
    """Let the environment see the packages of this Python, after its own."""
    here = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([str(python), "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    (Path(site) / "packages-of-the-parent.pth").write_text("\n".join(here) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
