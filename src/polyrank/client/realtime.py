"""Realtime sessions: one msgpack message for each input and each result."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.sync.client import ClientConnection as SyncClientConnection

from polyrank.client import objects
from polyrank.client.errors import RealtimeError

Encode: TypeAlias = Callable[[Any], bytes]
Decode: TypeAlias = Callable[[bytes], Any]

OPEN_TIMEOUT_S = 90.0
# How long a token opens sessions.
TOKEN_S = 120
# What tells an endpoint that takes a stream that it is over.
END_OF_INPUTS = '{"type":"x-fal-message","action":"end"}'


@dataclass(frozen=True)
class Codec:
    """How inputs are written and results are read; msgpack unless told otherwise."""

    encode_message: Encode | None = None
    decode_message: Decode | None = None

    def encode(self, arguments: Mapping[str, Any]) -> bytes:
        """One input."""
        return (self.encode_message or msgspec.msgpack.encode)(arguments)

    def decode(self, message: str | bytes) -> Any:
        """One result; None for a message about the session itself. Raises RealtimeError."""
        if isinstance(message, bytes):
            if self.decode_message is not None:
                return self.decode_message(message)
            return _as_objects(msgspec.msgpack.decode(message))
        try:
            body = objects.load(message)
        except ValueError:
            return objects.JSONObject(type="text", payload=message)
        if not isinstance(body, dict):
            return objects.JSONObject(payload=body)
        if body.get("type") == "x-fal-message":
            return None
        if body.get("type") == "x-fal-error" or body.get("status") == "error":
            raise RealtimeError(str(body.get("error", "UNKNOWN")), body.get("reason"), body)
        return body


class RealtimeConnection:
    """A session with a realtime endpoint, for blocking code."""

    def __init__(self, websocket: SyncClientConnection, codec: Codec) -> None:
        self._websocket = websocket
        self._codec = codec

    def send(self, arguments: Mapping[str, Any]) -> None:
        """Sends an input. Raises RealtimeError if the session has ended."""
        try:
            self._websocket.send(self._codec.encode(arguments))
        except ConnectionClosed as closed:
            raise _ended(closed) from closed

    def end(self) -> None:
        """Says that no more inputs will come; results still do. Raises RealtimeError."""
        try:
            self._websocket.send(END_OF_INPUTS)
        except ConnectionClosed as closed:
            raise _ended(closed) from closed

    def recv(self) -> Any:
        """The next result; None when the session has ended. Raises RealtimeError."""
        while True:
            try:
                message = self._websocket.recv()
            except ConnectionClosedOK:
                return None
            except ConnectionClosed as closed:
                raise _ended(closed) from closed
            if (result := self._codec.decode(message)) is not None:
                return result

    def close(self) -> None:
        """Ends the session."""
        self._websocket.close()

    def __iter__(self) -> Iterator[Any]:
        while (result := self.recv()) is not None:
            yield result


class AsyncRealtimeConnection:
    """A session with a realtime endpoint."""

    def __init__(self, websocket: ClientConnection, codec: Codec) -> None:
        self._websocket = websocket
        self._codec = codec

    async def send(self, arguments: Mapping[str, Any]) -> None:
        """Sends an input. Raises RealtimeError if the session has ended."""
        try:
            await self._websocket.send(self._codec.encode(arguments))
        except ConnectionClosed as closed:
            raise _ended(closed) from closed

    async def end(self) -> None:
        """Says that no more inputs will come; results still do. Raises RealtimeError."""
        try:
            await self._websocket.send(END_OF_INPUTS)
        except ConnectionClosed as closed:
            raise _ended(closed) from closed

    async def recv(self) -> Any:
        """The next result; None when the session has ended. Raises RealtimeError."""
        while True:
            try:
                message = await self._websocket.recv()
            except ConnectionClosedOK:
                return None
            except ConnectionClosed as closed:
                raise _ended(closed) from closed
            if (result := self._codec.decode(message)) is not None:
                return result

    async def close(self) -> None:
        """Ends the session."""
        await self._websocket.close()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (result := await self.recv()) is not None:
            yield result


def _as_objects(value: Any) -> Any:
    if isinstance(value, dict):
        return objects.JSONObject({name: _as_objects(each) for name, each in value.items()})
    if isinstance(value, list):
        return [_as_objects(each) for each in value]
    return value


def _ended(closed: ConnectionClosed) -> RealtimeError:
    return RealtimeError("CONNECTION_CLOSED", str(closed))
