"""Loads a user's file as a module, the same way in the app's process and in every rank."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from polyrank import compat
from polyrank.errors import AppError


def load_file(path: Path, name: str | None = None) -> ModuleType:
    """The module in the file at ``path``, with ``import fal`` resolving to polyrank.

    The file's folder goes onto ``sys.path``, so it can import its neighbours. The module is known
    as the file's stem, unless that name is taken; ranks are given the name that was chosen.
    Raises AppError naming the file and the line.
    """
    path = path.resolve()
    if not path.is_file():
        raise AppError(f"there is no file {path}")
    compat.install()
    name = name or _free_name(path)
    if loaded_from(name) == path:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
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


def loaded_from(name: str) -> Path | None:
    """The file that ``load_file`` read the module from; None for any other module."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or spec.loader_state is not _Mark or spec.origin is None:
        return None
    return Path(spec.origin)


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
