"""Tells the server that the log of a request is whole."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyrank.app.output import Reporter
from polyrank.reports import QUEUED_HEADER, End


class EndReports:
    """ASGI wrapper: reports the end of each queued request, behind the lines of its log.

    Answer and log reach the server on two ways. A queued request's log is kept with its answer, so
    the server has to know when it has all of it.
    """

    def __init__(self, inner: ASGIApp, reporter: Reporter) -> None:
        self._inner = inner
        self._reporter = reporter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        headers = dict(scope.get("headers", ()))
        if scope["type"] != "http" or QUEUED_HEADER not in headers:
            return await self._inner(scope, receive, send)
        end = End(headers.get(b"x-fal-request-id", b"").decode("latin-1"))
        is_told = False

        async def send_told(message: Message) -> None:
            nonlocal is_told
            if message["type"] == "http.response.body" and not message.get("more_body"):
                is_told = True
                self._reporter.send(end)
            await send(message)

        try:
            await self._inner(scope, receive, send_told)
        finally:
            if not is_told:
                self._reporter.send(end)
