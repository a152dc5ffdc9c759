"""The server: apps behind their addresses, queued requests in the store, one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from polyrank.errors import PolyrankError
from polyrank.gateway.addresses import find_target
from polyrank.gateway.answers import error_answer
from polyrank.gateway.dispatcher import Dispatcher
from polyrank.gateway.notices import Notices
from polyrank.gateway.pages import Pages
from polyrank.gateway.queue import Queue
from polyrank.gateway.run import RunFace
from polyrank.gateway.upstream import Replica
from polyrank.store.database import Database
from polyrank.store.migrations import upgrade
from polyrank.store.requests import Requests


class Server:
    """The parts of one server, started and ended together.

    ``replicas`` are the running apps by name (``local/hello``).
    """

    def __init__(self, database_url: str, replicas: Mapping[str, Replica]) -> None:
        self.database = Database(database_url)
        upgrade(self.database)
        self.requests = Requests(self.database)
        self.notices = Notices()
        self.replicas = dict(replicas)
        owner = uuid.uuid4().hex
        self.dispatchers = {
            name: Dispatcher(self.requests, replica, self.notices, owner=owner)
            for name, replica in self.replicas.items()
        }

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Dispatches inside the block, and lets go of everything at its end."""
        for replica in self.replicas.values():
            await replica.open()
        await self.requests.recover()
        tasks = [asyncio.create_task(d.run()) for d in self.dispatchers.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for replica in self.replicas.values():
                await replica.close()
            await asyncio.to_thread(self.database.close)


def build(server: Server) -> ASGIApp:
    """The ASGI application; its lifespan is the server's."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with server.running():
            yield

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def on_error(_: Request, error: Exception) -> Response:
        return error_answer(error)

    pages = Starlette(
        routes=[Route("/health", health), *Pages(server.replicas).routes()],
        lifespan=lifespan,
        exception_handlers={PolyrankError: on_error},
    )
    queue = Queue(server.requests, server.dispatchers, server.notices)
    faces: dict[str, ASGIApp] = {
        "run": RunFace(server.replicas),
        "queue": Starlette(routes=queue.routes(), exception_handlers={PolyrankError: on_error}),
    }

    async def by_face(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await pages(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        target = find_target(
            headers.get(b"host", ""), scope["path"], headers.get(b"x-fal-target-url")
        )
        scope = {**scope, "path": target.path, "face_prefix": target.prefix}
        await faces.get(target.face, pages)(scope, receive, send)

    return by_face
