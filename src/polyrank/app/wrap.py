"""Serving an app from its own file, without the command line."""

from __future__ import annotations

from typing import Any, Protocol

from polyrank import logs
from polyrank.app.app import App
from polyrank.app.process import serve
from polyrank.errors import AppError


class Serve(Protocol):
    """Serves an app until it is told to end."""

    def __call__(self, *, host: str = ..., port: int = ...) -> None: ...  # noqa: D102


def wrap_app(cls: type[App], **_: Any) -> Serve:
    """A callable that serves the app in this process until it is told to end.

    For files that end in ``if __name__ == "__main__": wrap_app(MyApp)()``. Keywords that other
    platforms take are accepted and ignored.
    """
    if not (isinstance(cls, type) and issubclass(cls, App)):
        raise AppError(f"wrap_app takes an App class, not {cls!r}")

    def serve_app(*, host: str = "127.0.0.1", port: int = 8080) -> None:
        logs.configure(verbose=False)
        grace = cls.options.termination_grace_period_seconds
        serve(cls(), host=host, port=port, **({} if grace is None else {"grace_s": grace}))

    return serve_app
