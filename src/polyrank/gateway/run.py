"""``POST /run/owner/name[/path]``: a call of the app, with nothing kept.

Plain ASGI, because everything here ends when the caller goes: the wait for a free slot, the work,
and the stream of its answer. And because every request of an app with many small ones is here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from polyrank.errors import PolyrankError, ReplicaUnreachable, RequestTimeout
from polyrank.gateway.addresses import app_url, for_the_app, place
from polyrank.gateway.answers import error_answer, read_whole, start_limit, unexpected
from polyrank.gateway.filing import Filing
from polyrank.gateway.hosting import HostedApp, ReplicaDown
from polyrank.gateway.registry import Registry
from polyrank.gateway.replicas import Slot
from polyrank.gateway.upstream import HOP_BY_HOP, Exchange, RawHeaders

T = TypeVar("T")

log = logging.getLogger("polyrank.gateway")

DOCUMENT = "/openapi.json"
# What only asks, and takes no slot from those who work.
ASKING = ("GET", "HEAD", "OPTIONS")
# Of the caller's headers, those that the app is not given: they are of this hop, the caller's
# secrets, or ours to set.
DROPPED = HOP_BY_HOP | {b"authorization", b"cookie", b"x-fal-request-id"}
OURS = b"x-polyrank-"
# The status of a call whose caller did not wait for its answer.
GONE = 499
BUSY = "the app was busy for {:g} s, as long as the caller would wait"
LATE = "the request did not end within {:g} s; its work has been stopped"


class RunFace:
    """The ASGI application below ``/run``.

    ``once`` answers the calls that have an ``Idempotency-Key``: they are kept, and run once.
    """

    def __init__(self, apps: Registry, once: ASGIApp, filing: Filing) -> None:
        self._filing = filing
        self._apps = apps
        self._once = once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one call; ends with it when the caller hangs up."""
        call = _Call(scope, send, self._filing)
        if scope["method"] == "POST" and call.header(b"idempotency-key") is not None:
            return await self._once(scope, receive, send)
        task = asyncio.current_task()
        assert task is not None
        gone: asyncio.Future[None] | None = None
        try:
            entry, wanted = await self._apps.find(scope["path"])
            body = await read_whole(receive, call.header(b"content-length"))
            gone = asyncio.ensure_future(_gone(receive))
            gone.add_done_callback(lambda gone: None if gone.cancelled() else task.cancel())
            await call.run(entry.app, wanted.path, body)
        except PolyrankError as error:
            await call.fail(error)
        except asyncio.CancelledError:
            if gone is None or not gone.done():
                raise
        except Exception as error:
            log.exception("a call of %s failed", scope["path"])
            await call.fail(unexpected(error))
        finally:
            if gone is not None:
                gone.cancel()


