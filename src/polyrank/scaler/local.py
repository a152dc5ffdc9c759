"""A replica on this machine: started, kept running, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("polyrank.scaler")

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 60.0


@dataclass(frozen=True)
class ReplicaArguments:
    """What ``python -m polyrank.app.replica`` is started with.

    ``ref`` is ``FILE[::Class]``; ``options`` are those of the app's table in pyproject.toml, and
    ``module`` the dotted name of a file in a package. ``extra`` is added to the environment.
    """

    ref: str
    options: Mapping[str, Any] = field(default_factory=dict)
    module: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    device: str | None = None
    ranks: int | None = None
    verbose: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    def command(self, announce_fd: int) -> list[str]:
        """The command line."""
        command = [sys.executable, "-m", "polyrank.app.replica", self.ref]
        command += ["--host", self.host, "--port", str(self.port)]
        command += ["--announce-fd", str(announce_fd), "--parent", str(os.getpid())]
        command += ["--options", json.dumps(dict(self.options))]
        if self.module is not None:
            command += ["--module", self.module]
        if self.ranks is not None:
            command += ["--ranks", str(self.ranks)]
        if self.verbose:
            command.append("--verbose")
        return command

    def environment(self) -> dict[str, str]:
        """The environment of the process."""
        device = {} if self.device is None else {"POLYRANK_DEVICE": self.device}
        return {**os.environ, **device, **self.extra}


class LocalReplica:
    """Keeps one replica process running.

    One that was ready is started again at once: what ended it, a request say, is dealt with by
    whoever counts that request's attempts. While none gets ready, the pauses grow.

    ``on_ready`` is called with the announcement (app, host, port, routes) of each process that is
    up, ``on_gone`` when one has ended, with the reason.
    """

    def __init__(
        self,
        arguments: ReplicaArguments,
        on_ready: Callable[[dict[str, Any]], Awaitable[None]],
        on_gone: Callable[[str], Awaitable[None]],
    ) -> None:
        self._arguments = arguments
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the replica, None between two."""
        return None if self._process is None else self._process.pid

    async def keep(self) -> None:
        """Runs one process after the other until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            if await self._run_once():
                pause_s = FIRST_PAUSE_S
                continue
            log.warning("starting the replica again in %.1f s", pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, 2 * pause_s)

    async def end(self, grace_s: float) -> None:
        """Ends the process in order, or after ``grace_s`` at once."""
        if (process := self._process) is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run_once(self) -> bool:
        """One process from start to end; whether it was ever ready."""
        read_fd, write_fd = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments.command(write_fd),
                pass_fds=[write_fd],
                env=self._arguments.environment(),
            )
        finally:
            os.close(write_fd)
        was_ready = False
        try:
            if (line := await _line_of(read_fd)) is not None:
                was_ready = True
                await self._on_ready(json.loads(line))
            code = await self._process.wait()
        finally:
            if self._process.returncode is None:  # we are being cancelled
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            self._process = None
        await self._on_gone(_reason(code))
        return was_ready


async def _line_of(read_fd: int) -> bytes | None:
    """The line that comes through a pipe; None if it closes before one does."""
    reader = asyncio.StreamReader(limit=2**24)
    with os.fdopen(read_fd, "rb", 0) as pipe:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            line = await reader.readline()
        finally:
            transport.close()
    return line or None


def _reason(code: int) -> str:
    if code < 0:
        return f"the replica was ended by {signal.Signals(-code).name}"
    return f"the replica ended with exit status {code}"
