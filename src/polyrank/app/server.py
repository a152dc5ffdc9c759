"""An app's HTTP server: its endpoints as routes, its errors as answers.

Around the framework sits one plain ASGI wrapper, ``RequestScope``: it gives a request its id and
context, and cancels the work of a caller who has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, get_type_hints

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyrank import logs
from polyrank.app import context, schema
from polyrank.app.app import App
from polyrank.app.direct import DirectEndpoint, NotDirect, Watched, read, replay, send_json
from polyrank.app.endpoint import Endpoint
from polyrank.app.realtime import RealtimeEndpoint, Shape
from polyrank.app.session import RealtimeRoute
from polyrank.errors import AppError, FieldException, PolyrankError, RunnerStopped
from polyrank.serving import websocket_options
from polyrank.toolkit import store
from polyrank.toolkit.folder import ROUTE as FILES_ROUTE
from polyrank.toolkit.folder import Folder, FolderStore
from polyrank.toolkit.remote import RemoteStore, Storage

log = logging.getLogger("polyrank.app")

KEEP_ALIVE_S = 300
# What threads get once everything else has ended.
LAST_MOMENT_S = 1.0
# A websocket's close codes, and how many bytes its reason may have.
SERVER_FAULT, CALLER_FAULT, LONGEST_REASON = 1011, 1008, 123
OUT_OF_MEMORY = "OutOfMemoryError"
# Messages of a request body that may wait for the endpoint.
READ_AHEAD = 4
# What a browser may show; other kept files are for saving, so that none can run as a page of ours.
SHOWN_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "audio/", "video/")


def build(app: App, storage: Storage | None = None) -> FastAPI:
    """The ASGI application of ``app``; its lifespan runs ``setup`` and ``teardown``.

    What its requests make goes to ``storage``, that of the server which started us.
    """

    files = Folder()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await _maybe_await(app.setup)
            try:
                yield
            finally:
                await _maybe_await(app.teardown)
        finally:
            files.close()

    api = AppApi(
        app,
        files,
        storage,
        title=app.app_name or "app",
        description=inspect.cleandoc(type(app).__doc__ or ""),
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        responses={"default": schema.FAILURE},
        openapi_url=None,
    )
    api.router.route_class = _Route
    sockets: list[tuple[str, Endpoint, Shape | None]] = []
    for method, endpoint in type(app).endpoints.items():
        handler = getattr(app, method)
        if isinstance(endpoint, RealtimeEndpoint):
            route = RealtimeRoute(handler, endpoint, describe_error)
            api.router.routes.append(WebSocketRoute(endpoint.path, route, name=method))
            sockets.append((method, endpoint, route.shape))
        elif endpoint.is_websocket:
            _check_websocket(handler)
            api.add_api_websocket_route(endpoint.path, handler)
            sockets.append((method, endpoint, None))
        else:
            api.add_api_route(
                endpoint.path, handler, methods=["POST"], name=method, response_model_by_alias=True
            )

    async def health() -> Any:
        return await _maybe_await(app.health)

    if not any(endpoint.path == "/health" for endpoint in type(app).endpoints.values()):
        api.add_api_route("/health", health, methods=["GET"], include_in_schema=False)
    api.add_route("/openapi.json", _schema_route(api), include_in_schema=False)
    api.add_route(FILES_ROUTE + "/{token}/{name}", _files_route(files), include_in_schema=False)
    api.add_api_websocket_route("/{path:path}", _no_websocket)
    api.add_exception_handler(HTTPException, _on_http_exception)
    api.add_exception_handler(RequestValidationError, _on_validation_error)
    api.add_middleware(RequestScope, app=app)
    api.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"]
    )
    _complete_schema(api, app, sockets)
    return api


def _check_websocket(handler: Callable[..., Any]) -> None:
    """Refuses an endpoint that could never be connected to."""
    name = handler.__qualname__
    kinds = get_type_hints(handler).values()
    if not inspect.iscoroutinefunction(handler):
        raise AppError(f"websocket endpoint {name} must be a coroutine: async def")
    if not any(inspect.isclass(kind) and issubclass(kind, WebSocket) for kind in kinds):
        raise AppError(
            f"websocket endpoint {name} needs a parameter that is a WebSocket: "
            f"async def {name.rsplit('.', 1)[-1]}(self, websocket: WebSocket)"
        )


async def _no_websocket(websocket: WebSocket) -> None:
    raise HTTPException(404, f"there is no websocket at {websocket.url.path}")


def serve(app: App, *, host: str, port: int, grace_s: float = 5.0) -> None:
    """Serves the app until a signal ends it: SIGTERM or Ctrl-C in order, twice Ctrl-C at once."""
    config = uvicorn.Config(
        build(app),
        host=host,
        port=port,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        log_config=None,
        access_log=False,
        **websocket_options(ping_timeout_s=None),
    )
    server = AppServer(config, app)
    try:
        server.run()
    finally:
        server.spare_the_process()


class AppServer(uvicorn.Server):
    """uvicorn, telling the app at once that it is asked to end, and ending in time.

    Requests get the grace period, ``teardown`` as much again. What then still runs can only be a
    thread, which nothing can stop: the process ends without it.
    """

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self._app = app
        self._grace_s = float(config.timeout_graceful_shutdown or 0)
        self._deadlines: list[threading.Timer] = []
        self._ending = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Waits for a signal. uvicorn's own loop looks ten times a second."""
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._ending.wait()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal has arrived; only the first one is told to the app."""
        if self.should_exit:
            self._end_within(LAST_MOMENT_S, sig)
            return super().handle_exit(sig, frame)
        if running := len(self.server_state.tasks):
            log.info(
                "ending when %d running request(s) are done; Ctrl-C again ends them at once",
                running,
            )
        self._end_within(2 * self._grace_s if self.started else self._grace_s, sig)
        try:
            self._app.handle_exit()
        except Exception:
            log.exception("handle_exit failed")
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ending.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends requests and tears the app down; threads get a last moment."""
        await super().shutdown(sockets)
        self._end_within(LAST_MOMENT_S, signal.SIGTERM)
        # What was cut off is being told so; uvicorn does not wait for that.
        if left := list(self.server_state.tasks):
            await asyncio.wait(left, timeout=LAST_MOMENT_S / 2)
        await asyncio.sleep(0)  # the last answers are sent at the end of this turn

    def spare_the_process(self) -> None:
        """For a process that goes on when it no longer serves: no deadline holds any more."""
        for deadline in self._deadlines:
            deadline.cancel()

    def _end_within(self, seconds: float, sig: int) -> None:
        def end() -> None:
            log.warning("ending with work that did not end in time")
            logging.shutdown()
            sys.stdout.flush()
            os._exit(128 + sig)

        deadline = threading.Timer(seconds, end)
        deadline.daemon = True
        deadline.start()
        self._deadlines.append(deadline)


