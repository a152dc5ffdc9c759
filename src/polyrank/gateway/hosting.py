"""An app as the server sees it: its limits, its replica, and why a request of it waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from polyrank.errors import ReplicaUnreachable
from polyrank.gateway.upstream import Exchange, RawHeaders, Refused, Upstream
from polyrank.reports import Limits, Loading, Ready

# How much of the average the latest request's duration is.
WEIGHT = 0.2
# How long a replica may take to show that it is still there.
CHECK_S = 2.0


class ReplicaDown(ReplicaUnreachable):
    """The app did not come up, and is not up yet. Details: ``retry_after_s``."""

    code = "runner_scheduling_failure"


class HostedApp:
    """One app behind its name (``local/hello``), served by one replica at a time.

    ``slots`` counts the requests that its replica still takes. ``on_change`` is called when those
    who wait may have another reason to.
    """

    def __init__(
        self, name: str, limits: Limits, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.limits = limits
        self._on_change = on_change
        self.slots = asyncio.Semaphore(limits.multiplexing)
        self.routes: list[dict[str, Any]] = []
        self._upstream: Upstream | None = None
        self._ready = asyncio.Event()
        self._settled = asyncio.Event()  # ready, or failed
        self._failure = ""
        self._starts_at = 0.0
        self._loading = "starting replica"
        self._usual_s: float | None = None

    @property
    def state(self) -> str:
        """``ready``, ``failed`` or what the start is at."""
        if self._ready.is_set():
            return "ready"
        return "failed" if self._failure else self._loading

    @property
    def upstream(self) -> Upstream | None:
        """Where the replica answers; None while there is none."""
        return self._upstream

    def is_starting(self, limits: Limits) -> None:
        """A replica has loaded the app, perhaps with other options than the last."""
        if limits.multiplexing != self.limits.multiplexing:
            # Those who have a slot give it back to the semaphore that it came from.
            self.slots = asyncio.Semaphore(limits.multiplexing)
        self.limits = limits
        self._settled.clear()
        self._failure = ""
        self._loading = "starting replica"
        self._on_change()

    def is_loading(self, report: Loading) -> None:
        """The replica's ``setup`` says how far it is."""
        what = f": {report.what}" if report.what else ""
        self._loading = f"loading {report.fraction:.0%}{what}".replace("%", " %")
        self._on_change()

    def is_ready(self, report: Ready) -> None:
        """The replica serves."""
        self._upstream = Upstream(report.host, report.port)
        self.routes = report.routes
        self._failure = ""
        self._ready.set()
        self._settled.set()
        self._on_change()

    def is_gone(self, reason: str = "", pause_s: float = 0.0) -> None:
        """The replica has ended; with a reason if it never served."""
        self._ready.clear()
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None
        self._failure = reason
        self._starts_at = time.monotonic() + pause_s
        (self._settled.set if reason else self._settled.clear)()
        self._loading = "starting replica"
        self._on_change()

    def close(self) -> None:
        """Closes the connections to the replica."""
        if self._upstream is not None:
            self._upstream.close()

    async def ready(self) -> Upstream:
        """Waits for a replica that serves. Raises ReplicaDown if the last one failed to start."""
        while (upstream := self._upstream) is None:
            if self._failure:
                left_s = max(1.0, self._starts_at - time.monotonic())
                raise ReplicaDown(
                    f"{self.name} did not start: {self._failure}", retry_after_s=left_s
                )
            await self._settled.wait()
        return upstream

    async def wait_ready(self) -> None:
        """Waits for a replica that serves, however many starts fail."""
        await self._ready.wait()

    async def send(self, method: str, path: bytes, headers: RawHeaders, body: bytes) -> Exchange:
        """Sends a request to the replica, and waits for one to be there; see ``Upstream.send``."""
        while True:
            upstream = self._upstream or await self.ready()
            try:
                return await upstream.send(method, path, headers, body)
            except Refused:
                # Nothing was sent: the request is for the next replica.
                if self._upstream is upstream:
                    self.is_gone()

    async def check(self) -> None:
        """A connection to the replica broke off: finds out whether the replica is still there.

        A process that is killed closes its sockets one by one; without this, those who wait behind
        the one it worked for would be sent to it too.
        """
        if (upstream := self._upstream) is None:
            return
        try:
            async with asyncio.timeout(CHECK_S):
                (await upstream.send("GET", b"/health", [], b"")).release()
        except TimeoutError:
            pass  # busy, and so not gone
        except ReplicaUnreachable:
            if self._upstream is upstream:
                self.is_gone()

    @contextlib.asynccontextmanager
    async def call(
        self, method: str, path: bytes, headers: RawHeaders, body: bytes
    ) -> AsyncIterator[Exchange]:
        """``send``; what is left of the answer at the end of the block is dropped."""
        exchange = await self.send(method, path, headers, body)
        try:
            yield exchange
        finally:
            exchange.release()

    def note_duration(self, seconds: float) -> None:
        """A request of the app took this long."""
        usual_s = seconds if self._usual_s is None else self._usual_s
        self._usual_s = usual_s + WEIGHT * (seconds - usual_s)

    def reason(self, position: int) -> str:
        """Why a request with ``position`` others before it waits, for people."""
        if not self._ready.is_set():
            if self._failure:
                return f"the replica did not start: {self._failure}"
            return self._loading
        ahead = f"{position} ahead" if position else "next"
        if self._usual_s is None:
            return ahead
        rounds = position // self.limits.multiplexing + 1
        return f"{ahead}, about {max(1, round(rounds * self._usual_s))} s"
