"""The server: apps behind their addresses, queued requests in the store, one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from polyrank import reports
from polyrank.errors import PolyrankError, StoreUnavailable
from polyrank.gateway import gate, pages, signatures, tokens
from polyrank.gateway.accounts import Accounts
from polyrank.gateway.addresses import Target, find_target
from polyrank.gateway.answers import error_answer, routing_answer, unexpected
from polyrank.gateway.bounds import Bounds
from polyrank.gateway.callers import Callers
from polyrank.gateway.cors import open_to_browsers
from polyrank.gateway.dispatcher import Dispatcher
from polyrank.gateway.filing import Filing
from polyrank.gateway.framed import FramedCalls
from polyrank.gateway.gate import Access, Gate
from polyrank.gateway.hosting import HostedApp
from polyrank.gateway.metrics import Metrics
from polyrank.gateway.notices import FLEET, Notices
from polyrank.gateway.openapi import DEPLOYMENTS, ServerDocument
from polyrank.gateway.outbox import Outbox
from polyrank.gateway.pages import Pages
from polyrank.gateway.queue import Queue
from polyrank.gateway.registry import Entry, Registry
from polyrank.gateway.run import RunFace
from polyrank.gateway.signatures import Signer
from polyrank.gateway.tokens import Tokens
from polyrank.gateway.webhooks import Deliveries, Schedule
from polyrank.gateway.websockets import WebSocketFace
from polyrank.settings import ServerSettings, WebSocketSettings
from polyrank.store import changes
from polyrank.store.database import Database
from polyrank.store.keys import Keys
from polyrank.store.migrations import upgrade
from polyrank.store.requests import Changed, Requests
from polyrank.store.signing import SigningKeys
from polyrank.store.webhooks import Webhooks

log = logging.getLogger("polyrank.gateway")

# How often answers whose time to live is over are deleted.
SWEEP_EVERY_S = 600.0
FILES_MAX_BYTES = 5 * 2**30


class Server:
    """The parts of one server, started and ended together.

    ``files_url`` is the folder or bucket that files are kept in, ``files_max_bytes`` the size of
    the largest. ``keys_url`` is another database, whose keys are those that callers show.
    """

    def __init__(
        self,
        database_url: str,
        files_url: str,
        settings: ServerSettings | None = None,
        *,
        keys_url: str | None = None,
        files_max_bytes: int = FILES_MAX_BYTES,
        webhook_schedule: Schedule | None = None,
    ) -> None:
        settings = settings or ServerSettings()
        self.id = uuid.uuid4().hex
        self.database = Database(database_url)
        upgrade(self.database)
        self._keys_database = self.database
        if keys_url is not None and keys_url != database_url:
            self._keys_database = Database(keys_url, is_server=False)
            upgrade(self._keys_database)
        self.filing = Filing(self.database, files_url, max_bytes=files_max_bytes)
        self.apps = Registry()
        self._add_gate(settings)
        self._add_webhooks(settings.webhook_networks, webhook_schedule)
        self.metrics = Metrics(self.apps, self.requests)
        self.bounds = Bounds(self.requests, settings.max_queued)
        self.notices = Notices()
        # Another server has changed what is deployed of an app, or perhaps of any.
        self.on_deployed: Callable[[str], None] = lambda app: None
        self._tasks: asyncio.TaskGroup | None = None
        self._dispatching: dict[str, asyncio.Task[None]] = {}

    def _add_gate(self, settings: ServerSettings) -> None:
        """Who is let in."""
        self.keys = Keys(self._keys_database)
        self.tokens = Tokens(SigningKeys(self.database).get("tokens", tokens.new_key))
        self.accounts = Accounts(self.tokens)
        self.callers = Callers(self.keys, self.tokens, local_needs_key=settings.auth == "always")
        access = Access(
            mode_of=self._mode_of,
            open_paths=(*gate.OPEN_PATHS, *pages.OPEN_PATHS),
            allowed_origins=settings.allowed_origins,
        )
        self.gate = Gate(self.callers, access)

    def _add_webhooks(self, networks: tuple[str, ...], schedule: Schedule | None) -> None:
        """Who is told how requests end; the requests themselves, as they ring for it."""
        self.requests = Requests(
            self.database,
            origin=self.id,
            on_webhook=lambda: self.deliveries.wake(),
            on_end=self._note_end,
        )
        self.webhooks = Webhooks(self.database)
        signer = Signer(SigningKeys(self.database).get("webhooks", signatures.new_key))
        self.deliveries = Deliveries(
            self.webhooks, self.requests, signer, networks=networks, schedule=schedule
        )
        self.outbox = Outbox(self.webhooks, self.requests, signer, self.deliveries.wake)

    async def _mode_of(self, name: str) -> str | None:
        entry = await self.apps.wait_for(name)
        return None if entry is None else entry.app.limits.auth

    def host(self, name: str, limits: reports.Limits) -> HostedApp:
        """Serves the app ``name`` from now on; its requests wait until it has a replica."""
        app = HostedApp(name, limits, on_change=lambda: self.notices.publish(name, FLEET))
        app.on_use = lambda: self.notices.publish(FLEET)
        is_shared = self.database.dialect == "postgresql"
        dispatcher = Dispatcher(
            self.requests, app, self.notices, owner=self.id, is_shared=is_shared
        )
        self.apps.add(Entry(app, dispatcher))
        if self._tasks is not None:
            self._dispatching[name] = self._tasks.create_task(dispatcher.run())
        return app

    def unhost(self, name: str) -> None:
        """Serves the app no more; its requests are kept."""
        self.apps.remove(name).app.close()
        if (task := self._dispatching.pop(name, None)) is not None:
            task.cancel()

    def take_no_more(self) -> None:
        """Runs what is running and nothing else; those who watch a request are sent away."""
        for entry in self.apps:
            entry.dispatcher.take_no_more()
        self.notices.close()

    async def finish(self, limit_s: float) -> None:
        """Waits until the queued requests that run have ended, but no longer than ``limit_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                for entry in self.apps:
                    await entry.dispatcher.idle()

    def add_line(self, line: reports.Line | reports.End) -> None:
        """A replica printed a line for a request, or the last was printed."""
        for entry in self.apps:
            dispatcher = entry.dispatcher
            if isinstance(line, reports.End):
                is_here = dispatcher.end_log(line.request_id)
            else:
                is_here = dispatcher.add_line(line)
            if is_here:
                return

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Dispatches inside the block, and lets go of everything at its end."""
        await self.requests.recover()
        await self.webhooks.recover()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                followers = [
                    tasks.create_task(
                        changes.follow(self.database, self.id, self._note_foreign_change)
                    ),
                    tasks.create_task(self._sweep()),
                    tasks.create_task(self.deliveries.run()),
                    tasks.create_task(self.filing.sweep()),
                ]
                for entry in self.apps:
                    task = tasks.create_task(entry.dispatcher.run())
                    self._dispatching[entry.app.name] = task
                yield
                self._tasks = None
                for task in [*followers, *self._dispatching.values()]:
                    task.cancel()
        finally:
            for entry in self.apps:
                entry.app.close()
            await asyncio.to_thread(self.database.close)
            await asyncio.to_thread(self._keys_database.close)

    def _note_end(self, ended: Changed) -> None:
        """This server has ended a request of the queue."""
        if (entry := self.apps.get(ended.app)) is not None and ended.status is not None:
            traffic = entry.app.traffic
            traffic.note_completed("POST", ended.status, ended.waited_s, ended.ran_s)
        self.notices.publish(FLEET)

    def _note_foreign_change(self, id: str, app: str) -> None:
        """Another server of this database changed a request; with no id, perhaps many."""
        if id in ("", changes.DEPLOYED):
            self.on_deployed(app)
        if id == changes.DEPLOYED:
            return
        self.notices.publish(id)
        for entry in self.apps:
            if app in ("", entry.app.name):
                entry.dispatcher.note_foreign_change(id)

    async def _sweep(self) -> None:
        while True:
            try:
                while await self.requests.sweep():
                    pass
            except StoreUnavailable as error:
                log.error("old answers could not be deleted: %s", error)
            await asyncio.sleep(SWEEP_EVERY_S)


def build(server: Server, deploying: Sequence[BaseRoute] = ()) -> ASGIApp:
    """The ASGI application; its lifespan is the server's. ``deploying`` are the routes of what is
    deployed, where anything can be."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with server.running():
            yield

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def on_error(_: Request, error: Exception) -> Response:
        return error_answer(error)

    async def on_unexpected(_: Request, error: Exception) -> Response:
        return error_answer(unexpected(error))

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return routing_answer(request, error)

    handlers = {
        PolyrankError: on_error,
        HTTPException: on_http_exception,
        Exception: on_unexpected,
    }

    def pages_of(routes: list[BaseRoute]) -> ASGIApp:
        return Starlette(routes=routes, exception_handlers=handlers)

    own = Starlette(
        routes=[
            Route("/health", health),
            *ServerDocument(*(DEPLOYMENTS if deploying else ())).routes(),
            *deploying,
            *server.accounts.routes(),
            *server.metrics.routes(),
            *server.outbox.routes(),
            *server.filing.routes(),
            *Pages(server.apps, server.gate.lets_in, has_dashboard=bool(deploying)).routes(),
        ],
        lifespan=lifespan,
        exception_handlers=handlers,
    )
    queue = Queue(server.requests, server.apps, server.notices, server.filing, server.bounds)
    once = pages_of([Route("/{path:path}", queue.run_once, methods=["POST"])])
    run = RunFace(server.apps, once, server.filing)
    faces: dict[str, ASGIApp] = {
        "run": run,
        "queue": pages_of([*server.outbox.queue_routes(), *queue.routes()]),
    }
    framed = FramedCalls(run, server.gate.count)

    websockets = WebSocketFace(
        server.apps,
        max_bytes=WebSocketSettings().max_bytes,
        added_headers=server.filing.request_headers,
    )

    async def by_face(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await own(scope, receive, send)
        try:
            target = find_target(scope["path"], scope["headers"])
            caller = await server.gate.admit(scope, dict(scope["headers"]), target)
        except PolyrankError as error:
            return await server.gate.refuse(error, scope, receive, send)
        # Some clients end a path with a slash, and none means another path by it.
        path = target.path.rstrip("/") or "/" if target.face == "queue" else target.path
        state = {**scope.get("state", {}), "caller": caller}
        scope = {**scope, "path": path, "face_prefix": target.prefix, "state": state}
        if target.query is not None:
            scope["query_string"] = target.query
        if scope["type"] == "websocket" and not _is_own_socket(target):
            return await (framed if target.face == "ws" else websockets)(scope, receive, send)
        await faces.get(target.face, own)(scope, receive, send)

    return open_to_browsers(by_face)


def _is_own_socket(target: Target) -> bool:
    """Whether a websocket leads to a replica's shell, and not to an app."""
    return (target.face, target.path.rpartition("/")[2]) == ("", "exec") and (
        target.path.startswith("/runners/")
    )
