"""Users' own models: found by `FILE.py:NAME` or `package.module:NAME`, loaded, called, their faults told in a sentence."""

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from widestep.errors import UsageError, WidestepError


class _FileLoader(importlib.machinery.SourceFileLoader):
    """Compiles the file as it is: cached bytecode can belong to another text of the same second and size."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


@dataclass(frozen=True)
class ModelSource:
    """Where a user's own model comes from.

    Parameters
    ----------
    name
        As the recipe has it.
    file
        The Python file that holds it.
    attribute
        The name of a class or function in it.
    module
        The name that the file is imported by; None when it is loaded from its path.
    """

    name: str
    file: Path
    attribute: str
    module: str | None

    @classmethod
    def find(cls, name: str) -> "ModelSource":
        """Find the file of `FILE.py:NAME`, relative to the current directory, or of `package.module:NAME`.

        Raises
        ------
        UsageError
            When there is no such file or module, or the name is of neither form.
        """
        place, _, attribute = name.rpartition(":")
        if not place or not attribute.isidentifier():
            raise UsageError(f"A model of your own reads FILE.py:NAME or package.module:NAME. Got {name!r}.")
        if place.endswith(".py"):
            file = Path(place).absolute()
            if not file.is_file():
                raise UsageError(f"The file of a model must exist, seen from {Path.cwd()}. There is no {place}.")
            return cls(name, file, attribute, None)
        if not all(part.isidentifier() for part in place.split(".")):
            raise UsageError(f"A model of your own reads FILE.py:NAME or package.module:NAME. Got {name!r}.")
        return cls(name, _file_of(name, place), attribute, place)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file and of the user's other files that it imports, 64 hexadecimal digits.

        Modules of installed packages do not count: their versions are part of the environment.
        """
        digest = hashlib.sha256(self._bytes())
        for file in sorted(_own_files(self.file, self._module()) - {self.file}):
            digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0" + file.read_bytes())
        return digest.hexdigest()

    def make(self, offered: Mapping[str, Any]) -> object:
        """Load the file and call its class or function.

        Parameters
        ----------
        offered
            Keyword arguments; those that the signature accepts are passed. What goes through `**kwargs` and is unknown
            where they arrive is left out.

        Raises
        ------
        UsageError
            When the file has no such name, another argument is required, or the user's code raises.
        """
        factory = self._factory()
        accepted = self._accepted(factory, offered)
        while True:
            try:
                return factory(**accepted)
            except (Exception, SystemExit) as error:
                unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
                if isinstance(error, TypeError) and unknown and unknown[1] in accepted:
                    del accepted[unknown[1]]
                    continue
                raise self.told(error, "be built") from error

    def told(self, error: BaseException, doing: str) -> WidestepError:
        """Return an error of the user's code as one sentence with file and line."""
        where = _where(error, self.file)
        if isinstance(error, UsageError):
            return UsageError(f"{error} (Called{where}.)" if where else str(error))
        if isinstance(error, WidestepError):
            return error
        message = " ".join(str(error).split())[:300]
        said = f"{type(error).__name__}: {message}" if message else type(error).__name__
        return UsageError(f"The model {self.name} must {doing} without an error; it raised {said}{where}.")

    def _factory(self) -> Callable[..., object]:
        module = self._module()
        factory: Callable[..., object] | None = getattr(module, self.attribute, None)
        if factory is None:
            nearest = get_close_matches(self.attribute, [name for name in vars(module) if not name.startswith("_")], n=1)
            advice = f" Perhaps you meant {nearest[0]}." if nearest else ""
            raise UsageError(f"{self.file} must define {self.attribute}, a class or function; it does not.{advice}")
        if not callable(factory) or (hasattr(factory, "named_parameters") and not isinstance(factory, type)):
            raise UsageError(
                f"{self.name} must be a class or function that returns a torch.nn.Module; it is an object of the type "
                f"{type(factory).__name__}."
            )
        return factory

    def _accepted(self, factory: Callable[..., object], offered: Mapping[str, Any]) -> dict[str, Any]:
        try:
            parameters = inspect.signature(factory).parameters.values()
        except (TypeError, ValueError):
            raise UsageError(f"{self.name} must be a class or function with a readable signature.") from None
        named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        for p in parameters:
            passed = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or (p.name in named and p.name in offered)
            if p.default is p.empty and not passed:
                raise UsageError(
                    f"{self.name} is called with {' and '.join(offered)} as keywords, so its other arguments need defaults. "
                    f"{p.name} has none."
                )
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        return {name: value for name, value in offered.items() if takes_all or name in named}

    def _module(self) -> ModuleType:
        try:
            if self.module is not None:
                return importlib.import_module(self.module)
            return self._loaded()
        except WidestepError:
            raise
        except (Exception, SystemExit) as error:
            raise self.told(error, "load") from error

    def _loaded(self) -> ModuleType:
        """Load the file under a name made from its path and contents, once."""
        digest = hashlib.sha256(str(self.file).encode("utf-8", "surrogateescape") + b"\0" + self._bytes()).hexdigest()
        name = f"widestep_model_{digest}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, self.file, loader=_FileLoader(name, str(self.file)))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # what the file defines may look up its own module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    def _bytes(self) -> bytes:
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise UsageError(f"The file of a model must be readable. {self.file}: {error.strerror}.") from error


