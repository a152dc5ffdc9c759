"""A caller: one keep-alive HTTP connection, written out so that it costs little beside a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Left out of quoted answers: it says where somebody keeps this checkout, and nothing else.
CHECKOUT = str(Path(__file__).parents[2])


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    text: str

    def is_right(self, steps: int) -> bool:
        """Whether it says that all steps were made."""
        try:
            return self.status == 200 and json.loads(self.text) == {"steps": steps}
        except ValueError:
            return False

    def __str__(self) -> str:
        text = " ".join(self.text.replace(CHECKOUT, "…").split())
        return f"{self.status} `{text[:100] + ('…' if len(text) > 100 else '')}`"


class Caller:
    """``async with Caller(port, path)``: connects, posts, hangs up."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, body: Mapping[str, object]) -> Answer:
        """Sends ``body`` and waits for the answer."""
        self.send(body)
        return await self._receive()

    def send(self, body: Mapping[str, object]) -> None:
        """Sends ``body`` and waits for nothing."""
        content = json.dumps(body).encode()
        self._writer.write(
            f"POST {self._path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode()
            + content
        )

    async def _receive(self) -> Answer:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        if "content-length" in headers:
            content = await self._reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            content = await self._chunks()
        else:
            content = await self._reader.read()
        return Answer(int(status.split(" ", 2)[1]), content.decode(errors="replace"))

    async def _chunks(self) -> bytes:
        content = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            content += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)
        return content


def describe(failure: BaseException) -> str:
    """A failed call in words."""
    if isinstance(failure, TimeoutError):
        return "no answer within 1 s"
    if isinstance(failure, ConnectionRefusedError):
        return "connection refused"
    if isinstance(failure, ConnectionResetError | BrokenPipeError):
        return "connection reset, no answer"
    if isinstance(failure, asyncio.IncompleteReadError):
        return "connection closed, no answer"
    return f"{type(failure).__name__}: {failure}"
