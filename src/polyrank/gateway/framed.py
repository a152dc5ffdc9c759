"""Calls over one websocket: each text message is the input of a call, and its answer comes framed.

``{"type": "start", "request_id", "status", "headers"}`` as text, the answer's body as binary
messages as it is made, then ``{"type": "end", "request_id"}``. An older way of the reference
platform's SDK (``wss://ws.…``) to call an app many times without a new connection for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyrank.errors import PolyrankError
from polyrank.gateway.answers import error_answer
from polyrank.gateway.callers import Caller

log = logging.getLogger("polyrank.gateway")

# Inputs that may wait for the call before them; whoever sends more is held up.
READ_AHEAD = 16
BROKEN_OFF = 1011
# Of the handshake's headers, those that are not of the calls.
OF_THE_SOCKET = (
    *(b"sec-websocket-", b"connection", b"upgrade", b"content-"),
    *(b"x-fal-request-id", b"idempotency-key"),
)


class FramedCalls:
    """The ASGI application of such websockets; ``run`` is that of single calls over HTTP.

    ``count`` counts a call of a caller, and raises a PolyrankError if it is one too many.
    """

    def __init__(self, run: ASGIApp, count: Callable[[Caller], None]) -> None:
        self._run = run
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one call after the other; a caller who goes away ends the one that runs."""
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        inputs: asyncio.Queue[bytes] = asyncio.Queue(READ_AHEAD)
        listening = asyncio.create_task(_listen(receive, inputs))
        answering = asyncio.create_task(self._answer_all(scope, inputs, send))
        try:
            await asyncio.wait({listening, answering}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            listening.cancel()
            answering.cancel()
            await asyncio.gather(listening, answering, return_exceptions=True)

    async def _answer_all(self, scope: Scope, inputs: asyncio.Queue[bytes], send: Send) -> None:
        try:
            while True:
                await self._answer(scope, _Body(await inputs.get()), _Answer(send))
        except PolyrankError as error:  # in the midst of an answer: what came is not all of it
            log.warning("%s: %s", scope["path"], error)
            reason = error.message.encode()[:123].decode(errors="ignore")
            with contextlib.suppress(OSError):
                await send({"type": "websocket.close", "code": BROKEN_OFF, "reason": reason})
        except OSError:
            pass  # the caller has gone

    async def _answer(self, scope: Scope, body: _Body, answer: _Answer) -> None:
        call = _call_scope(scope, answer.request_id)
        try:
            self._count(scope["state"]["caller"])
        except PolyrankError as error:
            await error_answer(error, answer.request_id)(call, body.receive, answer.send)
        else:
            await self._run(call, body.receive, answer.send)


async def _listen(receive: Receive, inputs: asyncio.Queue[bytes]) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        await inputs.put(message["bytes"] if text is None else text.encode())


def _call_scope(scope: Scope, request_id: str) -> dict[str, Any]:
    """What the websocket's handshake is as a call over HTTP."""
    headers = [header for header in scope["headers"] if not header[0].startswith(OF_THE_SOCKET)]
    headers.append((b"content-type", b"application/json"))
    headers.append((b"x-fal-request-id", request_id.encode()))
    scheme = {"ws": "http", "wss": "https"}[scope["scheme"]]
    return {**scope, "type": "http", "method": "POST", "scheme": scheme, "headers": headers}


class _Body:
    """A call's input as its body. That the caller goes away is seen by whoever listens."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def receive(self) -> Message:
        """The body; then nothing more, ever."""
        if self._body is None:
            await asyncio.Event().wait()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Answer:
    """A call's answer on its way into the websocket."""

    def __init__(self, send: Send) -> None:
        self.request_id = str(uuid.uuid4())
        self._send = send

    async def send(self, message: Message) -> None:
        """Passes on a message of the answer over HTTP."""
        if message["type"] == "http.response.start":
            headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in message["headers"]}
            return await self._tell("start", status=message["status"], headers=headers)
        if message.get("body"):
            await self._send({"type": "websocket.send", "bytes": bytes(message["body"])})
        if not message.get("more_body"):
            await self._tell("end")

    async def _tell(self, kind: str, **more: Any) -> None:
        text = json.dumps({"type": kind, "request_id": self.request_id, **more})
        await self._send({"type": "websocket.send", "text": text})
