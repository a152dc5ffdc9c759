"""The server's web pages, and the list of apps that they begin with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyrank import web
from polyrank.gateway.callers import BadKey, Caller, caller_of
from polyrank.gateway.gate import NEEDS_KEY
from polyrank.gateway.hosting import HostedApp
from polyrank.gateway.registry import Registry

# These need no key: they hold nothing, and ask for one. The list looks after itself.
OPEN_PATHS = ("/", "/playground/*", "/dashboard", "/dashboard/*", "/static/*", "/apps")

# Scripts and styles are files of ours and nothing else; pictures and sounds are the apps' results,
# which may be kept anywhere.
POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data: blob: http: https:",
        "media-src 'self' data: blob: http: https:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # Asked for each time and answered with 304: a new version of polyrank is seen at once.
    "cache-control": "no-cache",
}


class Pages:
    """The handlers of the pages' routes. ``lets_in`` tells whether a caller may call an app."""

    def __init__(
        self,
        apps: Registry,
        lets_in: Callable[[Caller, str], Awaitable[bool]],
        *,
        has_dashboard: bool = False,
    ) -> None:
        self._apps = apps
        self._lets_in = lets_in
        self._has_dashboard = has_dashboard

    def routes(self) -> list[BaseRoute]:
        """``/``, ``/playground/owner/app``, the files that they use, and ``/apps``."""
        static = StaticFiles(directory=web.FOLDER / "static")
        return [
            Route("/", page("index.html")),
            Route("/playground/{app:path}", page("playground.html")),
            Mount("/static", _Guarded(static)),
            Route("/apps", self.list_apps),
        ]

    async def list_apps(self, request: Request) -> Response:
        """The apps that the caller may call: their state (``ready``, ``failed`` or what the start
        is at) and, once they have been ready, their endpoints. ``dashboard`` is the path of the
        page that shows them to this caller, if one does."""
        await self._apps.complete()
        caller = caller_of(request)
        apps = [each.app for each in self._apps if await self._lets_in(caller, each.app.name)]
        if not apps and not caller.scopes:
            raise BadKey(NEEDS_KEY)
        dashboard = "/dashboard" if self._has_dashboard and caller.is_admin else None
        return JSONResponse({"apps": [_describe(app) for app in apps], "dashboard": dashboard})


class _Guarded:
    """Adds the pages' headers to the answers of another application."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._inner(scope, receive, send_guarded)


def page(name: str) -> Callable[[Request], Response]:
    """The handler of the route of a page."""

    def serve(_: Request) -> Response:
        return FileResponse(web.FOLDER / name, media_type="text/html", headers=HEADERS)

    return serve


def _describe(app: HostedApp) -> dict[str, Any]:
    endpoints = [{"path": r["path"], "is_websocket": r["websocket"]} for r in app.routes]
    return {"name": app.name, "state": app.state, "endpoints": endpoints}
