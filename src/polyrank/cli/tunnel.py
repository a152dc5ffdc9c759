"""A proxy that leads the reference platform's host names to a polyrank server.

Clients connect to it with ``CONNECT``, as to any proxy for https. It answers for those hosts, with
a certificate that the clients were told to trust, and sends each request on to the server under the
server's own name, so that every URL in the answers leads there without a proxy. Connections to
other hosts are passed through unread.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import urllib.request
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

# Where the hosts of the reference platform are on a polyrank server.
PLACES = {
    "fal.run": "/run",
    "falrun.com": "/run",
    "queue.fal.run": "/queue",
    "queue.falrun.com": "/queue",
    "rest.fal.ai": "",
    "rest.alpha.fal.ai": "",
    "v3.fal.media": "",
    "kv.fal.media": "/kv",
}
HEAD_BYTES = 2**18
CHUNK_BYTES = 2**16
CONNECT_S = 10.0
END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True)
class Server:
    """The address of the server that requests are for."""

    url: str

    @property
    def host(self) -> str:
        """Its host name."""
        return urlsplit(self.url).hostname or ""

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """A connection to it. Raises OSError."""
        parts = urlsplit(self.url)
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        return await _connect(self.host, port, ssl.create_default_context() if is_tls else None)

    def readdressed(self, head: bytes, place: str) -> bytes:
        """A request's head as it would be had the client known the server.

        One connection carries one request, so that no more than its head has to be understood.
        """
        first, *lines = head.removesuffix(END_OF_HEAD).split(b"\r\n")
        method, target, version = first.split(b" ")
        parts = urlsplit(self.url)
        kept = [line for line in lines if _name(line) != b"host"]
        if not any(_name(line) == b"upgrade" for line in kept):
            kept = [line for line in kept if _name(line) not in (b"connection", b"keep-alive")]
            kept.append(b"Connection: close")
        path = (parts.path.rstrip("/") + place).encode() + target
        first = b" ".join([method, path, version])
        return b"\r\n".join([first, b"Host: " + parts.netloc.encode(), *kept]) + END_OF_HEAD


class Tunnel:
    """The proxy. ``certificate`` is one for the hosts in PLACES, with its key, as a PEM file."""

    def __init__(self, server: Server, certificate: str) -> None:
        self._server = server
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(certificate)
        self._tls.set_alpn_protocols(["http/1.1"])
        self._proxy = urllib.request.getproxies_environment().get("https")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serves inside the block, at the URL that it gives."""
        tasks: set[asyncio.Task[None]] = set()

        def on_connection(reader: StreamReader, writer: StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        listening = await asyncio.start_server(on_connection, "127.0.0.1", 0, limit=HEAD_BYTES)
        try:
            yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        finally:
            listening.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One connection, whatever it is for."""
        with contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            async with _closing(writer):
                head = await reader.readuntil(END_OF_HEAD)
                method, target, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ")
                host, _, port = target.rpartition(":")
                if method != "CONNECT" or not port.isdecimal():
                    writer.write(_refusal(405, "this proxy takes CONNECT only"))
                elif port == "443" and host in PLACES:
                    await self._intercept(reader, writer, PLACES[host])
                else:
                    await self._pass(reader, writer, host, int(port))

    async def _intercept(self, reader: StreamReader, writer: StreamWriter, place: str) -> None:
        """A request for the server."""
        writer.write(b"HTTP/1.1 200 Connection established" + END_OF_HEAD)
        await writer.start_tls(self._tls)
        head = await reader.readuntil(END_OF_HEAD)
        try:
            there = await self._server.connect()
        except OSError as error:
            writer.write(_refusal(502, f"nobody answers at {self._server.url}: {error}"))
            return
        async with _closing(there[1]):
            there[1].write(self._server.readdressed(head, place))
            await _relay((reader, writer), there)

    async def _pass(self, reader: StreamReader, writer: StreamWriter, host: str, port: int) -> None:
        """A connection to elsewhere, by way of the proxy that the environment names, if any."""
        try:
            there = await self._reach(host.strip("[]"), port)
        except OSError as error:
            writer.write(_refusal(502, f"{host} cannot be reached: {error}"))
            return
        async with _closing(there[1]):
            writer.write(b"HTTP/1.1 200 Connection established" + END_OF_HEAD)
            await _relay((reader, writer), there)

    async def _reach(self, host: str, port: int) -> tuple[StreamReader, StreamWriter]:
        if self._proxy is None or urllib.request.proxy_bypass(host):
            return await _connect(host, port)
        proxy = urlsplit(self._proxy if "://" in self._proxy else f"http://{self._proxy}")
        if proxy.scheme not in ("http", "https"):
            raise ConnectionError(f"polyrank exec knows no way through a {proxy.scheme} proxy")
        tls = ssl.create_default_context() if proxy.scheme == "https" else None
        reader, writer = await _connect(
            proxy.hostname or "", proxy.port or (443 if tls else 80), tls
        )
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if proxy.username is not None:
            user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}")
        writer.write("\r\n".join(lines).encode() + END_OF_HEAD)
        head = await reader.readuntil(END_OF_HEAD)
        if head.split(b" ", 2)[1] != b"200":
            writer.close()
            raise ConnectionError(f"the proxy at {proxy.hostname} refuses: {head[:100]!r}")
        return reader, writer


async def _connect(
    host: str, port: int, tls: ssl.SSLContext | None = None
) -> tuple[StreamReader, StreamWriter]:
    async with asyncio.timeout(CONNECT_S):  # a TimeoutError is an OSError
        return await asyncio.open_connection(host, port, ssl=tls, limit=HEAD_BYTES)


async def _relay(
    here: tuple[StreamReader, StreamWriter], there: tuple[StreamReader, StreamWriter]
) -> None:
    """Carries bytes both ways until either side has ended; then so has the other."""
    copying = [
        asyncio.ensure_future(_copy(here[0], there[1])),
        asyncio.ensure_future(_copy(there[0], here[1])),
    ]
    try:
        await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in copying:
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()


@contextlib.asynccontextmanager
async def _closing(writer: StreamWriter) -> AsyncIterator[None]:
    try:
        yield
        with contextlib.suppress(OSError):
            await writer.drain()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _refusal(status: int, detail: str) -> bytes:
    body = json.dumps({"detail": detail, "error_type": "server_unreachable"}).encode()
    head = f"HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def _name(line: bytes) -> bytes:
    return line.partition(b":")[0].strip().lower()
