"""ASGI wrappers around an app's endpoints: what they share whoever handles the request.

A request whose caller has gone is cancelled; a websocket whose endpoint raised is closed with the
reason.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from fastapi import WebSocketDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyrank.app import context
from polyrank.app.answers import describe_error, error_response
from polyrank.app.app import App
from polyrank.errors import RunnerStopped

log = logging.getLogger("polyrank.app")

# A websocket's close codes, and how many bytes its reason may have.
SERVER_FAULT, CALLER_FAULT, LONGEST_REASON = 1011, 1008, 123
# Messages of a request body that may wait for the endpoint.
READ_AHEAD = 4


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