class _Call:
    """One call on its way through."""

    def __init__(self, scope: Scope, send: Send, filing: Filing) -> None:
        self._filing = filing
        self._scope = scope
        self._send = send
        self._headers: RawHeaders = scope["headers"]
        self._named = dict(self._headers)
        self._id = self.header(b"x-fal-request-id") or os.urandom(16).hex().encode()
        self._begun = False
        self._is_stream = False
        self._status = GONE
        self._slot_at: float | None = None

    def header(self, name: bytes) -> bytes | None:
        """One of the caller's headers."""
        return self._named.get(name)

    async def run(self, app: HostedApp, below: str, body: bytes) -> None:
        """Waits for a slot, then passes the replica's answer on at the caller's pace."""
        if self._scope["method"] in ASKING:
            if below == DOCUMENT and app.openapi is not None and not app.replicas.is_open:
                return await self._describe(app, app.openapi)
            return await self._forward(app, await app.take(weight=0), below, body)
        app.traffic.note_received(self._scope["method"])
        came = time.monotonic()
        try:
            await self._work(app, below, body)
        except PolyrankError as error:
            self._status = error.status
            raise
        finally:
            self._note_end(app, came)

    async def _describe(self, app: HostedApp, document: dict[str, Any]) -> None:
        """What the app's last replica said of it: nobody starts one to see a form."""
        document = {**document, "servers": [{"url": app_url(self._scope, app.name)}]}
        answer = JSONResponse(document, headers={"x-fal-request-id": self._id.decode("latin-1")})
        await self._send_whole(answer)

    async def _send_whole(self, answer: Response) -> None:
        start = {"type": "http.response.start", "status": answer.status_code}
        await self._send({**start, "headers": answer.raw_headers})
        await self._send({"type": "http.response.body", "body": answer.body})

    async def _work(self, app: HostedApp, below: str, body: bytes) -> None:
        limit_s = start_limit(self.header(b"x-fal-request-timeout")) or app.limits.start_timeout_s
        slot = await within(limit_s, app.take(self._hint), BUSY, timeout_type="user")
        self._slot_at = begun = time.monotonic()
        try:
            work = self._forward(app, slot, below, body)
            await within(app.limits.request_timeout_s, work, LATE)
        finally:
            slot.release()
        app.note_duration(time.monotonic() - begun)

    def _note_end(self, app: HostedApp, came: float) -> None:
        now, begun = time.monotonic(), self._slot_at
        waited_s = (now if begun is None else begun) - came
        ran_s = None if begun is None else now - begun
        app.traffic.note_completed(self._scope["method"], self._status, waited_s, ran_s)

    @property
    def _hint(self) -> str | None:
        hint = self.header(b"x-fal-runner-hint")
        return None if hint is None else hint.decode("latin-1")

    async def _forward(self, app: HostedApp, slot: Slot, below: str, body: bytes) -> None:
        headers = [h for h in self._headers if h[0] not in DROPPED and not h[0].startswith(OURS)]
        headers.append((b"x-fal-request-id", self._id))
        headers += place(self._scope, app.name) + self._filing.request_headers(self._scope)
        try:
            exchange = await slot.send(self._scope["method"], self._target(below), headers, body)
            try:
                await self._pass_on(exchange)
                self._status = exchange.status
            finally:
                exchange.release()
        except ReplicaDown:
            raise
        except ReplicaUnreachable:
            await slot.check()
            raise

    async def fail(self, error: PolyrankError) -> None:
        """Says why; in a stream that has begun, as its last event."""
        if not self._begun:
            return await self._send_whole(error_answer(error, self._id.decode("latin-1")))
        if not self._is_stream:
            raise error  # the connection is cut: what came is not the whole answer
        body = {"error": error.message, "detail": error.message, "error_type": error.code}
        event = b"data: " + json.dumps(body).encode() + b"\n\n"
        await self._send({"type": "http.response.body", "body": event})

    def _target(self, below: str) -> bytes:
        path = quote(below, safe="/:@!$&'()*+,;=~-._").encode()
        asked = self._scope.get("query_string", b"")
        query = for_the_app(asked.decode("latin-1")).encode("latin-1") if asked else b""
        return path + b"?" + query if query else path

    async def _pass_on(self, exchange: Exchange) -> None:
        headers = [(b"x-fal-request-id", self._id)]
        for header in exchange.headers:
            name, value = header[0].lower(), header[1]
            if name == b"content-type":
                self._is_stream = value.startswith(b"text/event-stream")
            elif name in HOP_BY_HOP and name != b"content-length" or name == b"x-fal-request-id":
                continue
            headers.append((name, value))
        self._begun = True
        await self._send(
            {"type": "http.response.start", "status": exchange.status, "headers": headers}
        )
        if not exchange.is_over:
            async for chunk in exchange.chunks():
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        # Most answers are there as a whole with their head.
        await self._send({"type": "http.response.body", "body": exchange.rest()})


async def within(
    limit_s: float | None, work: Coroutine[Any, Any, T], why: str, **details: str
) -> T:
    """The result of ``work``, which is ended with RequestTimeout after ``limit_s``."""
    if limit_s is None:
        return await work
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError:
        raise RequestTimeout(why.format(limit_s), **details) from None


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
