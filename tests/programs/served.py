"""Servers inside a test: real sockets on this machine, no processes."""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from queue_app import QueueApp

from polyrank import reports
from polyrank.app.server import build as build_app
from polyrank.gateway.server import Server, build
from polyrank.settings import ServerSettings

APP = "local/queue-app"


class _Served(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield  # they are pytest's


@contextlib.asynccontextmanager
async def served(asgi: Any) -> AsyncIterator[str]:
    """The address at which an ASGI application is served."""
    server = _Served(uvicorn.Config(asgi, port=0, log_level="warning"))
    task = asyncio.create_task(server.serve())
    up = asyncio.create_task(server.is_up.wait())
    await asyncio.wait({task, up}, return_when=asyncio.FIRST_COMPLETED)
    up.cancel()
    if task.done():
        task.result()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def platform(
    database: Path | str,
    *,
    auth: str | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Server, str]]:
    """A server in front of the app of ``queue_app``, and its address."""
    url = database if isinstance(database, str) else f"sqlite:///{database}"
    async with contextlib.AsyncExitStack() as stack:
        files = stack.enter_context(tempfile.TemporaryDirectory(prefix="polyrank-files-"))
        address = await stack.enter_async_context(served(build_app(QueueApp())))
        server = Server(url, files, ServerSettings(**settings or {}), **options)
        app = server.host(APP, reports.Limits(multiplexing=4, auth=auth))
        parts = urlsplit(address)
        app.is_ready(reports.Ready(parts.hostname or "", parts.port or 0, []))
        yield server, await stack.enter_async_context(served(build(server)))
