"""A stream of server-sent events, opened again where it broke off."""

from __future__ import annotations

import collections
from dataclasses import replace

from polyrank.client.errors import ClientError
from polyrank.client.retries import attempt, unreachable
from polyrank.client.sse import Decoder, Event
from polyrank.client.steps import Deadline, DeadlinePassed, Flow, Lost, Pause, Read, Request

# How long a stream that can be opened again may say nothing before that is done.
SILENCE_S = 60.0
DELAY_S = 0.1


class EventSource:
    """The events that a request is answered with.

    A ``resumable`` one is opened again with ``Last-Event-ID`` when its connection is lost; any
    other may not be asked for twice, and its loss is an error.
    """

    def __init__(
        self, request: Request, attempts: int, deadline: Deadline, *, resumable: bool
    ) -> None:
        self._request = replace(request, timeout_s=SILENCE_S) if resumable else request
        self._attempts = attempts
        self._deadline = deadline
        self._resumable = resumable
        self._decoder = Decoder()
        self._events: collections.deque[Event] = collections.deque()
        self._is_open = False
        self._failures = 0
        self.headers: dict[str, str] = {}

    def next(self) -> Flow[Event | None]:
        """The next event; None at the end of the stream. Raises DeadlinePassed."""
        while not self._events:
            if not self._is_open:
                yield from self._open()
            try:
                chunk: bytes = yield Read()
            except Lost as lost:
                yield from self._close(lost)
                continue
            if not chunk:
                self._is_open = False
                return None
            self._events.extend(self._decoder.feed(chunk))
            self._failures = 0
        return self._events.popleft()

    def _open(self) -> Flow[None]:
        headers = {**self._request.headers, "accept": "text/event-stream"}
        headers["cache-control"] = "no-store"
        if self._decoder.last_id:
            headers["last-event-id"] = self._decoder.last_id
        request = replace(self._request, headers=headers)
        answer = yield from attempt(
            request,
            self._attempts,
            repeatable=self._resumable,
            deadline=self._deadline,
            opening=True,
        )
        kind = answer.checked().headers.get("content-type", "nothing")
        if not kind.startswith("text/event-stream"):
            raise ClientError(
                f"{request.url} answers with {kind}, not with a stream of events: call it with run"
            )
        self.headers = dict(answer.headers)
        self._decoder = Decoder(self._decoder.last_id)
        self._is_open = True

    def _close(self, lost: Lost) -> Flow[None]:
        """Makes ready to open the stream again. Raises ServerUnreachable if that is no use."""
        self._is_open = False
        if self._deadline.has_passed:
            raise DeadlinePassed from lost
        if lost.is_late and self._resumable:
            return  # nothing happened for a while, or the connection is dead: look again
        self._failures += 1
        if not self._resumable or self._failures >= self._attempts:
            raise unreachable(self._request, lost) from lost
        yield Pause(self._deadline.left(DELAY_S * self._failures) or 0.0)
