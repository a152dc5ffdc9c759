"""What makes a diffusers pipeline fast, and shows its pictures while they are made.

Names are imported when they are first used: all but ``load`` import diffusers, which takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.diffusion.loading import load
    from polyrank.diffusion.optimized import Optimized, optimize
    from polyrank.diffusion.parallel import parallelize, separate
    from polyrank.diffusion.previewer import Previewer

__all__ = ["Optimized", "Previewer", "load", "optimize", "parallelize", "separate"]

_HOMES = {
    "Optimized": "optimized",
    "Previewer": "previewer",
    "load": "loading",
    "optimize": "optimized",
    "parallelize": "parallel",
    "separate": "parallel",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
