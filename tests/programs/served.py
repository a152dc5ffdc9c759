"""Servers inside a test: real sockets on this machine, no processes."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from queue_app import QueueApp

from polyrank import reports
from polyrank.app.server import build as build_app
from polyrank.gateway.belongings import Belongings
from polyrank.gateway.server import Server, build
from polyrank.serving import base_url, listen, serving
from polyrank.settings import ServerSettings

APP = "local/queue-app"


@contextlib.asynccontextmanager
async def served(asgi: Any) -> AsyncIterator[str]:
    """The address at which an ASGI application is served."""
    listening = listen("127.0.0.1", 0)
    async with serving(asgi, listening, grace_s=1):
        yield base_url(listening)


@contextlib.asynccontextmanager
async def platform(
    database: Path | str,
    *,
    auth: str | None = None,
    settings: dict[str, Any] | None = None,
    keeps_belongings: bool = False,
    **options: Any,
) -> AsyncIterator[tuple[Server, str]]:
    """A server in front of the app of ``queue_app``, and its address. With ``keeps_belongings`` it
    has secrets, environments and a data folder."""
    url = database if isinstance(database, str) else f"sqlite:///{database}"
    async with contextlib.AsyncExitStack() as stack:
        files = stack.enter_context(tempfile.TemporaryDirectory(prefix="polyrank-files-"))
        address = await stack.enter_async_context(served(build_app(QueueApp())))
        chosen = ServerSettings(**settings or {})
        server = Server(url, files, chosen, **options)
        belongings = Belongings(server.database, chosen).routes() if keeps_belongings else ()
        app = server.host(APP, reports.Limits(multiplexing=4, auth=auth))
        parts = urlsplit(address)
        app.is_ready("only", reports.Ready(parts.hostname or "", parts.port or 0, []))
        yield server, await stack.enter_async_context(served(build(server, belongings)))
