"""Whether a replica is well, judged by calls of its health check."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from polyrank.errors import PolyrankError
from polyrank.reports import HealthCheck

INTERVAL_S = 15.0
# In an answer of the app, asks for a call now.
HEADER = b"x-fal-runner-health-check"

# Calls a path of the replica with a method; the status of the answer.
Call = Callable[[str, str], Awaitable[int]]


class Health:
    """What has come of a replica's health checks so far. Times are those of any one clock."""

    def __init__(
        self, check: HealthCheck, ready_at: float, *, interval_s: float = INTERVAL_S
    ) -> None:
        self._check = check
        self._interval_s = interval_s
        self._counts_from = ready_at + check.start_period_s
        self.failures = 0
        # When to call next; None waits until an answer asks for it.
        self.next_at = ready_at + interval_s if check.regularly else None

    @property
    def is_lost(self) -> bool:
        """Whether the replica has to be replaced."""
        return self.failures >= self._check.failure_threshold

    def ask(self, now: float) -> None:
        """An answer of the replica asks for a call."""
        self.next_at = now if self.next_at is None else min(now, self.next_at)

    def succeeded(self, now: float) -> None:
        """A call was answered well."""
        self.failures = 0
        self._counts_from = now
        self.next_at = now + self._interval_s if self._check.regularly else None

    def failed(self, now: float) -> None:
        """A call was not; it is called again even if it is not called regularly."""
        if now >= self._counts_from:
            self.failures += 1
        self.next_at = now + self._interval_s


class HealthWatch:
    """Calls the health check of one replica that serves, until it is lost."""

    def __init__(self, check: HealthCheck, call: Call, *, interval_s: float = INTERVAL_S) -> None:
        self._check = check
        self._call = call
        self._interval_s = interval_s
        self._health: Health | None = None
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """An answer of the replica asks for a call (``HEADER``)."""
        if self._health is not None:
            self._health.ask(time.monotonic())
            self._asked.set()

    async def run(self) -> str:
        """Returns, once the replica is to be replaced, why."""
        health = Health(self._check, time.monotonic(), interval_s=self._interval_s)
        self._health = health
        why = ""
        while not health.is_lost:
            await self._wait(health)
            try:
                async with asyncio.timeout(self._check.timeout_s):
                    status = await self._call(self._check.method, self._check.path)
                why = "" if 200 <= status < 400 else f"answered {status}"
            except TimeoutError:
                why = f"did not answer within {self._check.timeout_s:g} s"
            except (PolyrankError, OSError) as error:
                why = f"could not be called: {error}"
            (health.failed if why else health.succeeded)(time.monotonic())
        return f"its health check {self._check.path} failed {health.failures} times: it {why}"

    async def _wait(self, health: Health) -> None:
        """Waits until the next call is due."""
        while health.next_at is None or health.next_at > time.monotonic():
            self._asked.clear()
            left_s = None if health.next_at is None else health.next_at - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._asked.wait()
