"""One replica on a machine of a cluster: its files and its environment brought there, and kept.

Nothing here knows what brings the machines together; a launcher runs a ``Node`` on each.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from polyrank.deploy import bundle
from polyrank.deploy.files import BundleFile, Selection
from polyrank.errors import PolyrankError
from polyrank.scaler.environments import Built, Environments, EnvironmentSpec
from polyrank.scaler.launch.base import ReplicaSpec
from polyrank.scaler.launch.local import LONGEST_LINE, Keeping, LocalHandle, LocalLauncher, dial
from polyrank.scaler.mirror import Piece, pieces
from polyrank.scaler.uses import Uses

log = logging.getLogger("polyrank.scaler")

# Without its node, a replica is soon ended: no server can find it.
LINGER_S = 5.0


@dataclass(frozen=True)
class Package:
    """What a replica needs beside polyrank: files by their hash, and an environment.

    Without one, it is the environment of the node.
    """

    code_hash: str
    environment: EnvironmentSpec | None = None


class Node:
    """Starts one replica below ``folder``; bundles and environments there are shared."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bundles = folder / "bundles"
        self._environments = Environments(folder / "environments")
        self._uses = Uses(folder / "uses")
        self._id = ""
        self._sweeping: asyncio.Task[None] | None = None
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
        self._id, code_hash = spec.id, package.code_hash
        code = self._bundles / code_hash
        async with self._uses.changes():
            self._uses.note(spec.id, code_hash)
        if not code.is_dir():
            tell("fetching the app's files")
            data = await fetch()
            await asyncio.to_thread(bundle.unpack, io.BytesIO(data), code.parent, code_hash)
        python = sys.executable
        if package.environment is not None:
            built = await self._build(package.environment, code, tell)
            python = str(built.python)
            async with self._uses.changes():
                self._uses.note(spec.id, code_hash, built.key)
        # A launcher wants a folder to itself.
        own = self._folder / "replicas" / spec.id
        self._launcher = LocalLauncher(own, Keeping(linger_s=LINGER_S))
        self._replica = own / spec.id
        handle = await self._launcher.start(replace(spec, folder=code, python=python))
        self._started.set()
        self._sweeping = asyncio.create_task(self._sweep(), name="node-sweep")
        return handle

    async def _build(
        self, wanted: EnvironmentSpec, code: Path, tell: Callable[[str], None]
    ) -> Built:
        tell("building the app's environment")
        wanted = replace(wanted, context=code / (wanted.context or "."))
        async with contextlib.aclosing(self._environments.build(wanted)) as steps:
            async for step in steps:
                if isinstance(step, Built):
                    return step
        raise AssertionError("a build ends with what it has built")

    async def log(self, position: int) -> AsyncIterator[Piece]:
        """The replica's log from ``position`` on, until the replica has ended."""
        await self._started.wait()
        connection = dial(self._replica)
        if connection is not None:
            connection.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LONGEST_LINE)
            with contextlib.closing(writer):
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

    async def leave(self) -> None:
        """Deletes what the replica has left; files and environments stay for the next one."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        self._uses.forget(self._id)
        if self._started.is_set():
            await asyncio.to_thread(shutil.rmtree, self._replica.parent, ignore_errors=True)

    async def _sweep(self) -> None:
        """Deletes what no replica of this machine uses: files that are an hour old, environments
        but for the last few, and what replicas have left whose node was lost."""
        try:
            async with self._uses.changes():
                uses = self._uses.all()
                names = set().union(*uses.values())
                await asyncio.to_thread(bundle.sweep, self._bundles, names)
                await self._environments.sweep(names)
                for folder in (self._folder / "replicas").glob("*"):
                    if folder.name not in uses:
                        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        except (OSError, PolyrankError) as error:
            log.warning("what is not used in %s could not be removed: %s", self._folder, error)


async def _has_grown(reader: asyncio.StreamReader) -> bool:
    """Waits until the log has; false when the replica has ended."""
    while line := await reader.readline():
        kind = json.loads(line)["type"]
        if kind in ("log", "ended"):
            return bool(kind == "log")
    return False


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
