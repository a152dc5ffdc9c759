"""A replica on this machine: started, kept running, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any

from polyrank import reports

log = logging.getLogger("polyrank.scaler")

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 60.0
LONGEST_REPORT = 2**24


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

    def command(self, report_fd: int) -> list[str]:
        """The command line."""
        command = [sys.executable, "-m", "polyrank.app.replica", self.ref]
        command += ["--host", self.host, "--port", str(self.port)]
        command += ["--report-fd", str(report_fd), "--parent", str(os.getpid())]
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


@dataclass(frozen=True)
class Ended:
    """A replica process has ended. ``pause_s``: how long until the next one is started."""

    reason: str
    exit_status: int
    was_ready: bool
    pause_s: float


class LocalReplica:
    """Keeps one replica process running, and tells ``on_report`` what it reports and its end.

    One that was ready is started again at once: what ended it, a request say, is dealt with by
    whoever counts that request's attempts. While none gets ready, the pauses grow. ``output`` takes
    what the process prints; without it, our own output does.
    """

    def __init__(
        self,
        arguments: ReplicaArguments,
        on_report: Callable[[reports.Report | Ended], None],
        output: IO[str] | None = None,
    ) -> None:
        self._arguments = arguments
        self._on_report = on_report
        self._output = output
        self._process: asyncio.subprocess.Process | None = None
        self._limits = reports.Limits()
        self._is_restarting = False
        self._is_ending = False
        self._hurry = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id of the replica, None between two."""
        return None if self._process is None else self._process.pid

    async def keep(self) -> None:
        """Runs one process after the other, until ``end``."""
        failures = 0
        while not self._is_ending:
            self._is_restarting = False
            self._hurry.clear()
            code, was_ready = await self._run_once()
            failures = 0 if was_ready or self._is_restarting else failures + 1
            pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (failures - 1)) if failures else 0.0
            self._on_report(Ended(_reason(code), _exit_status(code), was_ready, pause_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()

    def add_environment(self, extra: Mapping[str, str]) -> None:
        """Variables for the processes that are started from now on."""
        self._arguments = replace(self._arguments, extra={**self._arguments.extra, **extra})

    async def restart(self) -> None:
        """Ends the process in order, for the next one to take its place at once."""
        self._is_restarting = True
        self._hurry.set()
        await self._terminate()

    async def end(self) -> None:
        """Ends the process: in order, or when the app's grace period is over. No other follows."""
        self._is_ending = True
        self._hurry.set()
        await self._terminate()

    def kill(self) -> None:
        """Ends the process now. Its ranks end with it."""
        if self._process is not None:
            _signal(self._process, signal.SIGKILL)

    async def _terminate(self) -> None:
        if (process := self._process) is None:
            return
        _signal(process, signal.SIGTERM)
        try:
            # The replica counts the grace period itself, once for requests and once for teardown.
            async with asyncio.timeout(2 * self._limits.grace_s + 5):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()

    async def _run_once(self) -> tuple[int, bool]:
        """One process from start to end: its exit code, and whether it was ever ready."""
        read_fd, write_fd = os.pipe()
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._arguments.command(write_fd),
                pass_fds=[write_fd],
                env=self._arguments.environment(),
                stdout=self._output,
                stderr=self._output,
                # A terminal's Ctrl-C is for us; we tell the replica what follows from it.
                start_new_session=True,
            )
        finally:
            os.close(write_fd)
        try:
            was_ready = await self._follow(process, read_fd)
            return await process.wait(), was_ready
        finally:
            if process.returncode is None:  # we are being cancelled
                _signal(process, signal.SIGKILL)
            self._process = None

    async def _follow(self, process: asyncio.subprocess.Process, read_fd: int) -> bool:
        """Passes the process's reports on until it ends; whether it was ever ready."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LONGEST_REPORT)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb", 0)
        )
        late: asyncio.TimerHandle | None = None
        was_ready = False
        try:
            while line := await reader.readline():
                report = reports.decode(line)
                if isinstance(report, reports.Loaded):
                    self._limits = report.limits
                    if (limit_s := report.limits.startup_timeout_s) is not None:
                        late = loop.call_later(limit_s, self._give_up, process, limit_s)
                elif isinstance(report, reports.Ready):
                    was_ready = True
                    if late is not None:
                        late.cancel()
                self._on_report(report)
        finally:
            transport.close()
            if late is not None:
                late.cancel()
        return was_ready

    def _give_up(self, process: asyncio.subprocess.Process, limit_s: float) -> None:
        log.error("the app was not ready within its startup_timeout of %g s; ending it", limit_s)
        _signal(process, signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signum)


def _exit_status(code: int) -> int:
    """As a shell has it."""
    return 128 - code if code < 0 else code


def _reason(code: int) -> str:
    if code < 0:
        return f"the replica was ended by {signal.Signals(-code).name}"
    return f"the replica ended with exit status {code}"