def _file_of(name: str, module: str) -> Path:
    spec = None
    try:
        spec = importlib.util.find_spec(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module}.".startswith(f"{missing}."):
            raise ModelSource(name, Path(), "", module).told(error, "load") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UsageError(
            f"{module} must be an importable Python module. None was found; install it, name its folder in PYTHONPATH, or "
            "give the file as FILE.py:NAME."
        )
    return Path(spec.origin).absolute()


def _own_files(file: Path, module: ModuleType) -> set[Path]:
    """Return the user's files that a loaded file imports, directly or through one another; packages' do not count."""
    installed = tuple(sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    found: set[Path] = set()
    waiting = [(file, module.__name__ if hasattr(module, "__path__") else module.__package__ or "")]
    while waiting:
        for name in _imports(*waiting.pop()):
            imported = sys.modules.get(name)
            origin = getattr(imported, "__file__", None)
            if imported is None or not isinstance(origin, str) or not origin.endswith(".py"):
                continue
            path = Path(origin).absolute()
            is_package = "site-packages" in path.parts or "dist-packages" in path.parts
            if not is_package and not origin.startswith((*installed, *_folders("widestep", "torch"))) and path not in found:
                found.add(path)
                waiting.append((path, name if hasattr(imported, "__path__") else imported.__package__ or ""))
    return found


def _imports(file: Path, package: str) -> Iterator[str]:
    """Yield the names of all modules that the import statements of a file may mean, packages before what is in them."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        base: list[str] = []
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")
            base = [*(above[: len(above) - node.level + 1] if node.level else []), *(node.module or "").split(".")]
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                parts = [part for part in (*base, *alias.name.split(".")) if part]
                yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _where(error: BaseException, file: Path) -> str:
    """Return where an error comes from: the innermost line of the user's file, or at least not of torch or of ours.

    Returns
    -------
    " at line 3 of FILE", or nothing when no such line took part, as in a backward pass.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" at line {error.lineno} of {error.filename}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(file)]
    foreign = [frame for frame in frames if not frame.filename.startswith((*_folders("widestep", "torch"), "<"))]
    return "".join(f" at line {frame.lineno} of {frame.filename}" for frame in (own or foreign)[-1:])


def _folders(*packages: str) -> list[str]:
    held = [sys.modules[name].__file__ for name in packages if name in sys.modules]
    return [f"{Path(file).parent}{os.sep}" for file in held if file]


def is_our_bug(error: BaseException) -> bool:
    """Whether an error is an assertion of our own code that does not hold, and no fault of the user's."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, AssertionError) and innermost.filename.startswith(tuple(_folders("widestep")))
