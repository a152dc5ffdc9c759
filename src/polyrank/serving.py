"""uvicorn as a part of a program: it wakes for nothing, and answers in one piece."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from polyrank.errors import PolyrankError
from polyrank.settings import ActivationSettings, WebSocketSettings

KEEP_ALIVE_S = 300
# As systemd counts them.
FIRST_GIVEN_FD = 3
BACKLOG = 2048
MOST_GATHERED = 16 * 1024
# Pings find callers who fell silent; their answers may stand behind messages that a busy app has
# not taken yet, hence the long wait.
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 120.0


def keep_what_is_loaded() -> None:
    """Has the garbage collector look no more at what there is now: modules, mostly.

    A full collection goes through 120,000 objects of imported modules otherwise, and holds up
    every request for 30 to 80 ms, several times a second under load.
    """
    gc.collect()
    gc.freeze()


class AddressTaken(PolyrankError):
    """The address to listen on cannot be had."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 picks a free one. Raises AddressTaken.

    If systemd has opened one for us, it is that one, wherever it listens: it stays open when we
    restart, and whoever connects meanwhile waits instead of being refused.
    """
    if (given := _given_socket()) is not None:
        return given
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise AddressTaken(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "another --port may be free, 0 picks one"
        ) from error


def _given_socket() -> socket.socket | None:
    settings = ActivationSettings()
    if settings.fds < 1 or settings.pid != os.getpid():
        return None
    try:
        given = socket.socket(fileno=FIRST_GIVEN_FD)
        is_fit = given.family in (socket.AF_INET, socket.AF_INET6) and given.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        )
    except OSError as error:
        raise AddressTaken(f"systemd has passed no socket: {error}") from error
    if not is_fit or settings.fds > 1:
        raise AddressTaken("the socket unit has to have one ListenStream=, an address and a port")
    given.set_inheritable(False)
    return given


def base_url(listening: socket.socket, *, is_tls: bool = False) -> str:
    """The URL under which this machine reaches a socket that listens."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def websocket_options(*, ping_timeout_s: float | None) -> dict[str, Any]:
    """What a uvicorn that serves websockets is configured with.

    With no ``ping_timeout_s``, a caller who does not answer is waited for. Nothing is compressed:
    pictures and sound are already.
    """
    return {
        "ws": "websockets-sansio",
        "ws_max_size": WebSocketSettings().max_bytes,
        "ws_ping_interval": PING_INTERVAL_S,
        "ws_ping_timeout": ping_timeout_s,
        "ws_per_message_deflate": False,
    }


class GatheringTransport:
    """A transport that sends what is written in one turn of the event loop in one piece.

    uvicorn writes the head of an answer and its body apart: twice the system calls, and twice the
    wake-ups of whoever reads them.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends ``data`` at the end of this turn, or at once if there is much of it: who writes
        and writes without a pause must come to know that the reader does not keep up."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > MOST_GATHERED:
            self._flush()

    def close(self) -> None:
        """Closes the connection once everything is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()
            self._size = 0


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol over such a transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection is there."""
        super().connection_made(GatheringTransport(transport, self.loop))  # type: ignore[arg-type]


class Serving(uvicorn.Server):
    """An application being served; ``end`` is what signals are for in uvicorn itself."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    async def main_loop(self) -> None:
        """Waits for the end. uvicorn's own looks ten times a second, and for the Date header."""
        await self._ending.wait()

    def stop_listening(self) -> None:
        """Takes no more connections; those that are there are served on."""
        for server in self.servers:
            server.close()

    def end(self, *, at_once: bool = False) -> None:
        """Takes no more requests; waits for those that run unless ``at_once``."""
        self.force_exit = self.force_exit or at_once
        self.should_exit = True
        self._ending.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the program."""
        yield


@contextlib.asynccontextmanager
async def serving(
    api: ASGIApp,
    listening: socket.socket,
    *,
    grace_s: float,
    certificate: Path | None = None,
) -> AsyncIterator[Serving]:
    """Serves ``api`` inside the block; requests get ``grace_s`` at its end.

    ``certificate`` is a file with a certificate and its key: with it, this speaks TLS.
    """
    keep_what_is_loaded()
    config = uvicorn.Config(
        api,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        http=HttpProtocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        ssl_certfile=certificate,
        **websocket_options(ping_timeout_s=PING_TIMEOUT_S),
    )
    server = Serving(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield server
    finally:
        server.end()
        await task
