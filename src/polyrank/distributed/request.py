"""One request on its way through a runner, as its caller sees it."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from polyrank import logs
from polyrank.distributed import values
from polyrank.distributed.wire import Buffer


class Request:
    """A payload, its events and its outcome.

    The group that runs it calls ``add_event``, ``succeed`` and ``fail``; the caller reads
    ``next_event`` and awaits ``outcome``.
    """

    def __init__(
        self,
        payload: Any,
        *,
        streaming: bool = False,
        text_events: bool = False,
        request_id: str | None = None,
    ) -> None:
        self.request_id = request_id or logs.request_id.get() or uuid.uuid4().hex
        self.streaming = streaming
        self.text_events = text_events
        self.header, self.buffers = values.encode(payload)
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.abandoned = False
        self.on_consumed: Callable[[int], None] | None = None
        self._events: deque[Any] = deque()
        self._consumed = 0
        self._arrival: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self.outcome.done()

    def keep_payload(self) -> None:
        """The request has to wait: from now on its payload is its own."""
        self.buffers = [bytes(buffer) for buffer in self.buffers]

    def take_buffers(self) -> tuple[bytes, list[Buffer]]:
        """The encoded payload."""
        return self.header, self.buffers

    def add_event(self, event: Any) -> None:
        """An event has arrived."""
        if not self.abandoned:
            self._events.append(event)
            self._wake()

    def succeed(self, result: Any) -> None:
        """The request has its result."""
        if not self.done:
            self.outcome.set_result(result)
            self._wake()

    def fail(self, error: BaseException) -> None:
        """The request has failed."""
        if not self.done:
            self.outcome.set_exception(error)
            self.outcome.exception()  # an abandoned request's error is nobody's
            self._wake()

    def abandon(self) -> None:
        """The caller has gone; nothing more is delivered."""
        self.abandoned = True
        self._events.clear()
        self.outcome.cancel()

    async def next_event(self) -> tuple[bool, Any]:
        """``(True, event)``, or ``(False, None)`` once the outcome is known and events are out."""
        while not self._events:
            if self.done:
                return False, None
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        event = self._events.popleft()
        self._consumed += 1
        if self.on_consumed is not None:
            self.on_consumed(self._consumed)
        return True, event

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
