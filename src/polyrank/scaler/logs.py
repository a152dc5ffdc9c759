"""The logs of replicas, those that run and those that have ended: read back, and followed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from polyrank.scaler.launch.local import LONGEST_LINE, dial
from polyrank.scaler.segments import segments
from polyrank.scaler.watchers import LOG_HAS_GROWN

# How much of the log is read at once.
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a replica's log. ``time``: s since 1970.

    ``stream`` is ``stdout`` or ``stderr``, ``log`` for what was logged, and ``keeper`` for what its
    keeper has to say. ``level`` is that of a log, else the stream in capitals.
    """

    time: float
    stream: str
    level: str
    message: str
    request_id: str | None = None
    rank: int | None = None

    @classmethod
    def read(cls, line: bytes) -> Self | None:
        """The line as it stands in a file; None for one that is not whole."""
        try:
            found = json.loads(line)
            return cls(**{name: found[name] for name in cls.__slots__ if name in found})
        except (ValueError, TypeError):
            return None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, without what is not known."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Wanted:
    """Which lines are wanted: of a time, and with a text in them, whatever its case."""

    since: float | None = None
    until: float | None = None
    search: str = ""

    def fits(self, line: Line) -> bool:
        """Whether it is one of them."""
        if self.since is not None and line.time < self.since:
            return False
        if self.until is not None and line.time > self.until:
            return False
        return self.search.lower() in line.message.lower()


class Logs:
    """The logs below the folder in which a launcher keeps its replicas."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, id: str) -> bool:
        """Whether there is a log of the replica."""
        return id.isalnum() and bool(segments(self._folder / id))

    async def read(
        self,
        id: str,
        *,
        limit: int | None = None,
        since: float | None = None,
        until: float | None = None,
        search: str = "",
        follow: bool = False,
    ) -> AsyncIterator[Line]:
        """The wanted lines, the latest ``limit`` of them; with ``follow``, also those to come,
        until the replica has ended."""
        if not self.has(id):
            return
        folder = self._folder / id
        wanted = Wanted(since, until, search)
        found, position = await asyncio.to_thread(_latest, folder, wanted, limit)
        for line in found:
            yield line
        if not follow:
            return
        async with contextlib.aclosing(_chunks(folder, position)) as chunks:
            async for chunk in chunks:
                for raw in chunk.splitlines():
                    new = Line.read(raw)
                    if new is not None and wanted.fits(new):
                        yield new


def _latest(folder: Path, wanted: Wanted, limit: int | None) -> tuple[list[Line], int]:
    """The latest of the wanted lines, and the position at which the log ends."""
    found: deque[Line] = deque()
    end: int | None = None
    for start, path in reversed(segments(folder)):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # the keeper has just deleted it
            break
        data = data[: data.rfind(b"\n") + 1]
        end = start + len(data) if end is None else end
        for raw in reversed(data.split(b"\n")):
            if limit is not None and len(found) >= limit:
                return list(found), end
            if (line := Line.read(raw)) is not None and wanted.fits(line):
                found.appendleft(line)
        first = Line.read(data.partition(b"\n")[0])
        if wanted.since is not None and first is not None and first.time < wanted.since:
            break
    return list(found), end or 0


def _whole_lines(folder: Path, position: int) -> tuple[bytes, int]:
    """Some whole lines from ``position`` on, none at the end; and where those behind them begin."""
    parts = segments(folder)
    if not parts:
        return b"", position
    start, path = next((part for part in reversed(parts) if part[0] <= position), parts[0])
    position = max(position, start)
    try:
        with path.open("rb") as file:
            file.seek(position - start)
            data = file.read(CHUNK)
    except FileNotFoundError:
        return b"", position
    data = data[: data.rfind(b"\n") + 1]
    return data, position + len(data)


async def _chunks(folder: Path, position: int) -> AsyncGenerator[bytes, None]:
    """The log from ``position`` on, in whole lines, until its replica has ended."""
    connection = dial(folder)
    if connection is not None:
        connection.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LONGEST_LINE)
    try:
        while True:
            data, position = await asyncio.to_thread(_whole_lines, folder, position)
            if data:
                yield data
            elif connection is None or not await _has_grown(reader, writer, position):
                break
    finally:
        if connection is not None:
            writer.close()
    # What the keeper wrote last, before it hung up.
    while True:
        data, position = await asyncio.to_thread(_whole_lines, folder, position)
        if not data:
            return
        yield data


async def _has_grown(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, position: int
) -> bool:
    """Waits until the log reaches beyond ``position``; False if the replica has ended."""
    writer.write(json.dumps({"do": "tell of log", "position": position}).encode() + b"\n")
    with contextlib.suppress(OSError):
        while line := await reader.readline():
            if line == LOG_HAS_GROWN:
                return True
    return False
