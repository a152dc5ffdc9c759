"""Serving an app from its own file, without the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polyrank.app.app import App
from polyrank.app.server import serve
from polyrank.errors import AppError


def wrap_app(cls: type[App], **_: Any) -> Callable[[], None]:
    """A callable that serves the app in this process until it is told to end.

    For files that end in ``if __name__ == "__main__": wrap_app(MyApp)()``. Keywords that other
    platforms take are accepted and ignored.
    """
    if not (isinstance(cls, type) and issubclass(cls, App)):
        raise AppError(f"wrap_app takes an App class, not {cls!r}")
    return lambda: serve(cls(), host="127.0.0.1", port=8080)
