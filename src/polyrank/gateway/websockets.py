"""Websockets below ``/run``: a caller and a replica, message by message, until either closes."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar
from urllib.parse import quote, unquote

from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import Close
from websockets.http11 import Response
from websockets.typing import Subprotocol

from polyrank.errors import PolyrankError, ReplicaUnreachable
from polyrank.gateway.addresses import place
from polyrank.gateway.answers import error_answer, start_limit
from polyrank.gateway.gate import TOKEN
from polyrank.gateway.hosting import HostedApp
from polyrank.gateway.registry import Registry
from polyrank.gateway.replicas import Slot
from polyrank.gateway.run import BUSY, DROPPED, OURS, within
from polyrank.gateway.upstream import RawHeaders, forwarded

T = TypeVar("T")

NORMAL, GOING_AWAY, REFUSED, RESTARTED = 1000, 1001, 1008, 1012
# Stand for a close without a code, and for a connection that broke off; never sent.
NO_CODE, BROKEN_OFF = 1005, 1006
CLOSE_TIMEOUT_S = 5.0
# Messages of a replica that may wait for a slow caller before the replica is held up.
READ_AHEAD = 2


class WebSocketFace:
    """The ASGI application of websockets below ``/run``.

    Messages of a replica have up to ``max_bytes``. ``added_headers`` are those that it is told
    beside the caller's.
    """

    def __init__(
        self,
        apps: Registry,
        *,
        max_bytes: int | None = None,
        added_headers: Callable[[Scope], RawHeaders] = lambda scope: [],
    ) -> None:
        self._apps = apps
        self._added_headers = added_headers
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one websocket."""
        caller = _Caller(scope, receive, send)
        await receive()  # websocket.connect
        try:
            async with contextlib.AsyncExitStack() as stack:
                opening = stack.enter_async_context(self._opened(caller))
                upstream = await caller.unless_gone(opening)
                await caller.accept(upstream)
                await _pass_on(caller, upstream)
        except InvalidStatus as refused:
            await caller.relay(refused)
        except PolyrankError as error:
            await caller.refuse(error)
        except _CallerGone:
            pass

    @contextlib.asynccontextmanager
    async def _opened(self, caller: _Caller) -> AsyncIterator[ClientConnection]:
        """A websocket to the replica, which gives a slot to it."""
        entry, wanted = await self._apps.find(caller.scope["path"])
        app = entry.app
        limit_s = start_limit(caller.header(b"x-fal-request-timeout")) or app.limits.start_timeout_s
        slot = await within(limit_s, app.take(caller.hint), BUSY, timeout_type="user")
        try:
            async with await self._connect(app, slot, wanted.path, caller) as upstream:
                yield upstream
            if upstream.close_code == BROKEN_OFF:
                await slot.check()
        finally:
            slot.release()

    async def _connect(
        self, app: HostedApp, slot: Slot, path: str, caller: _Caller
    ) -> ClientConnection:
        """Opens a websocket to the replica, or to the next one if it was just dying."""
        headers = [*caller.headers(), *place(caller.scope, app.name)]
        headers += self._added_headers(caller.scope)
        may_be_dying = True
        while True:
            slot.begin()
            try:
                return await connect(
                    f"ws://localhost{_target(path, caller.scope)}",
                    host=slot.replica.upstream.host,
                    port=slot.replica.upstream.port,
                    additional_headers=[
                        (name.decode("latin-1"), value.decode("latin-1"))
                        for name, value in (*headers, *slot.replica.upstream.added)
                    ],
                    subprotocols=caller.subprotocols() or None,
                    max_size=self._max_bytes,
                    max_queue=READ_AHEAD,
                    compression=None,
                    proxy=None,
                    user_agent_header=None,
                    open_timeout=None,
                    ping_interval=None,
                    close_timeout=CLOSE_TIMEOUT_S,
                )
            except ConnectionRefusedError:
                await slot.move()
            except InvalidStatus:
                raise
            except (OSError, InvalidHandshake) as error:
                if not may_be_dying:
                    raise ReplicaUnreachable(
                        f"the replica of {app.name} did not answer: {error}"
                    ) from error
                may_be_dying = False
                await slot.check()
                if not slot.replica.is_open:
                    await slot.move()


