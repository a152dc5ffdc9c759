"""Lets ``import fal`` and ``import fal_client`` in a user's file resolve to polyrank, when asked.

``install()`` puts a finder in front of the import system that answers for ``fal`` and its
submodules. Each is a facade: a module of that name whose attributes are those of the polyrank
module it stands for, so a class imported through either name is the same class. Nothing is written
anywhere, and an installed ``fal`` distribution is left alone: it is only not seen while the finder
is in place. An installed ``fal_client`` is used, and told which server to call.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from polyrank.settings import ClientSettings

ALIASES = {
    "fal": "polyrank",
    "fal.app": "polyrank",
    "fal.container": "polyrank.app.container",
    "fal.distributed": "polyrank.distributed",
    "fal.distributed.worker": "polyrank.distributed",
    "fal.exceptions": "polyrank.exceptions",
    "fal.sdk": "polyrank.app",
    "fal.toolkit": "polyrank.toolkit",
    "fal.toolkit.audio": "polyrank.toolkit.audio",
    "fal.toolkit.audio.audio": "polyrank.toolkit.audio",
    "fal.toolkit.compilation": "polyrank.toolkit.compilation",
    "fal.toolkit.constraints": "polyrank.toolkit.constraints",
    "fal.toolkit.exceptions": "polyrank.toolkit.exceptions",
    "fal.toolkit.file": "polyrank.toolkit.file",
    "fal.toolkit.file.file": "polyrank.toolkit.file",
    "fal.toolkit.file.types": "polyrank.toolkit.store",
    "fal.toolkit.image": "polyrank.toolkit.image",
    "fal.toolkit.image.image": "polyrank.toolkit.image",
    "fal.toolkit.kv": "polyrank.toolkit.kv",
    "fal.toolkit.pydantic": "polyrank.toolkit.basemodel",
    "fal.toolkit.types": "polyrank.toolkit.types",
    "fal.toolkit.utils": "polyrank.toolkit",
    "fal.toolkit.utils.download_utils": "polyrank.toolkit",
    "fal.toolkit.utils.endpoint": "polyrank.app.disconnect",
    "fal.toolkit.video": "polyrank.toolkit.video",
    "fal.toolkit.video.video": "polyrank.toolkit.video",
    "fal_client": "polyrank.client",
    "fal_client.client": "polyrank.client",
}

# What has another name in polyrank.
RENAMED = {
    "FalClientError": "ClientError",
    "FalClientHTTPError": "ClientHTTPError",
    "FalClientTimeoutError": "ClientTimeoutError",
}

# The constants of ``fal_client.client`` that say where things are, below a server's address.
PLACES = {
    "RUN_URL_FORMAT": "/run/",
    "QUEUE_URL_FORMAT": "/queue/",
    "REALTIME_URL_FORMAT": "/run/",
    "REST_URL": "",
    "CDN_URL": "",
}

# What is too small for a module of its own.
ADDED = {"fal.cached": functools.cache}

_HOSTS = "polyrank has no hosts to choose from: `polyrank run` serves the app on this machine"
_FUNCTIONS = "polyrank serves apps, not single functions: make it an endpoint of an App"
_ACCOUNT = "there is no account to sign in to"

# What the reference platform's SDK has under these names and polyrank has not, and why.
REFUSED = {
    "fal.api": _HOSTS,
    "fal.app.AppClient": "call the app in a test with polyrank.app.testing.serve",
    "fal.apps": "polyrank.client calls apps: submit, subscribe, stream",
    "fal.auth": _ACCOUNT,
    "fal.cloud": _HOSTS,
    "fal.config": _ACCOUNT,
    "fal.FalServerlessHost": _HOSTS,
    "fal.FalServerlessKeyCredentials": _ACCOUNT,
    "fal.files": "`polyrank files` looks after the data folder",
    "fal.function": _FUNCTIONS,
    "fal.isolated": _FUNCTIONS,
    "fal.local": _HOSTS,
    "fal.LocalHost": _HOSTS,
    "fal.logging": "use the logging of the standard library; lines get the request's id",
    "fal.sdk.FalServerlessClient": _HOSTS,
    "fal.serverless": _HOSTS,
    "fal.sync": "`polyrank files upload` does it",
    "fal.sync_dir": "`polyrank files upload` does it",
    "fal.toolkit.image.nsfw_filter": "there is no safety checker here",
    "fal.toolkit.image.safety_checker": "there is no safety checker here",
    "fal.toolkit.utils.patch_onnx_runtime": "install onnxruntime-gpu instead",
    "fal.toolkit.utils.setup_utils": "install onnxruntime-gpu instead",
    "fal.upload": "`polyrank files upload` does it",
    "fal.version_tuple": "fal.__version__ is polyrank's",
    "fal.workflows": "workflows are not there yet",
}


class NotHere(ImportError):
    """A name of the reference platform that polyrank does not have; the message says why."""


def install() -> None:
    """From now on ``import fal`` gives polyrank in this process, and ``import fal_client`` a client
    of our server: polyrank's own where none is installed."""
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
    for name, module in list(sys.modules.items()):
        root = name.partition(".")[0]
        if root == "fal" or (root == "fal_client" and isinstance(module, Facade)):
            del sys.modules[name]


class Facade(ModuleType):
    """A module that has the attributes of another, and says why others are not there."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"{ALIASES[name]}, under the name that app files import.")
        self.__target = importlib.import_module(ALIASES[name])

    def __getattr__(self, name: str) -> Any:
        full = f"{self.__name__}.{name}"
        if full in REFUSED:
            raise NotHere(f"polyrank has no {full}: {REFUSED[full]}", name=full)
        if full in ADDED:
            return ADDED[full]
        if full in ALIASES:
            return importlib.import_module(full)
        return getattr(self.__target, RENAMED.get(name, name))

    def __reduce__(self) -> tuple[Any, ...]:
        # As modules are sent: a class that goes to the ranks by value may refer to ``fal``.
        return importlib.import_module, (self.__name__,)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.__target)})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the aliased names, and loads each as a facade."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.startswith("fal_client") and (real := _installed(fullname, path, target)):
            if fullname == "fal_client.client" and real.loader is not None:
                real.loader = _Pointing(real.loader)
            return real
        if fullname in ALIASES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if fullname in REFUSED:
            raise NotHere(f"polyrank has no {fullname}: {REFUSED[fullname]}", name=fullname)
        if fullname.startswith("fal."):
            # Another ``name`` than the one that is looked for would pass for a bug of ours;
            # its own would be swallowed in ``from fal import …``, and with it the reason.
            raise ModuleNotFoundError(
                f"polyrank has no counterpart of {fullname!r}; docs/compat.md says what there is",
                name="fal",
            )
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Facade(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: a facade is whole when it is made."""


class _Pointing(importlib.abc.Loader):
    """Loads an installed ``fal_client.client`` and tells it which server to call, if one is set."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        settings = ClientSettings()
        if "server" not in settings.model_fields_set:
            return
        for name, place in PLACES.items():
            url = settings.server.rstrip("/") + place
            if name == "REALTIME_URL_FORMAT":
                url = "ws" + url.removeprefix("http")
            setattr(module, name, url)


def _installed(
    name: str, path: Sequence[str] | None, target: ModuleType | None
) -> importlib.machinery.ModuleSpec | None:
    """Where the module would come from without us."""
    for finder in sys.meta_path:
        if finder is not _FINDER and (spec := finder.find_spec(name, path, target)) is not None:
            return spec
    return None


_FINDER = _Finder()
