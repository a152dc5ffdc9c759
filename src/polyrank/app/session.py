"""One realtime session: a caller's websocket from accept to close, and the work behind it.

Three tasks share it: one listens, and so sees at once that the caller has gone; one works; one
delivers what is done, so that the next call need not wait for a slow line.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from anyio import to_thread

from polyrank.app.codec import Codec, Frame
from polyrank.app.realtime import Mode, RealtimeEndpoint, shape_of
from polyrank.errors import InvalidInput

log = logging.getLogger("polyrank.app")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Inputs that may wait where none is to be dropped, and bytes of them; then the caller is held up.
READ_AHEAD = 64
READ_AHEAD_BYTES = 64 * 2**20
# What callers may ask for in ``?max_buffering=``.
LEAST_BUFFERING, MOST_BUFFERING = 1, 60
NORMAL = 1000
END_OF_INPUTS = {"type": "x-fal-message", "action": "end"}
_NOTHING: Any = object()


class RealtimeRoute:
    """The ASGI application of one realtime endpoint.

    ``describe`` makes HTTP status and body of an exception, as the app's other endpoints do.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        endpoint: RealtimeEndpoint,
        describe: Callable[[Exception], tuple[int, dict[str, Any]]],
    ) -> None:
        self.method = method
        self.endpoint = endpoint
        self.describe = describe
        self.shape = shape_of(method, endpoint)
        self.codec = Codec(endpoint, self.shape)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Holds one session. Raises InvalidInput, before it is accepted, for a bad query."""
        newest = _newest(self.endpoint.buffering, scope["query_string"].decode("latin-1"))
        inputs = Inputs(newest=newest, timeout_s=self.endpoint.session_timeout)
        await receive()  # websocket.connect
        await Session(self, inputs, receive, send).run()


def _newest(buffering: int | None, query: str) -> int | None:
    """How many inputs may wait: as many as both the endpoint and the caller allow."""
    asked = parse_qs(query).get("max_buffering")
    if asked is None:
        return buffering
    if not asked[-1].isdecimal() or not LEAST_BUFFERING <= int(asked[-1]) <= MOST_BUFFERING:
        raise InvalidInput(
            f"max_buffering is {LEAST_BUFFERING} to {MOST_BUFFERING}, not {asked[-1]!r}"
        )
    return min(int(asked[-1]), buffering or MOST_BUFFERING)


class Inputs:
    """What has come in and waits for the work: inputs, and in their place errors of bad ones.

    With ``newest``, that many stay and the oldest is dropped; else the giver waits for room.
    """

    def __init__(self, *, newest: int | None, timeout_s: float | None) -> None:
        self.received = self.dropped = 0
        self.timed_out = False
        self._newest = newest
        self._timeout_s = timeout_s
        self._waiting: deque[tuple[Any, int]] = deque()
        self._waiting_bytes = 0
        self._has_ended = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, value: Any, size: int) -> None:
        """One more, of a message of so many bytes; none is taken after the end."""
        self.received += 1
        if self._newest is not None and len(self._waiting) == self._newest:
            self._pop()
            self.dropped += 1
        while self._is_full() and not self._has_ended:
            self._room.clear()
            await self._room.wait()
        if self._has_ended:
            self.dropped += 1
            return
        self._waiting.append((value, size))
        self._waiting_bytes += size
        self._filled.set()

    def _is_full(self) -> bool:
        if self._newest is not None:
            return False
        return len(self._waiting) >= READ_AHEAD or self._waiting_bytes >= READ_AHEAD_BYTES

    def _pop(self) -> Any:
        value, size = self._waiting.popleft()
        self._waiting_bytes -= size
        return value

    def end(self) -> None:
        """No more will come, or be asked for."""
        self._has_ended = True
        self._filled.set()
        self._room.set()

    async def take(self, size: int = 1) -> list[Any]:
        """The next one and those that may join it, up to ``size``; nothing at the end.

        The end is also that none came within the time limit.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                while not self._waiting and not self._has_ended:
                    self._filled.clear()
                    await self._filled.wait()
        except TimeoutError:
            self.timed_out = True
            self.end()
        batch: list[Any] = []
        while self._waiting and len(batch) < size and _may_join(batch, self._waiting[0][0]):
            batch.append(self._pop())
        self._room.set()
        return batch


