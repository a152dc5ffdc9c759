"""``POST /run/owner/name[/path]``: a call of the app, with nothing kept.

Plain ASGI, because everything here ends when the caller goes: the wait for a free slot, the work,
and the stream of its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from polyrank.errors import PolyrankError, RequestTimeout
from polyrank.gateway.addresses import split_app
from polyrank.gateway.answers import UnknownApp, error_answer, read_body, start_timeout
from polyrank.gateway.upstream import Replica, UpstreamAnswer, forwarded


class RunFace:
    """The ASGI application below ``/run``; ``replicas`` are the running apps by name."""

    def __init__(self, replicas: Mapping[str, Replica]) -> None:
        self._replicas = replicas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one call."""
        request = Request(scope, receive)
        call = _Call(request, send)
        try:
            replica, path = self._find(request)
            body = await read_body(request)
            await _until_gone(receive, call.run(replica, path, body))
        except PolyrankError as error:
            await call.fail(error)

    def _find(self, request: Request) -> tuple[Replica, str]:
        wanted = split_app(request.url.path)
        if wanted is None or wanted.app not in self._replicas:
            raise UnknownApp(f"there is no app {request.url.path.strip('/')!r} here")
        query = f"?{request.url.query}" if request.url.query else ""
        return self._replicas[wanted.app], wanted.path + query


class _Call:
    """One call on its way through."""

    def __init__(self, request: Request, send: Send) -> None:
        self._request = request
        self._send = send
        self._id = request.headers.get("x-fal-request-id") or uuid.uuid4().hex
        self._begun = False
        self._is_stream = False

    async def run(self, replica: Replica, path: str, body: bytes) -> None:
        """Waits for a slot, then passes the replica's answer on at the caller's pace."""
        request = self._request
        headers = {**request.headers, "x-fal-request-id": self._id}
        # What an app serves can be read while it is busy.
        is_schema = request.method == "GET" and path.partition("?")[0] == "/openapi.json"
        async with (
            contextlib.nullcontext() if is_schema else _slot(replica, start_timeout(request)),
            replica.call(request.method, path, headers, body) as answer,
        ):
            await self._begin(answer)
            async for chunk in answer.chunks():
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: PolyrankError) -> None:
        """Says why; in a stream that has begun, as its last event."""
        if not self._begun:
            answer = error_answer(error, self._id)
            return await answer(self._request.scope, self._request.receive, self._send)
        if not self._is_stream:
            raise error  # the connection is cut: what came is not the whole answer
        body = {"error": error.message, "detail": error.message, "error_type": error.code}
        event = b"data: " + json.dumps(body).encode() + b"\n\n"
        await self._send({"type": "http.response.body", "body": event})

    async def _begin(self, answer: UpstreamAnswer) -> None:
        headers = {name.lower(): value for name, value in forwarded(answer.headers).items()}
        headers["x-fal-request-id"] = self._id
        self._begun = True
        self._is_stream = headers.get("content-type", "").startswith("text/event-stream")
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        start = {"type": "http.response.start", "status": answer.status, "headers": raw}
        await self._send(start)


@contextlib.asynccontextmanager
async def _slot(replica: Replica, limit_s: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit_s):
            await replica.slots.acquire()
    except TimeoutError:
        raise RequestTimeout(
            f"the app was busy for {limit_s:g} s, as long as the caller would wait"
        ) from None
    try:
        yield
    finally:
        replica.slots.release()


async def _until_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Runs ``work``, and cancels it when the caller hangs up."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
    finally:
        gone.cancel()
        working.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
