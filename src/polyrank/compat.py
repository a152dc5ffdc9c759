"""Lets ``import fal`` in a user's file resolve to polyrank, in this process, when asked.

``install()`` puts a finder in front of the import system that answers for ``fal`` and its
submodules with polyrank's own module objects, so a class imported through either name is the same
class. Nothing is written anywhere, and an installed ``fal`` distribution is left alone: it is
only not seen while the finder is in place.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

ALIASES = {
    "fal": "polyrank",
    "fal.app": "polyrank.app",
    "fal.distributed": "polyrank.distributed",
    "fal.distributed.worker": "polyrank.distributed",
    "fal.exceptions": "polyrank.errors",
    "fal.toolkit": "polyrank.toolkit",
    "fal.toolkit.audio": "polyrank.toolkit.audio",
    "fal.toolkit.audio.audio": "polyrank.toolkit.audio",
    "fal.toolkit.constraints": "polyrank.toolkit.constraints",
    "fal.toolkit.exceptions": "polyrank.toolkit.exceptions",
    "fal.toolkit.file": "polyrank.toolkit.file",
    "fal.toolkit.file.file": "polyrank.toolkit.file",
    "fal.toolkit.file.types": "polyrank.toolkit.store",
    "fal.toolkit.image": "polyrank.toolkit.image",
    "fal.toolkit.image.image": "polyrank.toolkit.image",
    "fal.toolkit.pydantic": "polyrank.toolkit.basemodel",
    "fal.toolkit.types": "polyrank.toolkit.types",
    "fal.toolkit.video": "polyrank.toolkit.video",
    "fal.toolkit.video.video": "polyrank.toolkit.video",
}


def install() -> None:
    """From now on ``import fal`` gives polyrank in this process."""
    if not installed():
        _forget()
        sys.meta_path.insert(0, _FINDER)


def uninstall() -> None:
    """Undoes ``install``; modules that are already imported keep what they have."""
    if installed():
        sys.meta_path.remove(_FINDER)
        _forget()


def installed() -> bool:
    """Whether ``import fal`` gives polyrank here."""
    return _FINDER in sys.meta_path


def _forget() -> None:
    for name in [name for name in sys.modules if name == "fal" or name.startswith("fal.")]:
        del sys.modules[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the aliased names, and loads each as the polyrank module it stands for."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in ALIASES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if fullname.startswith("fal."):
            raise ModuleNotFoundError(
                f"polyrank has no counterpart of {fullname!r} yet; it has "
                f"{', '.join(sorted(ALIASES))}",
                name=fullname,
            )
        return None

    def exec_module(self, module: ModuleType) -> None:
        # The import system takes what stands in sys.modules when this returns.
        name = module.__name__
        target = importlib.import_module(ALIASES[name])
        if not hasattr(target, "__path__") and any(a.startswith(f"{name}.") for a in ALIASES):
            target.__path__ = []  # it is asked for before a name below is looked for here
        sys.modules[name] = target


_FINDER = _Finder()