def _may_join(batch: list[Any], value: Any) -> bool:
    if not batch:
        return True
    if isinstance(batch[0], Exception) or isinstance(value, Exception):
        return False
    can_batch = getattr(batch[0], "can_batch", None)
    return can_batch is None or bool(can_batch(value, len(batch)))


class Session:
    """One caller, one websocket."""

    def __init__(self, route: RealtimeRoute, inputs: Inputs, receive: Receive, send: Send) -> None:
        self._route = route
        self._inputs = inputs
        self._receive = receive
        self._send = send
        # One is on its way, one is ready: more would only be older when they arrive.
        self._ready: asyncio.Queue[Frame | None] = asyncio.Queue(1)
        self._outputs = 0

    async def run(self) -> None:
        """Accepts, works until the session ends or the caller goes, and closes."""
        await self._send({"type": "websocket.accept"})
        self._listening = asyncio.create_task(self._listen())
        work = asyncio.create_task(self._work())
        how = "was left by the caller"
        try:
            await asyncio.wait({work, self._listening}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                how = "failed" if work.exception() else "ended"
                work.result()
                await self._send({"type": "websocket.close", "code": NORMAL})
            elif not self._listening.cancelled():
                self._listening.result()
        finally:
            self._listening.cancel()
            work.cancel()
            await asyncio.gather(work, self._listening, return_exceptions=True)
            self._log(how)

    def _log(self, how: str) -> None:
        log.info(
            "the realtime session at %s %s: %d inputs, %d dropped, %d outputs",
            self._route.endpoint.path,
            how,
            self._inputs.received,
            self._inputs.dropped,
            self._outputs,
        )

    async def _listen(self) -> None:
        """Takes what the caller sends until they have gone."""
        while (message := await self._receive())["type"] != "websocket.disconnect":
            frame = message.get("bytes")
            frame = message["text"] if frame is None else frame
            if is_end(frame):
                self._inputs.end()
                continue
            try:
                value = self._route.codec.decode(frame)
            except Exception as error:
                value = error  # told in its turn
            await self._inputs.put(value, len(frame))

    async def _work(self) -> None:
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver())
            try:
                await _MODES[self._route.shape.mode](self)
            except Exception as error:
                failure = error
                await self._tell_error(error)
            await self._ready.put(None)
        if failure is not None:
            raise failure

    async def _deliver(self) -> None:
        while (frame := await self._ready.get()) is not None:
            key = "text" if isinstance(frame, str) else "bytes"
            try:
                await self._send({"type": "websocket.send", key: frame})
            except OSError:  # the caller has gone
                self._listening.cancel()
                return

    # --- the four modes ---------------------------------------------------------------------

    async def _answer_each(self) -> None:
        """A call for every input, or batch of them; one that fails is not the last."""
        async for batch in self._batches(self._route.endpoint.max_batch_size):
            begun = time.monotonic()
            try:
                output = await _call(self._route.method, *batch)
                seconds = time.monotonic() - begun
                await self._give(output)
            except Exception as error:
                await self._tell_failure(error)
            else:
                await self._tell_timing(seconds)
        await self._tell_timeout()

    async def _answer_with_a_stream(self) -> None:
        """One call for the first input; it is closed when the caller goes."""
        async for value in self._each_input():
            self._inputs.end()
            return await self._give_all(value)
        await self._tell_timeout()

    async def _answer_a_stream(self) -> None:
        begun = time.monotonic()
        output = await _call(self._route.method, self._each_input())
        seconds = time.monotonic() - begun
        await self._give(output)
        await self._tell_timing(seconds)

    async def _converse(self) -> None:
        await self._give_all(self._each_input())

    async def _each_input(self) -> AsyncIterator[Any]:
        async for batch in self._batches(1):
            yield batch[0]

    async def _batches(self, size: int) -> AsyncIterator[list[Any]]:
        """The good inputs; bad ones are told to the caller."""
        while batch := await self._inputs.take(size):
            if isinstance(batch[0], Exception):
                await self._tell_failure(batch[0])
            else:
                yield batch

    # --- what goes out ----------------------------------------------------------------------

    async def _give(self, output: Any) -> None:
        if output is not None:
            await self._ready.put(self._route.codec.encode(output))
            self._outputs += 1

    async def _give_all(self, value: Any) -> None:
        begun = time.monotonic()
        outputs = await _call(self._route.method, value)
        async with contextlib.aclosing(_each(outputs)) as items:
            async for item in items:
                await self._give(item)
        await self._tell_timing(time.monotonic() - begun)

    async def _tell(self, **fact: Any) -> None:
        await self._ready.put(json.dumps(fact, separators=(",", ":")))

    async def _tell_timing(self, seconds: float) -> None:
        if self._route.endpoint.emit_timings:
            await self._tell(type="x-fal-message", action="timings", timing=seconds)

    async def _tell_timeout(self) -> None:
        if self._inputs.timed_out:
            limit = self._route.endpoint.session_timeout
            reason = f"no input for {limit:g} s; connect again when there is one"
            await self._tell(type="x-fal-error", error="TIMEOUT", reason=reason)

    async def _tell_failure(self, error: Exception) -> None:
        """Tells why there is no output of an input; the session goes on."""
        if self._route.describe(error)[0] >= 500:
            log.error("the realtime endpoint raised", exc_info=error)
        await self._tell_error(error)

    async def _tell_error(self, error: Exception) -> None:
        _, body = self._route.describe(error)
        detail = getattr(error, "problems", body["detail"])
        kind = body["error_type"]
        reason = detail if isinstance(detail, str) else _reason(detail)
        await self._tell(
            type="x-fal-error", error=kind.upper(), reason=reason, detail=detail, error_type=kind
        )


