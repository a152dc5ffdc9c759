"""The runner's socket: one ROUTER, one owner, every frame handed to the group it belongs to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import zmq

from polyrank.distributed import wire
from polyrank.distributed.guard import Guard

F = TypeVar("F")

log = logging.getLogger("polyrank.distributed")


class Router(Generic[F]):
    """Sends frames to ranks by identity and calls the handler of whoever sent one.

    Driven by the socket's descriptor: nothing polls and no task runs while nothing arrives. A
    ``guard`` decides who may connect.
    """

    def __init__(
        self,
        address: str,
        decode: Callable[[Sequence[wire.Buffer]], tuple[F, Sequence[wire.Buffer]]],
        guard: Guard | None = None,
    ) -> None:
        self._decode = decode
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # credits bound what is under way
        self._socket.setsockopt(zmq.SNDHWM, 0)  # what is not sent yet must not be lost
        if guard is not None:
            guard.protect(self._context, self._socket)
        self._socket.bind(address)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._handlers: dict[bytes, Callable[[F, list[bytes]], None]] = {}
        self._fd: int = self._socket.FD
        self._loop.add_reader(self._fd, self._drain)

    def register(self, identity: bytes, handler: Callable[[F, list[bytes]], None]) -> None:
        """From now on frames of ``identity`` go to ``handler``."""
        self._handlers[identity] = handler

    def forget(self, identity: bytes) -> None:
        """Frames of ``identity`` are dropped from now on."""
        self._handlers.pop(identity, None)

    def send(self, identity: bytes, frame: wire.Frame, inline: Sequence[wire.Buffer] = ()) -> bool:
        """Sends without waiting; false if the rank is not connected (any more)."""
        try:
            self._socket.send_multipart([identity, *wire.encode(frame, inline)], zmq.NOBLOCK)
        except zmq.ZMQError:  # EHOSTUNREACH: gone, which its pidfd tells the group
            return False
        # The descriptor is edge-triggered: sending may have swallowed the edge of an arrival.
        if int(self._socket.EVENTS) & zmq.POLLIN:
            self._loop.call_soon(self._drain)
        return True

    def close(self) -> None:
        """Closes the socket at once."""
        self._loop.remove_reader(self._fd)
        self._handlers.clear()
        self._socket.close()
        if self._guard is not None:
            self._guard.close()
        self._context.term()

    def _drain(self) -> None:
        if self._socket.closed:
            return
        while True:
            try:
                identity, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if (handler := self._handlers.get(identity)) is None:
                continue
            try:
                frame, inline = self._decode(parts)
                handler(frame, list(inline))  # type: ignore[arg-type]
            except Exception:
                # What came with it is of other ranks, and nothing would have it read.
                log.exception("a frame of rank %s could not be handled", identity.decode())
