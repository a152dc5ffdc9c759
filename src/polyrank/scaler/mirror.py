"""A copy of a log that is written on another machine, to be read and followed as one of here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polyrank.scaler.launch.local import SOCKET, Keeping, listen
from polyrank.scaler.segments import segment_name, segments
from polyrank.scaler.watchers import LOG_HAS_GROWN

CHUNK = 1 << 18


@dataclass(frozen=True)
class Piece:
    """Some of a log: where its segment begins, and where in that it does."""

    segment: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The position in the log at which it ends."""
        return self.segment + self.offset + len(self.data)


def pieces(folder: Path, position: int) -> Iterator[Piece]:
    """What the log in ``folder`` has from ``position`` on, as far as it has been kept."""
    for start, path in segments(folder):
        offset = max(0, position - start)
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(offset)
            while data := file.read(CHUNK):
                yield Piece(start, offset, data)
                offset += len(data)


class Mirror:
    """The copy in ``folder``; it tells those who follow the log what a keeper would."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = segments(folder)
        # Where the copy ends.
        self.position = known[-1][0] + known[-1][1].stat().st_size if known else 0
        (folder / SOCKET).unlink(missing_ok=True)  # of a server before us
        self._listening: socket.socket = listen(folder)
        self._listening.setblocking(False)
        self._server: asyncio.Server | None = None
        self._followers: dict[asyncio.StreamWriter, int] = {}

    async def open(self) -> None:
        """Lets followers in."""
        self._server = await asyncio.start_unix_server(self._serve, sock=self._listening)

    def keep(self, piece: Piece) -> None:
        """Adds what comes next, in segments as they are there."""
        with (self._folder / segment_name(piece.segment)).open("ab") as file:
            file.write(piece.data)
        for _, path in segments(self._folder)[: -Keeping.log_files]:
            path.unlink(missing_ok=True)
        self.position = piece.end
        self._tell()

    def close(self) -> None:
        """No more comes; those who follow are told by being hung up on."""
        if self._server is not None:
            self._server.close()
        self._listening.close()
        for writer in self._followers:
            writer.close()
        self._followers.clear()
        (self._folder / SOCKET).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._followers[writer] = self.position
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                command = json.loads(line)
                if command.get("do") == "tell of log":
                    self._followers[writer] = int(command["position"])
                    self._tell()
        self._followers.pop(writer, None)
        writer.close()

    def _tell(self) -> None:
        """Tells those who wait for the log to be longer, once each."""
        for writer, position in list(self._followers.items()):
            if position < self.position:
                self._followers[writer] = self.position
                writer.write(LOG_HAS_GROWN)
