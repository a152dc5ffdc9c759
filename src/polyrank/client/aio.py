"""The client for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect

from polyrank.client import connection
from polyrank.client.flows import Flows, Ticket
from polyrank.client.handles import AsyncRequestHandle
from polyrank.client.options import ATTEMPTS, TIMEOUT_S, make_flows
from polyrank.client.parts import Part
from polyrank.client.realtime import (
    OPEN_TIMEOUT_S,
    TOKEN_S,
    AsyncRealtimeConnection,
    Codec,
    Decode,
    Encode,
)
from polyrank.client.steps import (
    Answer,
    Deadline,
    Done,
    Emit,
    Emitting,
    Flow,
    Lost,
    Open,
    Pause,
    Read,
    Request,
    Send,
    Step,
    Together,
)

P = ParamSpec("P")
T = TypeVar("T")


def _returns(
    flow: Callable[Concatenate[Flows, P], Flow[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """The method that drives a flow to its end."""

    @functools.wraps(flow)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(flow(self._flows, *args, **kwargs))

    return method


def _submits(
    flow: Callable[Concatenate[Flows, P], Flow[Ticket]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, AsyncRequestHandle]]:
    """The method that gives a handle of what a flow submits."""

    @functools.wraps(flow)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncRequestHandle:
        ticket = await self._run(flow(self._flows, *args, **kwargs))
        return AsyncRequestHandle(**vars(ticket), client=self)

    return method


def _yields(
    flow: Callable[Concatenate[Flows, P], Emitting[T]],
) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    """The method that gives a flow's values one by one."""

    @functools.wraps(flow)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self._values(flow(self._flows, *args, **kwargs))

    return method


