"""One replica on a machine of a cluster: its files and its environment brought there, and kept.

Nothing here knows what brings the machines together; a launcher runs a ``Node`` on each.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from polyrank.deploy import bundle
from polyrank.deploy.files import BundleFile, Selection
from polyrank.scaler.environments import Built, Environments, EnvironmentSpec
from polyrank.scaler.launch.base import ReplicaSpec
from polyrank.scaler.launch.local import SOCKET, Keeping, LocalHandle, LocalLauncher
from polyrank.scaler.segments import segment_name, segments

# Without its node, a replica is soon ended: no server can find it.
LINGER_S = 5.0
CHUNK = 1 << 18


@dataclass(frozen=True)
class Package:
    """What a replica needs beside polyrank: files by their hash, and an environment.

    Without one, it is the environment of the node.
    """

    code_hash: str
    environment: EnvironmentSpec | None = None


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


class Node:
    """Starts one replica below ``folder``; bundles and environments there are shared."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._launcher: LocalLauncher
        self._replica: Path
        self._started = asyncio.Event()

    async def start(
        self,
        spec: ReplicaSpec,
        package: Package,
        fetch: Callable[[], Awaitable[bytes]],
        tell: Callable[[str], None],
    ) -> LocalHandle:
        """The replica, followed as any other. ``tell`` learns what is waited for meanwhile."""
        code = self._folder / "bundles" / package.code_hash
        if not code.is_dir():
            tell("fetching the app's files")
            data = await fetch()
            await asyncio.to_thread(bundle.unpack, io.BytesIO(data), code.parent, package.code_hash)
        python = await self._python(package.environment, code, tell)
        # A launcher wants a folder to itself.
        own = self._folder / "replicas" / spec.id
        self._launcher = LocalLauncher(own, Keeping(linger_s=LINGER_S))
        self._replica = own / spec.id
        handle = await self._launcher.start(replace(spec, folder=code, python=python))
        self._started.set()
        return handle

    async def _python(
        self, wanted: EnvironmentSpec | None, code: Path, tell: Callable[[str], None]
    ) -> str:
        if wanted is None:
            return sys.executable
        tell("building the app's environment")
        environments = Environments(self._folder / "environments")
        python = sys.executable
        async for line in environments.build(
            replace(wanted, context=code / (wanted.context or "."))
        ):
            if isinstance(line, Built):
                python = str(line.python)
        return python

    async def log(self, position: int) -> AsyncIterator[Piece]:
        """The replica's log from ``position`` on, until the replica has ended."""
        await self._started.wait()
        reader, writer = await _dial(self._replica)
        try:
            has_grown = True
            while has_grown:
                for piece in pieces(self._replica, position):
                    yield piece
                    position = piece.end
                order = {"do": "tell of log", "position": position}
                writer.write(json.dumps(order).encode() + b"\n")
                has_grown = await _has_grown(reader)
            for piece in pieces(self._replica, position):
                yield piece
        finally:
            writer.close()


async def _dial(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the keeper of a replica. The path of a socket must be short."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{fd}/{SOCKET}", limit=2**24)
    finally:
        os.close(fd)


async def _has_grown(reader: asyncio.StreamReader) -> bool:
    """Waits until the log has; false when the replica has ended."""
    while line := await reader.readline():
        kind = json.loads(line)["type"]
        if kind in ("log", "ended"):
            return bool(kind == "log")
    return False


def pieces(folder: Path, position: int) -> Iterator[Piece]:
    """What the log in ``folder`` has from ``position`` on, as far as it has been kept."""
    for start, path in segments(folder):
        offset = max(0, position - start)
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(offset)
            while data := file.read(CHUNK):
                yield Piece(start, offset, data)
                offset += len(data)


def end_of_log(folder: Path) -> int:
    """The position up to which the log in ``folder`` reaches."""
    known = segments(folder)
    return known[-1][0] + known[-1][1].stat().st_size if known else 0


def keep_piece(folder: Path, piece: Piece) -> None:
    """Adds a piece of another machine's log to the copy in ``folder``, in segments as there."""
    with (folder / segment_name(piece.segment)).open("ab") as file:
        file.write(piece.data)
    for _, path in segments(folder)[: -Keeping.log_files]:
        path.unlink(missing_ok=True)


def pack(folder: Path) -> tuple[str, bytes]:
    """Everything in a folder as a bundle: the hash and the archive."""
    files = tuple(_files(folder))
    out = io.BytesIO()
    packed = bundle.pack(Selection(folder, files), out)
    return packed.code_hash, out.getvalue()


def _files(folder: Path) -> list[BundleFile]:
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if "__pycache__" in path.parts:
            continue
        if path.is_symlink():
            found.append(BundleFile(name, path, 0, os.readlink(path)))
        elif path.is_file():
            found.append(BundleFile(name, path, path.stat().st_size))
    return found
