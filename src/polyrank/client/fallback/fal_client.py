"""``import fal_client`` in a program that ``polyrank exec`` runs.

An installed one is used, as if this file were not there; polyrank's client stands in where none is.
"""

import importlib.machinery
import importlib.util
import os
import sys


def _load() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec(__name__)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules[__name__] = module
        spec.loader.exec_module(module)
        return
    try:
        from polyrank.compat import Facade
    except ImportError:
        raise ModuleNotFoundError(
            "neither fal_client nor polyrank is installed for this Python", name=__name__
        ) from None
    for name in (__name__, f"{__name__}.client"):
        sys.modules[name] = Facade(name)


_load()
