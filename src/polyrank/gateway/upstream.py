"""HTTP to a replica: connections that are kept, answers that are passed on as they come.

Every request of every caller crosses here, so this is a plain protocol over httptools, the parser
that uvicorn has on the other side, rather than a client library: a fifth of the time of one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import cast

import httptools

from polyrank.errors import ReplicaUnreachable
from polyrank.reports import TOKEN_HEADER

RawHeaders = list[tuple[bytes, bytes]]

# Of one connection to the next hop only, or made anew by it.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade host content-length expect accept-encoding date server".split()
)
# Bytes of an answer that may wait for a slow caller before the replica is held up.
READ_AHEAD = 256 * 1024
# A replica closes idle connections after 300 s; we let go of them well before.
IDLE_S = 60.0
CONNECT_S = 10.0


def forwarded(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """The headers that a proxy passes on, their names in lower case."""
    lower = [(name.lower(), value) for name, value in headers]
    return [header for header in lower if header[0] not in HOP_BY_HOP]


class Refused(ReplicaUnreachable):
    """Nobody listens at the replica's address; nothing was sent."""


class Upstream:
    """Connections to one address; as many as there are requests at once."""

    def __init__(self, host: str, port: int, token: str = "") -> None:
        """``token`` is that of a replica which answers to its server only."""
        self.host = host
        self.port = port
        self.added: RawHeaders = [(TOKEN_HEADER, token.encode())] if token else []
        self._idle: list[_Connection] = []

    async def send(self, method: str, path: bytes, headers: RawHeaders, body: bytes) -> Exchange:
        """Sends a request; returns with the head of its answer. Call ``release`` on it at the end.

        Raises Refused if nobody is there, ReplicaUnreachable if no answer comes.
        """
        connection = self._kept() or await self._connect()
        exchange = connection.send(method, path, headers, body)
        try:
            await exchange.begin()
        except BaseException:
            exchange.release()
            raise
        return exchange

    def take_back(self, connection: _Connection) -> None:
        """A connection whose last answer was read."""
        connection.idle_since = connection.loop.time()
        self._idle.append(connection)

    def close(self) -> None:
        """Closes the connections that are not in use."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh():
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, loop), self.host, self.port
                )
        except (OSError, TimeoutError) as error:
            raise Refused(f"nobody answers at {self.host}:{self.port}: {error}") from error
        return connection


class Exchange:
    """One request on its way, and its answer as it comes in."""

    def __init__(self, connection: _Connection, *, has_body: bool) -> None:
        self.status = 0
        self.headers: RawHeaders = []
        self.is_over = False
        self.is_reusable = False
        self._connection = connection
        self.has_body = has_body
        self._chunks: deque[bytes] = deque()
        self._waiting = 0
        self._error: ReplicaUnreachable | None = None
        self._news: asyncio.Future[None] | None = None

    async def begin(self) -> None:
        """Waits for the answer's head."""
        while not self.status and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it arrives. Raises ReplicaUnreachable if it breaks off."""
        while True:
            if self._chunks:
                yield self._take()
            elif self._error is not None:
                raise self._error
            elif self.is_over:
                return
            else:
                await self._wait()

    def rest(self) -> bytes:
        """What has arrived and was not taken yet."""
        return self._take() if self._chunks else b""

    async def body(self, limit: int | None = None) -> bytes:
        """The whole body. Raises ReplicaUnreachable also beyond ``limit`` bytes."""
        parts, size = [], 0
        async for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if limit is not None and size > limit:
                raise ReplicaUnreachable(f"the answer has more than {limit} bytes")
        return b"".join(parts)

    def release(self) -> None:
        """The caller is done. Before the end of the answer, this closes the connection, which the
        replica takes for a hang-up: it stops the work."""
        if self.is_reusable:
            self._connection.resume()
            self._connection.upstream.take_back(self._connection)
        else:
            self._connection.close()

    def head_is_there(self, status: int, headers: RawHeaders) -> None:
        """The answer has begun."""
        self.status, self.headers = status, headers
        self._tell()

    def feed(self, chunk: bytes) -> None:
        """A piece of the body has arrived."""
        self._chunks.append(chunk)
        self._waiting += len(chunk)
        if self._waiting > READ_AHEAD:
            self._connection.pause()
        self._tell()

    def end(self, *, reusable: bool) -> None:
        """The answer is whole."""
        self.is_over = True
        self.is_reusable = reusable
        self._tell()

    def fail(self, error: ReplicaUnreachable) -> None:
        """The connection is lost."""
        if not self.is_over:
            self._error = error
            self._tell()

    def _take(self) -> bytes:
        taken = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._waiting = 0
        self._connection.resume()
        return taken

    async def _wait(self) -> None:
        self._news = self._connection.loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class _Connection(asyncio.Protocol):
    """One connection: a parser in front of the exchange that is using it."""

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        self.upstream = upstream
        self.loop = loop
        self.idle_since = 0.0
        self._host = (f"[{upstream.host}]" if ":" in upstream.host else upstream.host).encode()
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: RawHeaders = []
        self._is_informational = False

    def is_fresh(self) -> bool:
        """Whether another request may go this way."""
        return self._transport is not None and self.loop.time() - self.idle_since < IDLE_S

    def send(self, method: str, path: bytes, headers: RawHeaders, body: bytes) -> Exchange:
        """Sends a request; its answer belongs to the exchange that this returns."""
        self._exchange = exchange = Exchange(self, has_body=method != "HEAD")
        lines = [b"%s %s HTTP/1.1\r\nhost: %s\r\n" % (method.encode(), path, self._host)]
        lines += [b"%b: %b\r\n" % header for header in (*headers, *self.upstream.added)]
        if body or method not in ("GET", "HEAD", "DELETE", "OPTIONS"):
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        if self._transport is None:
            exchange.fail(ReplicaUnreachable("the connection to the replica was lost"))
        else:
            self._transport.write(b"".join([*lines, body]))
        return exchange

    def close(self) -> None:
        """Closes the connection; the replica stops what it does for it."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Holds the replica up."""
        if self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Lets the replica go on."""
        if self._transport is not None and self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._exchange is not None:
            why = f": {error}" if error else ""
            self._exchange.fail(ReplicaUnreachable(f"the replica ended the connection{why}"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._exchange is not None:
                self._exchange.fail(ReplicaUnreachable(f"the replica does not speak HTTP: {error}"))
            self.close()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._is_informational = status < 200
        if self._exchange is None or self._is_informational:
            return
        self._exchange.head_is_there(status, self._headers)
        if not self._exchange.has_body:
            # The parser would wait for the body that such an answer only announces.
            self._exchange.end(reusable=False)

    def on_body(self, chunk: bytes) -> None:
        if self._exchange is not None and self._exchange.has_body:
            self._exchange.feed(chunk)

    def on_message_complete(self) -> None:
        if self._exchange is not None and not self._is_informational:
            exchange, self._exchange = self._exchange, None
            exchange.end(reusable=self._parser.should_keep_alive())
