"""A replica as the gateway sees it: an address, and how many requests it takes at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp

from polyrank.errors import ReplicaUnreachable

# Of one connection to the next hop only, or made anew by it.
HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding "
    "upgrade host content-length accept-encoding date server".split()
)


def forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that a proxy passes on."""
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


@dataclass
class UpstreamAnswer:
    """A replica's answer as it comes in."""

    status: int
    headers: dict[str, str]
    response: aiohttp.ClientResponse

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it arrives. Raises ReplicaUnreachable if the connection breaks off."""
        try:
            async for chunk in self.response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, ConnectionError) as error:
            raise ReplicaUnreachable(f"the replica's answer broke off: {error}") from error

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])


class Replica:
    """One running app behind HTTP. ``slots`` counts the requests that it still takes.

    It has an address from ``is_at`` to ``is_gone``; calls in between wait for the next one.
    """

    def __init__(self, app: str, *, slots: int = 1) -> None:
        self.app = app
        self.slots = asyncio.Semaphore(slots)
        self._address = ""
        self._ready = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None

    def is_at(self, address: str) -> None:
        """The replica answers at ``address`` from now on."""
        self._address = address
        self._ready.set()

    @property
    def is_ready(self) -> bool:
        """Whether there is a replica to call now."""
        return self._ready.is_set()

    def is_gone(self) -> None:
        """The replica has ended."""
        self._ready.clear()

    async def open(self) -> None:
        """Opens the pool of connections; needs the event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, connect=10),
            auto_decompress=False,
            # A redirect of the app is the caller's to follow.
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def call(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[UpstreamAnswer]:
        """Sends a request. Leaving the block early closes the connection, which the replica takes
        for a hang-up: it stops the work. Raises ReplicaUnreachable if there is no answer."""
        response = await self._send(method, path, forwarded(headers), body)
        try:
            yield UpstreamAnswer(response.status, dict(response.headers), response)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        assert self._session is not None, "open() comes first"
        while True:
            await self._ready.wait()
            address = self._address
            try:
                return await self._session.request(
                    method, address + path, headers=headers, data=body, allow_redirects=False
                )
            except aiohttp.ClientConnectorError:
                # Nobody is there, and nothing was sent: the request is for the next one.
                if address == self._address:
                    self.is_gone()
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                raise ReplicaUnreachable(
                    f"the replica of {self.app} did not answer: {error}"
                ) from error