class AsyncClient:
    """Calls the apps of a server.

    ``server`` and ``key`` are those of the environment and of the profile in use unless given. It
    connects when it is first used, and anew in each event loop.
    """

    def __init__(
        self,
        key: str | None = None,
        default_timeout: float = TIMEOUT_S,
        *,
        server: str | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.key = key
        self.default_timeout = default_timeout
        self._server = server
        self._attempts = attempts
        self._opened: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient]
        self._opened = weakref.WeakKeyDictionary()

    run = _returns(Flows.run)
    submit = _submits(Flows.submit)
    subscribe = _returns(Flows.subscribe)
    stream = _yields(Flows.stream)
    status = _returns(Flows.status)
    result = _returns(Flows.result)
    cancel = _returns(Flows.cancel)
    iter_events = _yields(Flows.iter_events)
    upload = _returns(Flows.upload)
    upload_file = _returns(Flows.upload_file)
    upload_image = _returns(Flows.upload_image)

    def get_handle(self, application: str, request_id: str) -> AsyncRequestHandle:
        """The handle of a request that was submitted before, by anyone."""
        return AsyncRequestHandle(**vars(self._flows.ticket(application, request_id)), client=self)

    @contextlib.asynccontextmanager
    async def realtime(
        self,
        application: str,
        *,
        use_jwt: bool = False,
        path: str = "/realtime",
        max_buffering: int | None = None,
        token_expiration: int = TOKEN_S,
        encode_message: Encode | None = None,
        decode_message: Decode | None = None,
    ) -> AsyncIterator[AsyncRealtimeConnection]:
        """A session with a realtime endpoint; it ends with the block.

        ``use_jwt`` sends a short-lived token in the URL in place of the key in a header.
        """
        async with self.ws_connect(
            application,
            use_jwt=use_jwt,
            path=path,
            max_buffering=max_buffering,
            token_expiration=token_expiration,
        ) as websocket:
            yield AsyncRealtimeConnection(websocket, Codec(encode_message, decode_message))

    @contextlib.asynccontextmanager
    async def ws_connect(
        self,
        application: str,
        *,
        use_jwt: bool = False,
        path: str = "",
        max_buffering: int | None = None,
        token_expiration: int = TOKEN_S,
    ) -> AsyncIterator[ClientConnection]:
        """A plain websocket to an endpoint of an app; it is closed with the block."""
        address = await self._run(
            self._flows.websocket(
                application,
                path=path,
                use_jwt=use_jwt,
                max_buffering=max_buffering,
                token_expiration=token_expiration,
            )
        )
        async with connect(
            address.url,
            additional_headers=address.headers,
            user_agent_header=None,
            open_timeout=OPEN_TIMEOUT_S,
            max_size=None,
            proxy=None if self._flows.endpoints.is_loopback else True,
        ) as websocket:
            yield websocket

    async def close(self) -> None:
        """Closes the connections of this event loop; the next call opens new ones."""
        opened = self._opened.pop(asyncio.get_running_loop(), None)
        if opened is not None:
            await opened.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @functools.cached_property
    def _flows(self) -> Flows:
        return make_flows(self._server, self.key, self.default_timeout, self._attempts)

    def _http(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._opened:
            self._opened[loop] = httpx.AsyncClient(**connection.options(self._flows.endpoints))
        return self._opened[loop]

    async def _run(self, flow: Flow[T]) -> T:
        with contextlib.closing(flow):
            async with _Exchange(self) as exchange:
                while isinstance(step := await _advance(flow, exchange), Emit):
                    pass
                return step.value

    async def _values(self, flow: Emitting[T]) -> AsyncIterator[T]:
        with contextlib.closing(flow):
            async with _Exchange(self) as exchange:
                while isinstance(step := await _advance(flow, exchange), Emit):
                    yield step.value


async def _advance(
    flow: Generator[Step | Emit[Any], Any, T], exchange: _Exchange
) -> Emit[Any] | Done[T]:
    """Drives a flow to its next value, or to its end."""
    try:
        step = next(flow)
        while not isinstance(step, Emit):
            try:
                reply = await exchange.perform(step)
            except Lost as lost:
                step = flow.throw(lost)
            else:
                step = flow.send(reply)
        return step
    except StopIteration as end:
        return Done(end.value)


class _Exchange:
    """Performs the steps of one flow; holds the one stream that may be open."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._http = client._http()
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._deadline = Deadline()

    async def __aenter__(self) -> _Exchange:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def perform(self, step: Step) -> Any:
        """What comes of a step. Raises Lost."""
        match step:
            case Send(request):
                return await self._send(request)
            case Open(request, deadline):
                return await self._open(request, deadline)
            case Read():
                return await self._read()
            case Pause(seconds):
                return await asyncio.sleep(seconds)
            case Together(flows, limit):
                return await self._together(flows, limit)

    async def _send(self, request: Request) -> Answer:
        try:
            response = await self._http.request(**connection.arguments(request, _chunks))
        except httpx.RequestError as error:
            raise connection.lost(error) from error
        return connection.answer_of(response, response.content)

    async def _open(self, request: Request, deadline: Deadline) -> Answer:
        await self._close()
        built = self._http.build_request(**connection.arguments(request, _chunks))
        try:
            response = self._response = await self._http.send(built, stream=True)
            if not connection.is_stream(response):
                return connection.answer_of(response, await response.aread())
        except httpx.RequestError as error:
            raise connection.lost(error) from error
        self._deadline = deadline
        self._chunks = response.aiter_bytes()
        return connection.answer_of(response)

    async def _read(self) -> bytes:
        assert self._chunks is not None, "Open comes before Read"
        at = self._deadline.at
        try:
            async with asyncio.timeout(None if at is None else max(0.0, at - time.monotonic())):
                return await anext(self._chunks, b"")
        except TimeoutError as error:
            raise Lost("no answer in time", is_sent=True, is_late=True) from error
        except httpx.RequestError as error:
            raise connection.lost(error) from error

    async def _together(self, flows: Any, limit: int) -> list[Any]:
        room = asyncio.Semaphore(limit)

        async def run(flow: Flow[T]) -> T:
            async with room:
                return await self._client._run(flow)

        running = [asyncio.ensure_future(run(flow)) for flow in flows]
        try:
            return await asyncio.gather(*running)
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _close(self) -> None:
        if self._response is not None:
            await self._response.aclose()
        self._response = self._chunks = None


async def _chunks(part: Part) -> AsyncIterator[bytes]:
    chunks = part.chunks()
    while chunk := await asyncio.to_thread(next, chunks, b""):
        yield chunk