_MODES = {
    Mode.UNARY: Session._answer_each,
    Mode.SERVER_STREAMING: Session._answer_with_a_stream,
    Mode.CLIENT_STREAMING: Session._answer_a_stream,
    Mode.BIDIRECTIONAL: Session._converse,
}


def is_end(frame: Frame) -> bool:
    """Whether a message says that there will be no more inputs."""
    if not isinstance(frame, str) or "x-fal-message" not in frame:
        return False
    try:
        return bool(json.loads(frame) == END_OF_INPUTS)
    except ValueError:
        return False


def _reason(problems: list[dict[str, Any]]) -> str:
    """A list of problems as one line; where they lie is told without the leading "body"."""
    return "; ".join(
        f"{'.'.join(str(part) for part in each['loc'][1:]) or 'input'}: {each['msg']}"
        for each in problems
    )


async def _call(method: Callable[..., Any], *arguments: Any) -> Any:
    """A coroutine's result, a plain function's from a thread, or the stream that it makes."""
    if inspect.iscoroutinefunction(method):
        return await method(*arguments)
    if inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method):
        return method(*arguments)
    return await _in_thread(method, *arguments)


async def _each(outputs: Any) -> AsyncGenerator[Any, None]:
    """The items of any iterator, closed at the end: a plain one's in threads."""
    if hasattr(outputs, "__aiter__"):
        iterator = aiter(outputs)
        try:
            async for item in iterator:
                yield item
        finally:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
    elif hasattr(outputs, "__iter__"):
        plain = iter(outputs)
        try:
            while (item := await _in_thread(next, plain, _NOTHING)) is not _NOTHING:
                yield item
        finally:
            if hasattr(plain, "close"):
                await _in_thread(plain.close)
    else:
        raise TypeError(f"a stream was to be returned, not {type(outputs).__name__}")


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls in a thread, and waits for it even if cancelled: a thread cannot be stopped."""
    work = asyncio.ensure_future(to_thread.run_sync(function, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise
