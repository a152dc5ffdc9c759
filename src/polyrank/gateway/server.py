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
from polyrank.gateway import signatures, tokens
from polyrank.gateway.accounts import Accounts
from polyrank.gateway.addresses import find_target
from polyrank.gateway.answers import error_answer
from polyrank.gateway.callers import Callers
from polyrank.gateway.dispatcher import Dispatcher
from polyrank.gateway.gate import Access, Gate
from polyrank.gateway.notices import Notices
from polyrank.gateway.outbox import Outbox
from polyrank.gateway.queue import Queue
from polyrank.gateway.run import RunFace
from polyrank.gateway.signatures import Signer
from polyrank.gateway.tokens import Tokens
from polyrank.gateway.upstream import Replica
from polyrank.gateway.webhooks import Deliveries, Schedule
from polyrank.store.database import Database
from polyrank.store.keys import Keys
from polyrank.store.migrations import upgrade
from polyrank.store.requests import Requests
from polyrank.store.signing import SigningKeys
from polyrank.store.webhooks import Webhooks


class Server:
    """The parts of one server, started and ended together.

    ``replicas`` are the running apps by name (``local/hello``).
    """

    def __init__(
        self,
        database_url: str,
        replicas: Mapping[str, Replica],
        *,
        access: Access | None = None,
        local_needs_key: bool = False,
        webhook_networks: tuple[str, ...] = (),
        webhook_schedule: Schedule | None = None,
    ) -> None:
        self.database = Database(database_url)
        upgrade(self.database)
        secrets = SigningKeys(self.database)
        signer = Signer(secrets.get("webhooks", signatures.new_key))
        self.webhooks = Webhooks(self.database)
        self.requests = Requests(self.database, on_webhook=lambda: self.deliveries.wake())
        self.deliveries = Deliveries(
            self.webhooks,
            self.requests,
            signer,
            networks=webhook_networks,
            schedule=webhook_schedule,
        )
        self.outbox = Outbox(self.webhooks, self.requests, signer, self.deliveries.wake)
        self.tokens = Tokens(secrets.get("tokens", tokens.new_key))
        self.accounts = Accounts(self.tokens)
        self.keys = Keys(self.database)
        self.callers = Callers(self.keys, self.tokens, local_needs_key=local_needs_key)
        self.gate = Gate(self.callers, access)
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
        await self.webhooks.recover()
        tasks = [asyncio.create_task(d.run()) for d in self.dispatchers.values()]
        tasks.append(asyncio.create_task(self.deliveries.run()))
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
        routes=[Route("/health", health), *server.accounts.routes(), *server.outbox.routes()],
        lifespan=lifespan,
        exception_handlers={PolyrankError: on_error},
    )
    queue = Queue(server.requests, server.dispatchers, server.notices)
    faces: dict[str, ASGIApp] = {
        "run": RunFace(server.replicas),
        "queue": Starlette(
            routes=[*server.outbox.queue_routes(), *queue.routes()],
            exception_handlers={PolyrankError: on_error},
        ),
    }

    async def by_face(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await pages(scope, receive, send)
        headers = dict(scope["headers"])
        target_url = headers.get(b"x-fal-target-url", b"").decode("latin-1")
        host = headers.get(b"host", b"").decode("latin-1")
        target = find_target(host, scope["path"], target_url)
        try:
            caller = await server.gate.admit(scope, headers, target)
        except PolyrankError as error:
            return await server.gate.refuse(error, scope, receive, send)
        state = {**scope.get("state", {}), "caller": caller}
        scope = {**scope, "path": target.path, "face_prefix": target.prefix, "state": state}
        await faces.get(target.face, pages)(scope, receive, send)

    return by_face
