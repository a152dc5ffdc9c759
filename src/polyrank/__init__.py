"""polyrank: one model over many GPUs, served by anyone on their own machines."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.app import App, HealthCheck, RequestContext, RetryConfig, endpoint, realtime
    from polyrank.app.container import ContainerImage
    from polyrank.app.wrap import wrap_app
    from polyrank.errors import AppException, FieldException, PolyrankError

__version__ = "0.1.0"

# Loaded when first used, so that `import polyrank` and `polyrank --help` stay quick.
_PUBLIC = {
    "App": "polyrank.app",
    "AppException": "polyrank.errors",
    "ContainerImage": "polyrank.app.container",
    "FieldException": "polyrank.errors",
    "HealthCheck": "polyrank.app",
    "PolyrankError": "polyrank.errors",
    "RequestContext": "polyrank.app",
    "RetryConfig": "polyrank.app",
    "endpoint": "polyrank.app",
    "realtime": "polyrank.app",
    "wrap_app": "polyrank.app.wrap",
}

__all__ = [
    "App",
    "AppException",
    "ContainerImage",
    "FieldException",
    "HealthCheck",
    "PolyrankError",
    "RequestContext",
    "RetryConfig",
    "endpoint",
    "realtime",
    "wrap_app",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
