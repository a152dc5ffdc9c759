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
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from polyrank import logs
from polyrank.app import context, metrics, schema
from polyrank.app.answers import (
    describe_error,
    error_response,
    on_http_exception,
    on_validation_error,
)
from polyrank.app.app import App
from polyrank.app.direct import DirectEndpoint, NotDirect, Watched, read, replay, send_json
from polyrank.app.endpoint import Endpoint
from polyrank.app.realtime import RealtimeEndpoint, Shape
from polyrank.app.scopes import RequestScope, extra_headers
from polyrank.app.session import RealtimeRoute
from polyrank.errors import AppError, RunnerStopped
from polyrank.toolkit import store
from polyrank.toolkit.folder import ROUTE as FILES_ROUTE
from polyrank.toolkit.folder import Folder, FolderStore
from polyrank.toolkit.remote import RemoteStore, Storage

log = logging.getLogger("polyrank.app")

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
    api.add_route(metrics.PATH, metrics.serve, methods=["GET"], include_in_schema=False)
    api.add_route(FILES_ROUTE + "/{token}/{name}", _files_route(files), include_in_schema=False)
    api.add_api_websocket_route("/{path:path}", _no_websocket)
    api.add_exception_handler(HTTPException, on_http_exception)
    api.add_exception_handler(RequestValidationError, on_validation_error)
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
            answer = await on_http_exception(Request(scope), error)
        except RequestValidationError as error:
            answer = await on_validation_error(Request(scope), error)
        except Exception as error:
            answer = error_response(error)
        finally:
            watched.close()
        extra = extra_headers(self._app, request.request_id)
        if isinstance(answer, bytes):
            return await send_json(send, answer, extra)
        answer.raw_headers.extend(extra)
        await answer(scope, receive, send)


def _direct_endpoints(app: App) -> dict[str, DirectEndpoint]:
    """The endpoints by path that can be called without FastAPI."""
    found = {}
    for method, endpoint in type(app).endpoints.items():
        is_plain = not endpoint.is_websocket and "{" not in endpoint.path
        direct = DirectEndpoint.of(getattr(app, method)) if is_plain else None
        if direct is not None:
            found[endpoint.path] = direct
    return found


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
