"""Files of a test directory as modules: programs that tests start, and what other directories' tests want of them."""

import importlib.util
from pathlib import Path
from types import ModuleType


def module_at(path: Path) -> ModuleType:
    """Execute a Python file and return it as a module that nothing else imports."""
    spec = importlib.util.spec_from_file_location(f"at_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