class AppApi(FastAPI):
    """The ASGI application of an app: FastAPI, with a direct way to its plain endpoints.

    Gives every request its context: id, headers, and where its files go.
    """

    def __init__(self, app: App, files: Folder, storage: Storage | None, **options: Any) -> None:
        super().__init__(**options)
        self._app = app
        self._files = files
        self._storage = storage
        self._direct = _direct_endpoints(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] == "lifespan":
            return await super().__call__(scope, receive, send)
        headers = context.Headers(scope["headers"])
        request_id = headers.get("x-fal-request-id") or uuid.uuid4().hex
        path = headers.get("x-fal-endpoint") or scope["path"]
        request = context.RequestContext(request_id, path, headers)
        logs.request_id.set(request_id)
        context.current.set(request)
        with store.use_store(self._store_for(request, scope)):
            is_post = scope["type"] == "http" and scope["method"] == "POST"
            direct = self._direct.get(scope["path"]) if is_post else None
            if direct is not None and direct.accepts(scope):
                await self._call_directly(direct, request, scope, receive, send)
            else:
                await super().__call__(scope, receive, send)

    def _store_for(self, request: context.RequestContext, scope: Scope) -> store.FileStore:
        """The server's storage, or a folder of ours where no server started us."""
        if self._storage is None:
            return FolderStore(self._files, _base_url(scope))
        return RemoteStore(self._storage, request.headers)

    async def _call_directly(
        self,
        direct: DirectEndpoint,
        request: context.RequestContext,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """What ``RequestScope`` does, without FastAPI and the tasks around it."""
        body = await read(receive)
        if body is None:
            return
        task = asyncio.current_task()
        assert task is not None

        def on_gone() -> None:
            request.cancel()
            task.cancel()

        watched = Watched(receive, on_gone)
        try:
            answer = await direct.answer(body)
        except NotDirect:
            watched.close()
            return await super().__call__(scope, replay(body, receive), send)
        except asyncio.CancelledError:
            task.uncancel()
            if request.is_cancelled:
                log.info("499 %s: the caller went away; the work was cancelled", scope["path"])
                return
            request.cancel()  # the server's grace period is over
            log.warning("%s was cut off: the app is ending", scope["path"])
            answer = error_response(RunnerStopped("the app is ending"))
        except HTTPException as error:
            answer = await _on_http_exception(Request(scope), error)
        except RequestValidationError as error:
            answer = await _on_validation_error(Request(scope), error)
        except Exception as error:
            answer = error_response(error)
        finally:
            watched.close()
        extra = extra_headers(self._app, request.request_id)
        if isinstance(answer, bytes):
            return await send_json(send, answer, extra)
        answer.raw_headers.extend(extra)
        await answer(scope, receive, send)


class RequestScope:
    """ASGI wrapper of requests that FastAPI handles: cancels them when the caller hangs up."""

    def __init__(self, inner: ASGIApp, app: App) -> None:
        self._inner = inner
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        request = context.current.get()
        if scope["type"] == "lifespan" or request is None:
            return await self._inner(scope, receive, send)
        if scope["type"] == "websocket":
            return await WebSocketScope(self._inner, request).handle(scope, receive, send)
        await self._handle(request, scope, receive, send)

    async def _handle(
        self, request: context.RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        def on_gone() -> None:
            request.cancel()
            work.cancel()

        is_answered = False

        async def send_with_id(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                message["headers"] = [
                    *message["headers"],
                    *extra_headers(self._app, request.request_id),
                ]
            elif not message.get("more_body"):
                connection.close()  # the answer is whole: what follows is no hang-up
            await send(message)

        connection = _Connection(receive, on_gone)
        work = asyncio.ensure_future(self._inner(scope, connection.receive, send_with_id))
        try:
            await work
        except asyncio.CancelledError:
            if connection.gone.is_set():
                log.info("499 %s: the caller went away; the work was cancelled", scope["path"])
            else:  # the server's grace period is over
                request.cancel()
                log.warning("%s was cut off: the app is ending", scope["path"])
                if not is_answered:
                    answer = error_response(RunnerStopped("the app is ending"))
                    await answer(scope, receive, send_with_id)
        finally:
            work.cancel()
            connection.close()


def extra_headers(app: App, request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers that every answer has."""
    extra = [(b"x-fal-request-id", request_id.encode("latin-1"))]
    try:
        hints = [hint for hint in app.provide_hints() if _fits_a_header(hint)]
        extra.append((b"x-fal-runner-hints", ",".join(hints).encode("latin-1")))
    except NotImplementedError:
        pass  # not the same as having no hints now
    except Exception:
        log.exception("provide_hints failed; the answer goes out without")
    return extra


def _direct_endpoints(app: App) -> dict[str, DirectEndpoint]:
    """The endpoints by path that can be called without FastAPI."""
    found = {}
    for method, endpoint in type(app).endpoints.items():
        is_plain = not endpoint.is_websocket and "{" not in endpoint.path
        direct = DirectEndpoint.of(getattr(app, method)) if is_plain else None
        if direct is not None:
            found[endpoint.path] = direct
    return found


def _fits_a_header(hint: str) -> bool:
    fits = all(" " <= char <= "\xff" and char not in ",\x7f" for char in hint)
    if not fits:
        log.warning("the hint %r cannot stand in a header and is left out", hint)
    return fits


class WebSocketScope:
    """Ends a websocket whose endpoint raised with a reason, as an answer if it was not open yet."""

    def __init__(self, inner: ASGIApp, request: context.RequestContext) -> None:
        self._inner = inner
        self._request = request
        self._is_open = False
        self._is_over = False

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one connection."""

        async def send_noted(message: Message) -> None:
            if message["type"] == "websocket.accept":
                self._is_open = True
                own = (b"x-fal-request-id", self._request.request_id.encode("latin-1"))
                message["headers"] = [*message.get("headers", []), own]
            elif message["type"] != "websocket.send":
                self._is_over = True
            try:
                await send(message)
            except OSError:
                self._request.cancel()
                raise

        async def receive_noted() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self._is_over = True
                self._request.cancel()
            return message

        try:
            await self._inner(scope, receive_noted, send_noted)
        except WebSocketDisconnect:
            pass  # the caller has gone, and the endpoint had nothing more to do
        except Exception as error:
            if isinstance(error, OSError) and self._request.is_cancelled:
                return  # so has this one
            status, body = describe_error(error)
            if status >= 500:
                log.error("the websocket endpoint raised", exc_info=error)
            if not self._is_over:
                await self._end(scope, send, status, body)

    async def _end(self, scope: Scope, send: Send, status: int, body: dict[str, Any]) -> None:
        if self._is_open:
            reason = str(body["detail"]).encode()[:LONGEST_REASON].decode(errors="ignore")
            code = SERVER_FAULT if status >= 500 else CALLER_FAULT
            await send({"type": "websocket.close", "code": code, "reason": reason})
        elif "websocket.http.response" in scope.get("extensions", {}):
            headers = [
                (b"content-type", b"application/json"),
                (b"x-fal-request-id", self._request.request_id.encode("latin-1")),
                (b"x-fal-error-type", str(body["error_type"]).encode()),
            ]
            start = {"type": "websocket.http.response.start", "status": status, "headers": headers}
            await send(start)
            await send({"type": "websocket.http.response.body", "body": json.dumps(body).encode()})
        else:
            await send({"type": "websocket.close", "code": CALLER_FAULT})


def _base_url(scope: Scope) -> str:
    """The address under which the caller reached us, and so can fetch files from."""
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    host, port = scope.get("server") or ("localhost", None)
    own = f"[{host}]" if ":" in host else host
    netloc = hosts[0] if hosts else f"{own}:{port}" if port else own
    return f"{scheme}://{netloc}{scope.get('root_path', '')}"


def _files_route(files: Folder) -> Callable[[Request], Response]:
    """The route that serves what endpoints kept in ``files``."""

    def serve_file(request: Request) -> Response:
        kept = files.get(request.path_params["token"])
        if kept is None or not kept.path.exists():
            raise HTTPException(404, "no such file; an app keeps its files until it ends")
        shown = kept.content_type.lower().startswith(SHOWN_TYPES)
        return FileResponse(
            kept.path,
            media_type=kept.content_type,
            filename=kept.file_name,
            content_disposition_type="inline" if shown else "attachment",
            headers={"x-content-type-options": "nosniff"},
        )

    return serve_file


class _Connection:
    """Reads a connection ahead of the endpoint, so that a hang-up is seen while it works."""

    def __init__(self, receive: Receive, on_gone: Callable[[], Any]) -> None:
        self.gone = asyncio.Event()
        self._receive = receive
        self._on_gone = on_gone
        self._messages: asyncio.Queue[Message] = asyncio.Queue(READ_AHEAD)
        self._reader = asyncio.ensure_future(self._read())

    async def receive(self) -> Message:
        """The next message, for the endpoint."""
        return await self._messages.get()

    def close(self) -> None:
        """The answer is out."""
        self._reader.cancel()

    async def _read(self) -> None:
        while (message := await self._receive())["type"] != "http.disconnect":
            await self._messages.put(message)
        self.gone.set()
        self._on_gone()


class _Route(APIRoute):
    """A route whose errors are answers with a reason, streams included."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
                if isinstance(response, StreamingResponse):
                    response.body_iterator = await _begun(response.body_iterator)
            except (HTTPException, RequestValidationError):
                raise
            except Exception as error:
                return error_response(error)
            return response

        return answer


async def _begun(chunks: Any) -> AsyncIterator[Any]:
    """The stream once its first chunk is there: what fails before that is a plain error."""
    iterator = aiter(chunks)
    first = await anext(iterator, None)

    async def rest() -> AsyncIterator[Any]:
        try:
            if first is not None:
                yield first
                async for chunk in iterator:
                    yield chunk
        except Exception as error:
            status, body = describe_error(error)
            yield b"data: " + json.dumps({"error": body["detail"], **body}).encode() + b"\n\n"
            log.error("a stream ended with an error (%d): %s", status, body["detail"])
        finally:
            if (close := getattr(iterator, "aclose", None)) is not None:
                await close()

    return rest()


def describe_error(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body of an exception: a reason, never a stack trace."""
    if isinstance(error, FieldException):
        return error.status, {**error.to_pydantic_format(), "error_type": error.code}
    if isinstance(error, HTTPException):
        kind = "bad_request" if error.status_code < 500 else "internal_error"
        return error.status_code, {"detail": error.detail, "error_type": kind}
    if _is_out_of_memory(error):
        return 503, {"detail": _reason(error), "error_type": "runner_out_of_memory"}
    if isinstance(error, PolyrankError):
        return error.status, {"detail": _reason(error), "error_type": error.code}
    name, text = type(error).__name__, str(error)
    detail = f"{name}: {text}" if text else name
    return 500, {"detail": detail, "error_type": "internal_error"}


def _reason(error: Exception) -> str:
    """What the error says; its name where it says nothing."""
    return str(error) or type(error).__name__


def error_response(error: Exception) -> JSONResponse:
    """The answer to a request that ended with ``error``; unexpected ones are logged in full."""
    status, body = describe_error(error)
    if status >= 500 and not isinstance(error, PolyrankError):
        log.error("the endpoint raised", exc_info=error)
    headers = {"x-fal-error-type": body["error_type"]}
    units = error.billable_units if isinstance(error, FieldException) else 0
    if status == 422 and units is not None:
        headers["x-fal-billable-units"] = _amount(units)
    return JSONResponse(body, status, headers)


def _amount(units: int | float | str) -> str:
    return str(units) if isinstance(units, int) else f"{float(units):.8f}"


def _is_out_of_memory(error: Exception) -> bool:
    # By type, in this process or in a rank; words in a message prove nothing.
    names = {cls.__name__ for cls in type(error).__mro__}
    return OUT_OF_MEMORY in names or getattr(error, "error_type", None) == OUT_OF_MEMORY


async def _on_http_exception(request: Request | WebSocket, error: Any) -> Response:
    if isinstance(request, WebSocket):
        raise error  # ``WebSocketScope`` ends the connection with it
    detail, headers = error.detail, dict(error.headers or {})
    if error.status_code == 404 and detail == "Not Found":
        detail = f"Path {request.url.path} not found"
        headers["x-fal-billable-units"] = "0"
    if error.status_code == 405 and detail == "Method Not Allowed":
        allowed = headers.get("allow", "POST")
        detail = f"{request.url.path} is called with {allowed}, not {request.method}"
    return JSONResponse({"detail": detail}, error.status_code, headers)


async def _on_validation_error(request: Request, error: Any) -> Response:
    problems = [
        {key: value for key, value in problem.items() if key in ("loc", "msg", "type")}
        for problem in error.errors()
    ]
    return JSONResponse({"detail": problems}, 422, {"x-fal-billable-units": "0"})


def _complete_schema(
    api: FastAPI, app: App, sockets: list[tuple[str, Endpoint, Shape | None]]
) -> None:
    plain = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = schema.complete(plain(), app, sockets)
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _schema_route(api: FastAPI) -> Callable[[Request], Response]:
    def serve_schema(request: Request) -> Response:
        return JSONResponse(schema.served_at(api.openapi(), _public_url(request)))

    return serve_schema


def _public_url(request: Request) -> str:
    """Where the caller found the app; a server that stands before it says so in headers."""
    parts = [request.headers.get(f"x-forwarded-{name}") for name in ("proto", "host", "prefix")]
    return "{}://{}{}".format(*parts) if all(parts) else _base_url(request.scope)


async def _maybe_await(function: Callable[[], Any]) -> Any:
    """Calls ``function``: a coroutine here, a plain function in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function()
    outcome = await asyncio.to_thread(function)
    return await outcome if inspect.isawaitable(outcome) else outcome