def _target(path: str, scope: Scope) -> str:
    """Path and query for the replica; the token is not for it."""
    parts = scope["query_string"].decode("latin-1").split("&")
    query = "&".join(part for part in parts if unquote(part.partition("=")[0]) != TOKEN)
    return quote(path, safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")


class _CallerGone(Exception):
    """The caller has closed, with this code and reason, or broken off."""

    def __init__(self, code: int = GOING_AWAY, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code if _may_be_sent(code) else GOING_AWAY
        self.reason = reason


class _Caller:
    """The caller's side."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.request_id = self.header(b"x-fal-request-id") or uuid.uuid4().hex.encode()
        self._receive = receive
        self._send = send

    def header(self, name: bytes) -> bytes | None:
        """One of the caller's headers."""
        return next((value for key, value in self.scope["headers"] if key == name), None)

    @property
    def hint(self) -> str | None:
        """Which replica it would like."""
        hint = self.header(b"x-fal-runner-hint")
        return None if hint is None else hint.decode("latin-1")

    def headers(self) -> RawHeaders:
        """What the replica is told."""
        own = (b"x-fal-request-id", self.request_id)
        return [*_passed_on(self.scope["headers"]), own]

    def subprotocols(self) -> list[Subprotocol]:
        """What the caller offers."""
        return [Subprotocol(each) for each in self.scope["subprotocols"]]

    async def unless_gone(self, work: Awaitable[T]) -> T:
        """The result of what is done before the websocket is open; raises _CallerGone."""
        working = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._receive())  # nothing else can come yet
        try:
            await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise _CallerGone
            return working.result()
        finally:
            gone.cancel()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def receive(self) -> str | bytes:
        """The next message. Raises _CallerGone."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code", NO_CODE)
            # An empty close has a reason, which is empty; a broken connection has none.
            if code == NO_CODE and message.get("reason") is not None:
                code = NORMAL
            raise _CallerGone(code, message.get("reason") or "")
        frame = message.get("bytes")
        return str(message["text"]) if frame is None else bytes(frame)

    async def send(self, frame: str | bytes) -> None:
        """Sends a message, at the caller's pace. Raises _CallerGone."""
        key = "text" if isinstance(frame, str) else "bytes"
        await self._tell({"type": "websocket.send", key: frame})

    async def accept(self, upstream: ClientConnection) -> None:
        """Opens the websocket as the replica has opened it."""
        assert upstream.response is not None
        accept = {"type": "websocket.accept", "subprotocol": upstream.subprotocol}
        await self._tell({**accept, "headers": self._answered(upstream.response)})

    async def close(self, close: Close | None) -> None:
        """Closes as the replica has closed; one that broke off has ended."""
        if close is None:
            close = Close(RESTARTED, "the replica has ended; connect again")
        code = close.code if _may_be_sent(close.code) else NORMAL
        await self._tell({"type": "websocket.close", "code": code, "reason": close.reason})

    async def refuse(self, error: PolyrankError) -> None:
        """Answers with the error instead of opening the websocket."""
        answer = error_answer(error, self.request_id.decode("latin-1"))
        await self._answer(answer.status_code, answer.raw_headers, answer.body)

    async def relay(self, refused: InvalidStatus) -> None:
        """Answers as the replica has answered instead of opening the websocket."""
        answer = refused.response
        body = bytes(answer.body or b"")
        await self._answer(answer.status_code, self._answered(answer), body)

    def _answered(self, answer: Response) -> RawHeaders:
        items = answer.headers.raw_items()
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in items]
        return [*_passed_on(raw), (b"x-fal-request-id", self.request_id)]

    async def _answer(self, status: int, headers: RawHeaders, body: bytes | memoryview) -> None:
        with contextlib.suppress(_CallerGone):
            if "websocket.http.response" not in self.scope.get("extensions", {}):
                return await self._tell({"type": "websocket.close", "code": REFUSED})
            start = {"type": "websocket.http.response.start", "status": status}
            await self._tell({**start, "headers": headers})
            await self._tell({"type": "websocket.http.response.body", "body": body})

    async def _tell(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:
            raise _CallerGone from None


def _passed_on(headers: RawHeaders) -> RawHeaders:
    """The headers that are not of one connection, and not ours."""
    return [
        header
        for header in forwarded(headers)
        if header[0] not in DROPPED and not header[0].startswith((b"sec-websocket-", OURS))
    ]


def _may_be_sent(code: int) -> bool:
    return code in (1000, 1001, 1002, 1003, *range(1007, 1015)) or 3000 <= code < 5000


async def _pass_on(caller: _Caller, upstream: ClientConnection) -> None:
    """Both ways at the pace of whoever takes the messages; closes one side as the other was."""
    up = asyncio.create_task(_up(caller, upstream))
    down = asyncio.create_task(_down(caller, upstream))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        if up.done():
            up.result()
        await caller.close(await down)  # after what the replica sent before it closed
    except _CallerGone as gone:
        down.cancel()
        await asyncio.wait({down})
        await asyncio.gather(upstream.close(gone.code, gone.reason), _discard(upstream))
    finally:
        up.cancel()
        down.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _up(caller: _Caller, upstream: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await upstream.send(await caller.receive())


async def _down(caller: _Caller, upstream: ClientConnection) -> Close | None:
    """Returns how the replica closed, or why we did; None if the connection broke off."""
    try:
        while True:
            await caller.send(await upstream.recv())
    except ConnectionClosed as closed:
        return closed.rcvd or closed.sent


async def _discard(upstream: ClientConnection) -> None:
    """Takes what nobody wants any more, so that the replica's close can be seen behind it."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await upstream.recv()
