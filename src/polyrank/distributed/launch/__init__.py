"""Where rank processes are started."""

from __future__ import annotations

import importlib

from polyrank.distributed.launch.base import Launcher
from polyrank.distributed.launch.preload import Preload
from polyrank.errors import SetupFailed

LAUNCHERS = {
    "local": "polyrank.distributed.launch.local:LocalLauncher",
    "ray": "polyrank.distributed.launch.ray:RayLauncher",
}


def make_launcher(name: str, preload: Preload) -> Launcher:
    """The launcher of that name, for ranks that all import ``preload``.

    Raises SetupFailed where what it needs is not installed.
    """
    module, _, cls = LAUNCHERS[name].partition(":")
    try:
        launcher: Launcher = getattr(importlib.import_module(module), cls)(preload)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise SetupFailed(
            f"launcher={name!r} needs what is not installed: pip install 'polyrank[{name}]'"
        ) from error
    return launcher
