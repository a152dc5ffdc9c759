"""The server's web pages, and the list of apps that they begin with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyrank import web
from polyrank.errors import ReplicaUnreachable
from polyrank.gateway.upstream import Replica

# How long the list of apps waits for a replica to say what it serves.
DESCRIBE_S = 2.0

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
    """The handlers of the pages' routes. ``replicas`` are the running apps by name."""

    def __init__(self, replicas: Mapping[str, Replica]) -> None:
        self._replicas = replicas

    def routes(self) -> list[BaseRoute]:
        """``/``, ``/playground/owner/app``, the files that they use, and ``/apps``."""
        static = StaticFiles(directory=web.FOLDER / "static")
        return [
            Route("/", _page("index.html")),
            Route("/playground/{app:path}", _page("playground.html")),
            Mount("/static", _Guarded(static)),
            Route("/apps", self.list_apps),
        ]

    async def list_apps(self, _: Request) -> Response:
        """The apps with their state and, of those that are ready, their endpoints."""
        described = (_describe(name, replica) for name, replica in self._replicas.items())
        return JSONResponse({"apps": await asyncio.gather(*described)})


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


def _page(name: str) -> Callable[[Request], Response]:
    def serve(_: Request) -> Response:
        return FileResponse(web.FOLDER / name, media_type="text/html", headers=HEADERS)

    return serve


async def _describe(name: str, replica: Replica) -> dict[str, Any]:
    described: dict[str, Any] = {"name": name, "state": "starting", "endpoints": []}
    if not replica.is_ready:
        return described
    try:
        async with (
            asyncio.timeout(DESCRIBE_S),
            replica.call("GET", "/openapi.json", {}, b"") as answer,
        ):
            schema = json.loads(await answer.body())
    except (ReplicaUnreachable, TimeoutError):
        return described
    return {**described, "state": "ready", "endpoints": _endpoints(schema)}


def _endpoints(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Path and summary of each, in the app's order."""
    paths = schema.get("paths", {})
    return [
        {"path": path, "summary": operation.get("summary", "")}
        for path in schema.get("x-fal-order-paths", paths)
        for operation in list(paths.get(path, {}).values())[:1]
    ]
