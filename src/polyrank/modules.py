"""Loads a user's file as a module, the same way in the app's process and in every rank."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from polyrank import compat
from polyrank.errors import AppError


def load_file(path: Path, name: str | None = None) -> ModuleType:
    """The module in the file at ``path``, with ``import fal`` resolving to polyrank.

    The file's folder goes onto ``sys.path``, so it can import its neighbours. The module is known
    as the file's stem, unless that name is taken; ranks are given the name that was chosen. A file
    in a package is imported as its module, so that relative imports work. Raises AppError naming
    the file and the line.
    """
    path = path.resolve()
    if not path.is_file():
        raise AppError(f"there is no file {path}")
    compat.install()
    name = name or _name_in_package(path) or _free_name(path)
    if "." in name:
        return _import(path, name)
    if loaded_from(name) == path:
        return sys.modules[name]
    _make_importable(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AppError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader_state = _Mark
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise AppError(f"{path} cannot be loaded: {_where(error, path)}") from error
    return module


def extend_path(folders: Iterable[str]) -> None:
    """Modules are found in these folders too, after all others."""
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)


def loaded_from(name: str) -> Path | None:
    """The file that ``load_file`` read the module from; None for any other module."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or spec.loader_state is not _Mark or spec.origin is None:
        return None
    return Path(spec.origin)


def _import(path: Path, name: str) -> ModuleType:
    """The module ``name`` of a package, which must be the file at ``path``."""
    levels = name.count(".") + (path.name == "__init__.py")
    _make_importable(path.parent)
    _make_importable(path.parents[levels])
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise AppError(f"{path} cannot be loaded: {_where(error, path)}") from error
    if Path(module.__file__ or "").resolve() != path:
        raise AppError(f"{path} cannot be loaded as {name}: that is {module.__file__}")
    return module


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _name_in_package(path: Path) -> str | None:
    """The dotted name of a file in a package; None for others."""
    top, names = path.parent, [] if path.name == "__init__.py" else [path.stem]
    while (top / "__init__.py").is_file():
        names.insert(0, top.name)
        top = top.parent
    if len(names) < 2 or not all(name.isidentifier() for name in names):
        return None
    known = getattr(sys.modules.get(names[0]), "__path__", [str(top / names[0])])
    taken = names[0] in sys.stdlib_module_names or str(top / names[0]) not in known
    return None if taken else ".".join(names)


class _Mark:
    """Marks the spec of a module that ``load_file`` loaded."""


def _free_name(path: Path) -> str:
    stem = path.stem
    taken = stem in sys.stdlib_module_names or not stem.isidentifier() or stem == "polyrank"
    if stem in sys.modules and loaded_from(stem) != path:
        taken = True
    return f"polyrank_user_{''.join(c if c.isalnum() else '_' for c in stem)}" if taken else stem


def _where(error: Exception, path: Path) -> str:
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"{reason} (line {error.lineno})"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return f"{reason} (line {lines[-1]})" if lines else reason
