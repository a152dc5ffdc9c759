"""Loads a user's file as a module."""

from pathlib import Path
from types import ModuleType


def loaded_from(name: str) -> Path | None:
    """The file that ``load_file`` read the module from."""
    return None


def load_file(path: Path, name: str | None = None) -> ModuleType:
    """Loads the file."""
    raise NotImplementedError
