"""One replica of one app, started again whenever it ends: what ``polyrank run`` needs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from polyrank import reports
from polyrank.scaler.launch.base import Ended, Handle, Launcher, LaunchFailed, ReplicaSpec, Waiting

log = logging.getLogger("polyrank.scaler")

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 60.0


@dataclass(frozen=True)
class Gone:
    """A replica has ended. ``pause_s``: how long until the next one is started."""

    reason: str
    exit_status: int
    was_ready: bool
    pause_s: float


class OneReplica:
    """Keeps one replica running, and tells ``on_report`` what it reports and its end.

    One that was ready is started again at once: what ended it, a request say, is dealt with by
    whoever counts that request's attempts. While none gets ready, the pauses grow.
    """

    def __init__(
        self,
        launcher: Launcher,
        spec: ReplicaSpec,
        on_report: Callable[[reports.Report | Gone], None],
    ) -> None:
        self._launcher = launcher
        self._spec = spec
        self._on_report = on_report
        self._handle: Handle | None = None
        self._is_restarting = False
        self._is_ending = False
        self._hurry = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id of the replica, None between two."""
        return None if self._handle is None else self._handle.pid

    async def keep(self) -> None:
        """Runs one replica after the other, until ``end``."""
        failures = 0
        while not self._is_ending:
            self._is_restarting = False
            self._hurry.clear()
            was_ready, ended = await self._run_once()
            failures = 0 if was_ready or self._is_restarting else failures + 1
            pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (failures - 1)) if failures else 0.0
            self._on_report(Gone(ended.reason, ended.exit_status, was_ready, pause_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()

    def add_environment(self, extra: Mapping[str, str]) -> None:
        """Variables for the replicas that are started from now on."""
        environment = {**self._spec.environment, **extra}
        self._spec = replace(self._spec, environment=environment)

    async def restart(self) -> None:
        """Ends the replica in order, for the next one to take its place at once."""
        self._is_restarting = True
        self._hurry.set()
        if self._handle is not None:
            await self._handle.terminate()

    async def end(self) -> None:
        """Ends the replica: in order, or when its grace period is over. No other follows."""
        self._is_ending = True
        self._hurry.set()
        if self._handle is not None:
            await self._handle.terminate()

    def kill(self) -> None:
        """Ends the replica now. Its ranks end with it."""
        if self._handle is not None:
            self._handle.kill()

    async def _run_once(self) -> tuple[bool, Ended]:
        """One replica from start to end: whether it was ever ready, and how it ended."""
        was_ready = False
        try:
            handle = await self._launcher.start(replace(self._spec, id=os.urandom(6).hex()))
        except LaunchFailed as error:
            log.error("%s", error)
            return False, Ended(error.message, 1)
        self._handle = handle
        if self._is_ending:
            handle.kill()
        try:
            async for report in handle.follow():
                if isinstance(report, Ended):
                    return was_ready, report
                if isinstance(report, Waiting):
                    continue
                was_ready = was_ready or isinstance(report, reports.Ready)
                self._on_report(report)
        finally:
            self._handle = None
        return was_ready, Ended("it was let go", 0)
